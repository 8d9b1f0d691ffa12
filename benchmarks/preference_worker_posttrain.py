"""One measured training run of `posttrain dpo`, `kto`, `orpo` or `reward`: the command as its users start it, and
beside it the time that the pass of the reference took.

    python preference_worker_posttrain.py SECONDS.json VERB --key value ...
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import sft_worker_posttrain
from posttrain import allocator, cli


def command(python: str, *, verb: str, model: Path, data: Path, out: Path, seed: int, accumulation: int) -> list[str]:
    """The command line, which trains for one epoch. Previews and checkpoints are not training, so they are left out."""
    flags = {
        "model": model,
        "dataset": data,
        "output-dir": out,
        "gradient-accumulation-steps": accumulation,
        "seed": seed,
        "logging-steps": 1,
        "save-steps": 0,
        "num-preview-samples": 0,
    }
    words = [python, str(Path(__file__)), str(_beside(out)), verb, "--bf16"]
    return words + [word for key, value in flags.items() for word in (f"--{key}", str(value))]


def read(folder: Path, *, verb: str, warmup: int) -> dict[str, Any]:
    """Useful tokens and seconds of the steps after the first `warmup`, with their share of the reference pass.

    A prompt stands once in the batch and counts once for each of its two answers, as where it is computed twice: that
    is twice the tokens of the batch less those of the answers. KTO's answers each have a prompt of their own.
    """
    found = sft_worker_posttrain.read(folder, warmup=warmup)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    total = record["result"]["tokens"]
    answers = record["result"]["trained_tokens"]
    timed_answers = answers - lines[warmup - 1]["trained_tokens"]
    whole = total if verb == "kto" else 2 * total - answers
    timed = found["tokens"] if verb == "kto" else 2 * found["tokens"] - timed_answers
    asked = json.loads(_beside(folder).read_text(encoding="utf-8")) * timed / whole
    found["settings"] |= {key: record["config"][key] for key in ("gradient_accumulation_steps",)}
    return found | {
        "tokens": timed,
        "seconds": found["seconds"] + asked,
        "reference_seconds": asked,
        "prompt_share": 1 - answers / whole,
        "samples_per_step": record["inputs"][0]["samples"] / len(lines),
    }


def _beside(folder: Path) -> Path:
    return folder.parent / f"{folder.name}.reference.json"


def main() -> int:
    allocator.tune()  # before torch, as the command does; it may start this process once more
    from posttrain.recipes import preference

    inner, seconds = preference.with_reference, [0.0]

    def timed(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        found = inner(*args, **kwargs)
        seconds[0] += time.perf_counter() - began
        return found

    preference.with_reference = timed
    status = cli.main(sys.argv[2:])
    Path(sys.argv[1]).write_text(json.dumps(seconds[0]), encoding="utf-8")
    return status


if __name__ == "__main__":
    sys.exit(main())
