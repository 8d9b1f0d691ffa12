"""Sampling one iteration ahead beside sampling and learning in turn: a trainer and a sampling server as two processes,
one core each, on the embedded base. Prints seconds per iteration and their ratio.

    python benchmarks/ahead.py [--steps 12] [--repeats 3] [--sampler http://HOST:PORT/v1 --model FOLDER]

Without --sampler the server is the tests' own (tests/vllm_server.py). docs/vllm.md says what is measured.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
REWARD = "def vowels(rollout):\n    return sum(letter in 'aeiou' for letter in rollout.text) / 40\n"
WAYS = {"in_turn": 0, "ahead": 1}
SKIPPED = 2  # iterations at the start: nothing was begun before the first, and caches fill


def stub_module() -> Any:
    """tests/vllm_stub.py."""
    spec = importlib.util.spec_from_file_location("vllm_stub", HERE.parent / "tests" / "vllm_stub.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(model: str, url: str, staleness: int, steps: int, place: Path) -> dict[str, float]:
    """One run of `posttrain grpo`: medians over its iterations."""
    (place / "reward.py").write_text(REWARD)
    out = place / f"run-{staleness}"
    words = ["grpo", "--model", model, "--chat-template", "raw", "--dataset", "pocket", "--use-peft"]
    words += ["--reward", f"{place / 'reward.py'}:vowels", "--allow-truncated", "--no-dynamic-sampling", "--no-bf16"]
    words += ["--num-prompts", "8", "--num-generations", "8", "--max-completion-length", "48", "--sampler-slots", "64"]
    words += ["--sampler-dtype", "float32", "--learning-rate", "1e-5", "--max-prompt-length", "100"]
    words += ["--max-steps", str(steps), "--sampler", url, "--max-staleness", str(staleness)]
    words += ["--output-dir", str(out), "--overwrite-output-dir"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "POSTTRAIN_ALLOCATOR": "system"}
    subprocess.run([sys.executable, "-m", "posttrain.cli", *words], env=env, check=True, stdout=subprocess.DEVNULL)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "rollout_s" in line]
    ends = [line["elapsed_s"] for line in lines]
    rest = lines[SKIPPED:]
    found = {"iteration_s": statistics.median(b - a for a, b in zip(ends[SKIPPED - 1 :], ends[SKIPPED:], strict=False))}
    for name in ("rollout_s", "train_s", "hand_over_s", "ahead_wait_s", "mismatch_kl", "version_lag", "reward"):
        values = [line[name] for line in rest if name in line]
        if values:
            found[name] = statistics.median(values)
    return found


def main() -> None:
    from process import hardware

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sampler")
    parser.add_argument("--model")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "ahead.json")
    given = parser.parse_args()
    from posttrain.pocket.base import base_folder

    model = given.model or str(base_folder())
    nursery = None if given.sampler else stub_module().Nursery()
    url = given.sampler or nursery.start(Path(model)).url
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    try:
        with tempfile.TemporaryDirectory() as place:
            for _ in range(given.repeats):  # in turns, so that what else the machine does meets both
                for way, staleness in WAYS.items():
                    runs[way].append(run(model, url, staleness, given.steps, Path(place)))
                    print(way, {name: round(value, 4) for name, value in runs[way][-1].items()}, flush=True)
    finally:
        if nursery is not None:
            nursery.close()
    seconds = {way: statistics.median(each["iteration_s"] for each in runs[way]) for way in WAYS}
    parts = {name: statistics.median(each[name] for each in runs["in_turn"]) for name in ("rollout_s", "hand_over_s")}
    rest = seconds["in_turn"] - parts["rollout_s"] - parts["hand_over_s"]
    ideal = seconds["in_turn"] / (parts["hand_over_s"] + max(parts["rollout_s"], rest))
    ratio = seconds["in_turn"] / seconds["ahead"]
    print(f"in turn {seconds['in_turn']:.2f} s an iteration, ahead {seconds['ahead']:.2f} s: {ratio:.2f}x")
    print(
        f"rollouts take {parts['rollout_s']:.2f} s, all but them and the hand-over {rest:.2f} s: {ideal:.2f}x at best"
    )
    record = {
        "command": "python benchmarks/ahead.py",
        "hardware": hardware(),
        "server": "real" if given.sampler else "stub",
        "runs": runs,
    }
    record |= {"seconds": seconds, "ratio": ratio, "ideal_ratio": ideal, "steps": given.steps}
    given.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
