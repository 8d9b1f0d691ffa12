"""The weights of a Llama as a Qwen2 (whose biases are 0 then), which computes the same: for exports of that shape.

python benchmarks/export_as_qwen.py RUN_FOLDER OUT_FOLDER
"""

import sys
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from posttrain.data.template import stop_token_ids
from posttrain.models.load import Policy, load, save


def main(source: str, out: str) -> None:
    policy = load(source)
    shape = {key: value for key, value in policy.model.config.to_dict().items() if key not in ("model_type", "dtype")}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen2", **shape))
    own = policy.model.state_dict()
    model.load_state_dict({key: own.get(key, torch.zeros_like(value)) for key, value in model.state_dict().items()})
    ids = torch.tensor([[5, 6, 7, 8]])
    print("largest difference of logits:", float((model(ids).logits - policy.model(ids).logits).abs().max()))
    save(Policy(model, policy.tokenizer, out), Path(out), stop_token_ids=stop_token_ids(policy.tokenizer))


if __name__ == "__main__":
    main(*sys.argv[1:])
