"""Started by torchrun in each process: one command line after the other, each a run of its own over all processes."""

import json
import sys
from pathlib import Path

import torch

from posttrain.cli import main
from posttrain.train import distributed

if __name__ == "__main__":
    torch.set_num_threads(1)
    distributed.start(60)  # one group for all runs: a store forgets nothing of the group before
    for arguments in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        code = main(arguments)
        print(f"{arguments[0]} ended with {code}", flush=True)
        if code:
            sys.exit(code)
    distributed.stop()
