"""Strong scaling on the pocket base: the same steps in one process and in two, against the ideal that the cores allow.

    python benchmarks/scaling.py

Each process has one thread, so two of them on two cores could be twice as fast; beside them one process with two
threads, which two processes could equal. The step's rows stay the same. Each kind runs `--repeats` times, in turns; the
figure is the best median step. Written to benchmarks/results/scaling.json.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results") / "scaling.json"
# name: processes, threads of each, strategy
KINDS: dict[str, tuple[int, int, str]] = {
    "one process, one thread": (1, 1, "ddp"),
    "one process, two threads": (1, 2, "ddp"),
    "two processes, ddp": (2, 1, "ddp"),
    "two processes, fsdp": (2, 1, "fsdp"),
}


def step_s(kind: tuple[int, int, str], steps: int, out: Path) -> float:
    """Median seconds of a step, without the first three."""
    world, threads, strategy = kind
    keys: dict[str, Any] = {"dataset": "pocket", "max_length": 512, "max_steps": steps, "logging_steps": 1}
    keys |= {"bf16": "false", "save_steps": 0, "num_preview_samples": 0, "output_dir": out, "strategy": strategy}
    keys |= {"gradient_accumulation_steps": 8 // world, "overwrite_output_dir": "true"}
    command = [sys.executable]
    if world > 1:
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)]
    words = ["-m", "posttrain", "sft"]
    words += [word for key, value in keys.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    variables = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run([*command, *words], capture_output=True, text=True, env=variables, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    ends = [line["elapsed_s"] for line in lines if "loss" in line]
    return statistics.median(after - before for before, after in itertools.pairwise(ends[2:]))


def main() -> int:
    from process import hardware

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=2)
    chosen = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in KINDS}
    with tempfile.TemporaryDirectory() as place:
        for _ in range(chosen.repeats):
            for name, kind in KINDS.items():
                times[name].append(step_s(kind, chosen.steps, Path(place) / "run"))
    best = {name: min(values) for name, values in times.items()}
    alone = best["one process, one thread"]
    found = {name: {"step_s": round(s, 4), "speed-up": round(alone / s, 2)} for name, s in best.items()}
    for name, row in found.items():
        print(f"{name:28} {row['step_s']:8.3f} s   x{row['speed-up']:.2f}", flush=True)
    if (chosen.steps, chosen.repeats) == (10, 2):
        RESULTS.write_text(json.dumps({"found": found, "hardware": hardware()}, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
