"""The matrix product peak of this machine in GFLOP/s, two threads: `python benchmarks/matmul.py`."""

import json
import time

import torch

SIZE, THREADS = 2048, 2


def peak(dtype: torch.dtype, *, size: int = SIZE, repeats: int = 40) -> float:
    """GFLOP/s of a square product, the best of `repeats`: other work on the machine only ever slows it."""
    left, right = (torch.randn(size, size).to(dtype) for _ in range(2))
    out = torch.empty_like(left)
    times = []
    for _ in range(repeats + 3):
        began = time.perf_counter()
        torch.mm(left, right, out=out)
        times.append(time.perf_counter() - began)
    return 2 * size**3 / min(times[3:]) / 1e9


if __name__ == "__main__":
    torch.set_num_threads(THREADS)
    print(json.dumps({"fp32": peak(torch.float32), "bf16": peak(torch.bfloat16)}))
