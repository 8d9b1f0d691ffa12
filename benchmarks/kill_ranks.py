"""Kill one of two processes in the middle of training, and compare with a run that was left alone, bit for bit.

    python benchmarks/kill_ranks.py [--steps 24]

`posttrain sft --launcher torchrun --num-processes 2 --max-restarts 2` with DDP and with FSDP2: rank 0 or rank 1 gets
SIGKILL once before the first checkpoint and once after it, from outside, as soon as metrics.jsonl has a certain line.
Then weights and every metric but times and memory must be those of the quiet run, no line twice; and a run without
restarts must end with one sentence that names the process and the signal.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TIMES = ("tokens_per_s", "memory_mb", "elapsed_s")
SAVE_STEPS = 6


def command(assets: Path, out: Path, strategy: str, steps: int, restarts: int) -> list[str]:
    flags = {
        "model": assets / "mini",
        "dataset": assets / "rows.jsonl",
        "output-dir": out,
        "max-steps": steps,
        "max-length": 256,
        "learning-rate": 1e-3,
        "logging-steps": 1,
        "save-steps": SAVE_STEPS,
        "num-preview-samples": 0,
        "strategy": strategy,
        "launcher": "torchrun",
        "num-processes": 2,
        "max-restarts": restarts,
        "ddp-timeout": 120,
    }
    words = [word for key, value in flags.items() for word in (f"--{key}", str(value))]
    return [sys.executable, "-m", "posttrain", "sft", *words]


def lines(out: Path) -> list[dict[str, Any]]:
    path = out / "metrics.jsonl"
    whole = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    return [{key: value for key, value in json.loads(line).items() if key not in TIMES} for line in whole]


def process_of(launcher: subprocess.Popen[str], rank: int) -> Any:
    """The process of a rank among the children of its launcher; None while there is none."""
    import psutil

    for child in psutil.Process(launcher.pid).children():
        try:
            if child.environ().get("RANK") == str(rank):
                return child
        except psutil.Error:
            continue
    return None


def run(words: list[str], out: Path, kills: list[tuple[int, int]], env: dict[str, str]) -> tuple[int, str]:
    """Kill (rank, step) one after the other; the exit code, and what was said on stderr."""
    with (out.with_suffix(".err")).open("w+") as errors:
        launcher = subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=errors, text=True)
        killed: set[int] = set()
        for rank, step in kills:
            while launcher.poll() is None:
                found, process = lines(out), process_of(launcher, rank)
                if process is not None and process.pid not in killed and found and found[-1]["step"] >= step:
                    process.kill()
                    killed.add(process.pid)
                    break
                time.sleep(0.002)
        launcher.wait()
        errors.seek(0)
        return launcher.returncode, errors.read()


def same_weights(one: Path, other: Path) -> bool:
    return (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


def compare(
    work: Path, steps: int, strategies: list[str], ranks: list[int], env: dict[str, str]
) -> list[dict[str, Any]]:
    assets, runs = work / "assets", []
    for strategy in strategies:
        quiet = work / f"quiet-{strategy}"
        code, said = run(command(assets, quiet, strategy, steps, 0), quiet, [], env)
        if code:
            raise SystemExit(f"error: the quiet run ended with {code}: {said[-2000:]}")
        for rank in ranks:
            out = work / f"killed-{strategy}-{rank}"
            kills = [(rank, 2), (rank, steps // 2)]
            code, said = run(command(assets, out, strategy, steps, 2), out, kills, env)
            num_deaths = said.count("was ended by signal 9")
            found = {"strategy": strategy, "rank": rank, "code": code, "kills": num_deaths}
            found["same_weights"] = code == 0 and same_weights(quiet, out)
            found["same_metrics"] = lines(quiet) == lines(out)
            ended = work / f"ended-{strategy}-{rank}"
            code, said = run(command(assets, ended, strategy, steps, 0), ended, [(rank, steps // 2)], env)
            found["without_restarts"] = {"code": code, "lines_said": said.count("\n"), "said": said[:90]}
            runs.append(found)
            print(json.dumps(found), flush=True)
    return runs


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--strategies", nargs="+", default=["ddp", "fsdp"])
    parser.add_argument("--ranks", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--output", type=Path, default=HERE / "results" / "kill_ranks.json")
    return parser.parse_args()


def main() -> int:
    from process import clean_environment, hardware, must_be_unchanged, source_hash

    args, source = parse(), source_hash()
    env = clean_environment({"OMP_NUM_THREADS": "1", "POSTTRAIN_ALLOCATOR": "system"})
    with tempfile.TemporaryDirectory(prefix="posttrain-kill-ranks-") as folder:
        words = [sys.executable, str(HERE / "assets.py"), str(Path(folder) / "assets"), "--models", "mini"]
        words += ["--rows", "600", "--median-words", "25", "--max-words", "60"]
        subprocess.run(words, check=True, capture_output=True, env=env)
        runs = compare(Path(folder), args.steps, args.strategies, args.ranks, env)
    must_be_unchanged(source)
    good = all(
        each["code"] == 0 and each["kills"] == 2 and each["same_weights"] and each["same_metrics"]
        and each["without_restarts"]["code"] == 2 and each["without_restarts"]["lines_said"] == 1
        for each in runs
    )  # fmt: skip
    result = {
        "name": "kill_ranks",
        "command": f"python benchmarks/kill_ranks.py --steps {args.steps} --strategies {' '.join(args.strategies)}",
        "hardware": hardware(),
        "versions": {name: version(name) for name in ("posttrain", "torch", "transformers")},
        "figures": {"all_as_left_alone": good, "steps": args.steps, "save_steps": SAVE_STEPS, "runs": runs},
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"{len(runs)} runs: {'as if left alone' if good else 'NOT AS IF LEFT ALONE'}; wrote {args.output}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
