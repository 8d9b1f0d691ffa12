"""Turns of the flywheel on the pocket world: users of known taste vote on what is served, the votes become a better
model, and the better model takes the traffic. Writes results.json beside itself.

    python examples/flywheel/study.py --output-dir runs/flywheel-study
    python examples/flywheel/study.py --output-dir runs/flywheel-control --control --turns 1

Every turn: simulated users (users.py) talk to a running `posttrain serve runs/live`; `posttrain run
examples/flywheel.yaml` learns from all votes so far; the server swaps the promoted model in by itself. Then new users
meet the model of this turn and the one before, side by side and blind, on prompts that no vote was about: the share of
wins is that of their votes. `--control`: users pick the better answer by the toss of a coin.
"""

import argparse
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

from users import live, parser

from posttrain.evals.ab import ab_state
from posttrain.feedback.served import ServedStore
from posttrain.feedback.store import Store
from posttrain.intervals import clustered_share
from posttrain.recipes.good_model import good_model
from posttrain.serve.doors import Outcome

HERE = Path(__file__).parent
RECIPE = HERE.parent / "flywheel.yaml"
WAIT_S = 180
COIN = 1e9  # the noise of a taste to which everything is as good
POSTTRAIN = [sys.executable, "-m", "posttrain.cli"]
START = """model: pocket
dataset:
  - {path: pocket, name: manners}
output_dir: runs/start
per_device_train_batch_size: 2
learning_rate: 1e-3
max_steps: 400
data_checks: warn
"""


class Server:
    """`posttrain serve` in a process of its own, on a free port."""

    def __init__(self, folder: Path, name: str, models: Sequence[str], *flags: str) -> None:
        self.log = folder / f"{name}.log"
        with self.log.open("w") as log:
            words = [*POSTTRAIN, "serve", *models, "--port", "0", *flags]
            self.process = subprocess.Popen(words, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
        ready = self.wait_for(r"ready: (http://\S+)/v1")
        self.url = ready[1]

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Until the server says something."""
        ends = time.monotonic() + WAIT_S
        while time.monotonic() < ends and self.process.poll() is None:
            found = re.search(pattern, self.log.read_text())
            if found:
                return found
            time.sleep(0.5)
        self.process.kill()
        raise SystemExit(f"the server does not say {pattern!r}:\n{self.log.read_text()}")

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=60)


def users(url: str, **flags: Any) -> dict[str, Any]:
    """Let simulated users meet a server; what they did."""
    args = parser().parse_args([])
    vars(args).update(base_url=url, concurrency=48, **flags)
    return asyncio.run(live(args)).row()


def run(folder: Path, *words: str) -> int:
    """A posttrain command in the study's folder; its exit code."""
    print("posttrain", *words, flush=True)
    with (folder / "study.log").open("a") as log:
        return subprocess.run([*POSTTRAIN, *words], cwd=folder, stdout=log, stderr=subprocess.STDOUT).returncode


def share_of_wins(folder: Path, turn: int, new: str, old: str, seed: int, num_users: int) -> dict[str, Any]:
    """New users compare two models blind, each answering one side, on held-out prompts."""
    store = folder / f"runs/side-by-side-{turn}.db"
    names = ["--served-model-name", "old", "--served-model-name", "new"]
    with Server(
        folder, store.stem, [old, new], *names, "--split", "fixed", "--store", str(store), "--test-name", f"turn {turn}"
    ) as at:
        met = users(at.url, users=num_users, visits=3, pairs=1.0, consent=0.0, held_out=True, seed=seed)
    with Store.open(store) as votes:
        outcomes = [one for one in ServedStore(votes, outcome=Outcome).outcomes() if one.versus]
    won = [one.value if one.arm == "new" else 1 - one.value for one in outcomes]
    share = clustered_share(won, [one.user for one in outcomes])
    over = datetime.now(UTC) + timedelta(days=2)  # everybody has voted
    (pair,) = ab_state(outcomes, ["old", "new"], now=over)["pairs"]
    always = {name: round(pair[name], 4) for name in ("low", "high", "p_value")} | {"verdict": pair["verdict"]}
    return {
        "wins": round(share.value, 4), "low": round(share.low, 4), "high": round(share.high, 4), "votes": len(won),
        "no_difference": met["votes"].get("no difference", 0), "always_valid": always,
    }  # fmt: skip


def turn_of(folder: Path, at: Server, number: int, args: argparse.Namespace, first: str) -> dict[str, Any]:
    """One turn; what came of it."""
    began, before = time.monotonic(), good_model(str(folder / "runs/live"))
    noise = COIN if args.control else 0.15
    seed = 1000 * args.seed + number
    told: dict[str, Any] = {
        "turn": number,
        "served": users(at.url, users=args.users, pairs=0.6, seed=seed, noise=noise),
    }
    code = run(folder, "run", str(RECIPE))
    book = json.loads((folder / "runs/flywheel/pipeline.json").read_text())
    gates = [row for stage in book["stages"].values() for row in stage.get("gates", [])]
    told |= {"exit_code": code, "gates": [f"{row['verdict']}: {row['said']}" for row in gates]}
    after = good_model(str(folder / "runs/live"))
    told["took_traffic"] = after != before
    if after != before:
        at.wait_for(rf"{Path(after).name}\b")
        told["over_the_one_before"] = share_of_wins(folder, number, after, before, seed + 500, args.judges)
        if before != first:
            told["over_the_start"] = share_of_wins(folder, number + 100, after, first, seed + 700, args.judges)
    return told | {"minutes": round((time.monotonic() - began) / 60, 1)}


def main() -> None:
    """The study."""
    wanted = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    wanted.add_argument("--output-dir", default="runs/flywheel-study")
    wanted.add_argument("--start", default="", help="folder of the first served model; left out, it is trained")
    wanted.add_argument("--turns", type=int, default=3)
    wanted.add_argument("--users", type=int, default=600, help="who vote in a turn")
    wanted.add_argument("--judges", type=int, default=200, help="who compare two models after it")
    wanted.add_argument("--control", action="store_true")
    wanted.add_argument("--seed", type=int, default=0)
    wanted.add_argument("--results", default=str(HERE / "results.json"))
    args = wanted.parse_args()
    folder = Path(args.output_dir).resolve()
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    start = str(Path(args.start).resolve()) if args.start else "runs/start"
    if not args.start:
        (folder / "start.yaml").write_text(START)
        if not (folder / "runs/start/model.safetensors").exists() and run(folder, "sft", "start.yaml"):
            raise SystemExit(f"see {folder}/study.log")
    if run(folder, "promote", start, "--to", "runs/live"):
        raise SystemExit(f"see {folder}/study.log")
    os.chdir(folder)
    first, turns = good_model("runs/live"), []
    with Server(folder, "serve", ["runs/live"], "--store", "runs/served.db") as at:
        for number in range(1, args.turns + 1):
            turns.append(turn_of(folder, at, number, args, str(folder / first)))
            print(json.dumps(turns[-1]), flush=True)
            write(Path(args.results), args, turns)


def write(file: Path, args: argparse.Namespace, turns: Sequence[dict[str, Any]]) -> None:
    """Into the results, beside those of other seeds and of the control."""
    known = json.loads(file.read_text()) if file.exists() else {}
    name = f"{'control' if args.control else 'taste'}, seed {args.seed}"
    known[name] = {"users": args.users, "judges": args.judges, "turns": list(turns)}
    file.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
