"""Modules, weights, attention. Doors: `load.load`, `load.save`, `logprobs.token_logps`."""

import logging

# transformers and peft import these where they are installed, wanted or not, and they tell of kernels that they lack.
for _name in ("torchao", "bitsandbytes", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)
