"""From the command to the end of the first optimiser step, on the embedded model and data with every default.

    python benchmarks/startup.py            (about two minutes)

Each verb runs in a fresh process, as `posttrain VERB --dataset pocket` does, and is ended when its first step is done.
The clock starts before the process does. The parts: `command` is the interpreter, the recipe's keys and the choice of
the memory allocator, for which the process begins once more; `imports` torch, transformers and the verb itself;
`models` reading them; `data` reading, tokenising and checking it; `sampling` the first rollouts with their grades;
`step` the first optimiser step; `rest` everything else: answers for the report, what the reference thinks of the
data, the run folder. `ready` is all of it without sampling and step: what is waited for before the work begins. Files
are in the system's cache, for a reward model is made first, in one step, from which ppo learns; nothing of what was
computed is kept.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from process import clean_environment, hardware, must_be_unchanged, run_measured, source_hash

HERE = Path(__file__).parent
VERBS: dict[str, list[str]] = {
    "sft": [],
    "dpo": [],
    "reward": [],
    "ppo": ["--reward-model", "{reward}"],
    "grpo": ["--reward", "length:20-60"],
}
PARTS = {
    "models": ("recipes.policy:load_policy", "recipes.ppo_models:load_models"),
    "data": ("recipes.training_data:load_data", "recipes.sample_prompts:read_prompts"),
    "sampling": ("rollouts.run:run_groups",),
    "step": ("train.loop:_step",),
}


class FirstStep(BaseException):
    """The first optimiser step is done: nothing after it is measured."""


class Clock:
    """Seconds by part; what one part calls of another counts for the inner one alone."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.open: list[float] = []

    def around(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with its time added to the part."""

        def timed(*given: Any, **named: Any) -> Any:
            began = time.time()
            self.open.append(0.0)
            try:
                return function(*given, **named)
            finally:
                whole = time.time() - began
                self.seconds[part] += whole - self.open.pop()
                if self.open:
                    self.open[-1] += whole
                if part == "step":
                    raise FirstStep

        return timed


def watch(clock: Clock) -> None:
    """Time the parts wherever a module of posttrain has them by name."""
    for part, places in PARTS.items():
        for place in places:
            module, name = place.split(":")
            if (home := sys.modules.get(f"posttrain.{module}")) is None:
                continue  # another verb's
            function = getattr(home, name)
            timed = clock.around(part, function)
            for other in [m for key, m in sys.modules.items() if key.startswith("posttrain.")]:
                if getattr(other, name, None) is function:
                    setattr(other, name, timed)


def work(job: dict[str, Any]) -> None:
    """One run, in a process of its own; the recipe is resolved by the command's own code, so that is what waits."""
    from posttrain import cli

    clock, told, resolve = Clock(), {}, cli.resolve_name

    def resolved(name: str) -> Any:
        if not name.endswith(":run"):
            return resolve(name)
        told["command"] = time.time() - job["began"]
        recipe = resolve(name)
        told["imports"] = time.time() - job["began"] - told["command"]
        watch(clock)
        return recipe

    cli.resolve_name = resolved
    try:
        code = cli.main(job["words"])
    except FirstStep:
        code = 0
        whole = time.time() - job["began"]
        parts = told | clock.seconds
        ready = whole - parts["sampling"] - parts["step"]
        told = {"all": whole, "ready": ready, **parts, "rest": whole - sum(parts.values())}
    if job["out"]:
        Path(job["out"]).write_text(json.dumps(told))
    sys.stdout.flush()
    sys.exit(code)


def measure(place: Path, verb: str, more: list[str]) -> dict[str, float]:
    """Seconds to the first step, by part."""
    out = place / f"{verb}.json"
    out.unlink(missing_ok=True)
    words = [verb, "--dataset", "pocket", "--output-dir", str(place / verb), *more]
    shutil.rmtree(place / verb, ignore_errors=True)
    # Caches of tokens and of the reference's opinions are of this run alone.
    env = clean_environment({"XDG_CACHE_HOME": str(place / "cache")})
    shutil.rmtree(place / "cache", ignore_errors=True)
    job = {"words": words, "out": str(out), "began": time.time()}
    used = run_measured(
        [sys.executable, str(HERE / "startup.py"), "--job", json.dumps(job)], env=env, log=place / f"{verb}.log"
    )
    found: dict[str, float] = json.loads(out.read_text())
    return found | {"foreign_cores": used.foreign_cores}


def make_reward(place: Path) -> Path:
    """A reward model of one step."""
    words = ["reward", "--dataset", "pocket", "--output-dir", str(place / "judge"), "--max-steps", "1"]
    command = [sys.executable, "-m", "posttrain.cli", *words, "--max-samples", "50"]
    run_measured(command, env=clean_environment({}), log=place / "judge.log")
    return place / "judge"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.add_argument("--repeat", type=int, default=3, help="Measured runs of each verb; the median is reported.")
    asked = parser.parse_args()
    if asked.job:
        work(json.loads(asked.job))
        return
    before, rows = source_hash(), {}
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        reward = str(make_reward(place))
        for verb, more in VERBS.items():
            words = [word.format(reward=reward) for word in more]
            runs = [measure(place, verb, words) for _ in range(asked.repeat)]
            rows[verb] = {name: round(statistics.median(run[name] for run in runs), 2) for name in runs[0]}
            print(f"{verb:7s} {rows[verb]}", flush=True)
    must_be_unchanged(before)
    found = {"command": "python benchmarks/startup.py", "hardware": hardware(), "seconds": rows}
    (HERE / "results" / "startup.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
