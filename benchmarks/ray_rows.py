"""Rows a second of `posttrain sample` over Ray workers of this machine, beside the same work in one process.

Every way runs the whole command in a process of its own, which pays its start; what the start costs is taken from a
second run with a few prompts: rows a second are those of the rest. The files of all ways must be the same.
`python benchmarks/ray_rows.py [--prompts 256] [--output benchmarks/results/ray_rows.json]`
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

FEW = 8
THREADS = "1"  # of each worker, and of the one process: what Ray gives a worker of one core
WAYS = {
    "one process": [],
    "Ray, 1 worker": ["--ray", "local", "--num-workers", "1"],
    "Ray, 2 workers": ["--ray", "local", "--num-workers", "2"],
}


def main() -> None:
    """Run all ways in turn, `repeats` times, and write what came of it."""
    from process import hardware, must_be_unchanged, source_hash

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--prompts", type=int, default=256, help="prompts of the long run")
    parser.add_argument("--num-samples", type=int, default=4)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("results") / "ray_rows.json")
    given = parser.parse_args()
    before, runs = source_hash(), list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(given.repeats):
            for way in WAYS:
                for count in (FEW, given.prompts):
                    runs.append(
                        {"way": way, "repeat": repeat, "prompts": count, **timed(way, count, given, Path(folder))}
                    )
                    print(f"{way}: {count:,} prompts in {runs[-1]['wall_s']:.1f} s", flush=True)
        files = [(run["prompts"], Path(run.pop("file"))) for run in runs]
        same = len({file.read_bytes() for count, file in files if count == given.prompts}) == 1
    must_be_unchanged(before)
    figures = {way: figure([run for run in runs if run["way"] == way], given) for way in WAYS}
    alone = figures["one process"]["answers_per_s"]
    for one in figures.values():
        one["against_one_process"] = round(one["answers_per_s"] / alone, 2)
    told = {
        "command": " ".join(["python", "benchmarks/ray_rows.py", *sys.argv[1:]]),
        "settings": {"num_samples": given.num_samples, "max_new_tokens": given.max_new_tokens, "model": "pocket"},
        "hardware": hardware() | {"threads_used": int(THREADS)},
        "same_file": same,
        "figures": figures,
        "runs": runs,
    }
    given.output.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({"same_file": same, **figures}, indent=1))
    if not same:
        raise SystemExit("error: the ways wrote different files")


def timed(way: str, count: int, given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Seconds of one command from its start to its end, and the file that it wrote."""
    file = folder / f"{len(list(folder.iterdir()))}.jsonl"
    words = [sys.executable, "-m", "posttrain.cli", "sample", "--dataset", "pocket", "--max-samples", str(count)]
    words += ["--num-samples", str(given.num_samples), "--max-new-tokens", str(given.max_new_tokens)]
    words += ["--output", str(file), *WAYS[way]]
    start = time.perf_counter()
    env = {**os.environ, "OMP_NUM_THREADS": THREADS}
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"error: {way}: {done.stderr[-2000:]}")
    return {"wall_s": round(time.perf_counter() - start, 2), "file": str(file)}


def figure(runs: list[dict[str, Any]], given: argparse.Namespace) -> dict[str, float]:
    """Medians: seconds before the first of many rows, and answers a second from there on."""
    walls = {
        count: statistics.median(run["wall_s"] for run in runs if run["prompts"] == count)
        for count in (FEW, given.prompts)
    }
    rest = max(walls[given.prompts] - walls[FEW], 1e-9)
    rate = (given.prompts - FEW) * given.num_samples / rest
    return {"start_s": round(walls[FEW] - FEW * given.num_samples / rate, 2), "answers_per_s": round(rate, 2)}


if __name__ == "__main__":
    main()
