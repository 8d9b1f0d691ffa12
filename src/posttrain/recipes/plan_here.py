"""This machine as `planning` sees it: its GPU, or its processor, whose speed is measured in a second."""

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from posttrain.errors import ConfigError
from posttrain.models.precision import has_fast_bf16
from posttrain.planning.hardware import DEVICES, GIB, Device, Hardware, cpu, described
from posttrain.planning.shapes import Shape

TRIES = 5


def this_machine(shape: Shape, *, tokens: int, given: dict[str, float | None], processes: int) -> Hardware:
    """The hardware that a recipe would run on here."""
    if torch.cuda.is_available():
        return Hardware(_gpu(given), processes, _available() / processes)
    cores = torch.get_num_threads()
    rates = {dtype: _products(shape, min(tokens, 2048), dtype) for dtype in (torch.float32, torch.bfloat16)}
    found = cpu(
        cores=cores,
        memory=_available() / processes,
        bf16=rates[torch.bfloat16] / processes,
        fp32=rates[torch.float32] / processes,
        bandwidth=_bandwidth() / processes,
    )
    return Hardware(described(found, **given), processes)


def fast_bf16_here() -> bool:
    """Whether training computes in bfloat16 here where a recipe leaves it open."""
    return has_fast_bf16(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def _gpu(given: dict[str, float | None]) -> Device:
    found = torch.cuda.get_device_properties(0)
    name = found.name.upper().replace(" ", "")
    kin = [device for key, device in DEVICES.items() if key.split("-")[0] in name]
    known = [device for device in kin if abs(device.memory / found.total_memory - 1) < 0.2]
    if not known and not (given["tflops"] and given["bandwidth_gbs"]):
        raise ConfigError(
            f"hardware here is {found.name}, which is not in the table: say its tflops (dense, bf16) and bandwidth_gbs."
        )
    start = known[0] if known else DEVICES["H100-80G"]
    return described(start, **({"memory_gb": found.total_memory / GIB} | {k: v for k, v in given.items() if v}))


def _available() -> int:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise ConfigError("hardware here: this system does not say how much memory is free; give memory_gb.")


def _products(shape: Shape, tokens: int, dtype: torch.dtype) -> float:
    """Operations a second of the products of this model's layers, forward and backward, at this row length."""
    done, seconds = 0.0, 0.0
    for each in {(m.size_in, m.size_out) for m in shape.maps}:
        x = torch.randn(tokens, each[0]).to(dtype)
        w = torch.randn(each[1], each[0]).to(dtype)
        g = torch.randn(tokens, each[1]).to(dtype)

        def products(x: Any = x, w: Any = w, g: Any = g) -> None:
            torch.nn.functional.linear(x, w)
            g @ w
            g.t() @ x

        count = sum((m.size_in, m.size_out) == each for m in shape.maps)
        done += count * 6 * tokens * each[0] * each[1]
        seconds += count * _seconds(products)
    return done / seconds


def _bandwidth() -> float:
    """Bytes a second that an elementwise operation reads and writes."""
    x, y = torch.randn(1 << 23), torch.randn(1 << 23)
    out = torch.empty_like(x)
    return 3 * 4 * x.numel() / _seconds(lambda: torch.add(x, y, out=out))


def _seconds(work: Callable[[], Any]) -> float:
    work()
    times = []
    for _ in range(TRIES):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return median(times)
