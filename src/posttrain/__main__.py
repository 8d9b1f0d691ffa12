"""`python -m posttrain` is `posttrain`: what torchrun and its like start by a module's name."""

import os
import sys

from posttrain.cli import main

# What torch's C++ half has to tell of lost connections, before torch is loaded: one sentence of ours says it.
if "WORLD_SIZE" in os.environ:
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

if __name__ == "__main__":
    sys.exit(main())
