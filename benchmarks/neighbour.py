"""Two threads of torch beside another busy program, with waiting threads that sleep soon and with GNU's own patience.

    python benchmarks/neighbour.py          (about 13 minutes)

`train` is `posttrain sft` and `sample` the rollouts of `posttrain grpo`, both on the embedded model with two threads,
in tokens a second; beside nothing, and beside one process that never rests. `soon` is how the command sets itself up
(posttrain/openmp.py); `patient` is GOMP_SPINCOUNT=300000, what the library does where nobody says otherwise. The two
take turns; medians.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from process import clean_environment, hardware, must_be_unchanged, run_measured, source_hash

HERE = Path(__file__).parent
PATIENCE = {"soon": {}, "patient": {"GOMP_SPINCOUNT": "300000"}}
COMMON = ["--dataset", "pocket", "--save-steps", "0", "--logging-steps", "1"]
WORK = {
    "train": (["sft", "--max-steps", "20"], "tokens_per_s"),
    "sample": (
        ["grpo", "--reward", "length:20-60", "--max-steps", "2", "--num-prompts", "4", "--max-completion-length", "32"],
        "rollout_tokens_per_s",
    ),
}


def measure(place: Path, work: str, env: dict[str, str]) -> float:
    """Tokens a second; the first step warms up."""
    words, name = WORK[work]
    shutil.rmtree(place / "run", ignore_errors=True)
    command = [sys.executable, "-m", "posttrain", *words, *COMMON, "--output-dir", str(place / "run")]
    run_measured(command, env=clean_environment(env), log=place / "log")
    lines = [json.loads(line) for line in (place / "run" / "metrics.jsonl").read_text().splitlines()]
    return statistics.median(line[name] for line in lines[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3, help="Runs of each; the median is reported.")
    asked = parser.parse_args()
    before, rows = source_hash(), []
    with tempfile.TemporaryDirectory() as made:
        for work in WORK:
            for beside in (0, 1):
                busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(beside)]
                try:
                    runs = [{name: measure(Path(made), work, env) for name, env in PATIENCE.items()}
                            for _ in range(asked.repeat)]  # fmt: skip
                finally:
                    for process in busy:
                        process.kill()
                        process.wait()
                row: dict[str, Any] = {"work": work, "busy_neighbours": beside}
                row |= {name: round(statistics.median(run[name] for run in runs), 1) for name in PATIENCE}
                rows.append(row | {"ratio": round(row["soon"] / row["patient"], 3)})
                print(rows[-1], flush=True)
    must_be_unchanged(before)
    found = {"command": "python benchmarks/neighbour.py", "hardware": hardware(), "tokens_per_s": rows}
    (HERE / "results" / "neighbour.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
