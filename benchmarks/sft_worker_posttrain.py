"""One measured training run of `posttrain sft`, started as its users start it and read from what it writes."""

import json
from pathlib import Path
from typing import Any


def command(
    python: str, *, model: Path, data: Path, out: Path, steps: int, seed: int, bf16: bool, lora: bool
) -> list[str]:
    """The command line. Previews and the final checkpoint are not training, so they are left out."""
    flags = {
        "model": model,
        "dataset": data,
        "output-dir": out,
        "max-steps": steps,
        "max-length": 1024,
        "learning-rate": 1e-4,
        "lr-scheduler-type": "constant",
        "warmup-ratio": 0,
        "seed": seed,
        "logging-steps": 1,
        "save-steps": 0,
        "num-preview-samples": 0,
    }
    words = [python, "-m", "posttrain.cli", "sft", "--bf16" if bf16 else "--no-bf16"]
    words += ["--use-peft", "--lora-r", "16", "--lora-alpha", "32"] if lora else []
    return words + [word for key, value in flags.items() for word in (f"--{key}", str(value))]


def read(folder: Path, *, warmup: int) -> dict[str, Any]:
    """Seconds and tokens of the steps after the first `warmup`, from metrics.jsonl and run.json.

    A metrics line has the speed of its step and the time since the start. The run's total is exact; what the first
    steps took of it is their speed times their time.
    """
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    ends = [line["elapsed_s"] for line in lines]
    starts = [0.0, *ends]
    early = sum(lines[i]["tokens_per_s"] * (ends[i] - starts[i]) for i in range(warmup))
    return {
        "seconds": ends[-1] - ends[warmup - 1],
        "tokens": record["result"]["tokens"] - round(early),
        "steps": len(lines) - warmup,
        "settings": {key: record["config"][key] for key in ("packing", "per_device_train_batch_size", "bf16")}
        | {"threads": record["hardware"]["threads"]},
        "versions": record["versions"],
    }
