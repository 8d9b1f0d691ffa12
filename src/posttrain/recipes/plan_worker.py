"""One training verb in a process of its own, measured: `python -m posttrain.recipes.plan_worker REQUEST.json`.

The request names the verb, its settings and where the answer goes. Memory is what the process holds at its fullest over
what it held once the libraries were there; on a GPU it is the most that torch ever held of it.
"""

import gc
import json
import sys
from itertools import pairwise
from pathlib import Path
from pkgutil import resolve_name
from statistics import median
from typing import Any

from posttrain import allocator
from posttrain.verbs import VERBS


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Bytes at the fullest and seconds a step of a short run; the first step, which warms up, is not counted."""
    allocator.tune()
    config = resolve_name(VERBS[request["verb"]][0]).model_validate(request["settings"])
    run = resolve_name(VERBS[request["verb"]][1])
    import torch

    if request.get("threads"):
        torch.set_num_threads(request["threads"])
    torch.ones(64, 64, requires_grad=True).square().sum().backward()  # what the first use of torch takes
    gc.collect()
    before = _status("VmRSS")
    _forget_peak()
    code = run(config) or 0
    if code:
        raise SystemExit(code)
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else _status("VmHWM") - before
    return {"memory": peak, "libraries": before} | _speed(Path(config.output_dir))


def _speed(folder: Path) -> dict[str, Any]:
    """Seconds and positions of the steps after the first, from the run's own log."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if "elapsed_s" in line]
    ends = [line["elapsed_s"] for line in lines]
    steps = [after - before for before, after in pairwise(ends)]
    told: dict[str, Any] = {"steps_s": steps, "step_s": median(steps) if steps else None}
    for name in ("rollout_s", "train_s", "length"):
        found = [line[name] for line in lines[1:] if name in line]
        if found:
            told[name] = median(found)
    return told


def _status(name: str) -> int:
    """A figure of Linux's account of this process, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"error: /proc/self/status has no {name}")


def _forget_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:  # a container may forbid it; the peak of loading libraries is lower than that of training
        return


if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(asked["result"]).write_text(json.dumps(measure(asked)), encoding="utf-8")
