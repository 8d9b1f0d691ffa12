"""What logging and checkpoints cost beside the steps themselves.

    python benchmarks/overhead.py           (about three minutes)

Every measurement is a fresh process that runs `posttrain sft` with its defaults. The clock runs inside it, around what
the loop calls to make and write a line of metrics and to write a checkpoint (all of it, until the bytes are on the
disk). `on` is a line every 10 steps and a checkpoint every 100, the defaults, over 100 steps; `off` is the same run
with neither, so that on / off (the quicker of two runs each, in turns) holds whatever the clock inside does not see,
and the noise of the machine; `each step` logs at every step. `large` (104 million random parameters) is too slow for
100 steps here: it takes one checkpoint in 6, and its share is reckoned for one in 100 from what that took.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from process import clean_environment, hardware, must_be_unchanged, run_measured, source_hash
from quantised import make_large

HERE = Path(__file__).parent
NEVER = 10**6
SAVE_STEPS = 100
"""The default."""
MODELS: dict[str, dict[str, Any]] = {
    "pocket, full": {"model": "pocket"},
    "pocket, LoRA": {"model": "pocket", "use_peft": True},
    "large, full": {"model": "large"},
}
RUNS: dict[str, dict[str, Any]] = {
    "on": {"max_steps": 100, "save_steps": SAVE_STEPS},
    "off": {"max_steps": 100, "save_steps": 0, "logging_steps": NEVER},
    "each step": {"max_steps": 20, "save_steps": 0, "logging_steps": 1},
}
TURNS = ("on", "off", "on", "off", "each step")
LARGE = {"each step": {"max_steps": 6, "save_steps": 6, "logging_steps": 1}}


class Clock:
    """Seconds and calls by what was called."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.calls: dict[str, int] = {}

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with its time added to `name`'s."""

        def timed(*given: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*given, **named)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began
                self.calls[name] = self.calls.get(name, 0) + 1

        return timed


def work(job: dict[str, Any]) -> None:
    """One measurement, in a process of its own."""
    from posttrain.recipes import training
    from posttrain.recipes.config import load
    from posttrain.recipes.sft import run
    from posttrain.recipes.sft_config import SftConfig
    from posttrain.train import loop

    clock, train = Clock(), training.train
    loop._line = clock.around("line", loop._line)  # what a line says: the means, which wait for the device, memory
    written: list[Path] = []

    def measured(*given: Any, **named: Any) -> Any:
        log, checkpoints = named["log"], named["checkpoints"]
        log.write = clock.around("write", log.write)
        save = clock.around("save", checkpoints.save)

        def saved(*parts: Any) -> Any:
            written.append(save(*parts))
            return written[-1]

        checkpoints.save = saved
        checkpoints.export = clock.around("export", checkpoints.export)
        return clock.around("all", train)(*given, **named)

    training.train = measured
    run(load(SftConfig, None, job["keys"]))
    size = sum(file.stat().st_size for file in written[-1].rglob("*") if file.is_file()) if written else 0
    found = {"seconds": clock.seconds, "calls": clock.calls, "checkpoint_mb": size / 2**20}
    Path(job["out"]).write_text(json.dumps(found))


def measure(place: Path, model: str, name: str, keys: dict[str, Any]) -> dict[str, Any]:
    mark = f"{model}-{name}".replace(", ", "-").replace(" ", "-")
    keys = MODELS[model] | keys | {"dataset": "pocket", "num_preview_samples": 0, "output_dir": str(place / mark)}
    keys["overwrite_output_dir"] = True
    keys["model"] = str(place / "large") if keys["model"] == "large" else keys["model"]
    job = {"keys": keys, "out": str(place / f"{mark}.json")}
    command = [sys.executable, str(HERE / "overhead.py"), "--job", json.dumps(job)]
    used = run_measured(command, env=clean_environment({}), log=place / f"{mark}.log")
    found = json.loads((place / f"{mark}.json").read_text())
    spent, calls = found["seconds"], found["calls"]
    logging, saving = spent.get("line", 0.0) + spent.get("write", 0.0), spent.get("save", 0.0)
    step_s = (spent["all"] - logging - saving) / keys["max_steps"]
    row = {"steps": keys["max_steps"], "step_s": step_s, "loop_s": spent["all"]}
    if keys.get("logging_steps") != NEVER:
        line_s, every = logging / calls["write"], keys.get("logging_steps", 10)
        row |= {"line_ms": 1000 * line_s, "logging_share": line_s / (line_s + every * step_s)}
    if calls.get("save"):
        save_s = saving / calls["save"]
        row |= {"checkpoint_mb": found["checkpoint_mb"], "checkpoint_s": save_s}
        row |= {"checkpoint_share": save_s / (save_s + SAVE_STEPS * step_s)}
    row = {key: round(value, 5) for key, value in row.items()} | {"foreign_cores": round(used.foreign_cores, 2)}
    print(f"{model:14s} {name:10s} {row}", flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.job:
        work(json.loads(asked.job))
        return
    before = source_hash()
    with tempfile.TemporaryDirectory(dir=HERE) as made:  # on a disk: the system's own place is often in memory
        place = Path(made)
        make_large(place / "large")
        rows: dict[str, Any] = {}
        for model, settings in MODELS.items():
            is_large = settings["model"] == "large"
            rows[model] = {}
            for name in LARGE if is_large else TURNS:
                row = measure(place, model, name, (LARGE if is_large else RUNS)[name])
                if name not in rows[model] or row["loop_s"] < rows[model][name]["loop_s"]:
                    rows[model][name] = row
            if not is_large:
                ratio = round(rows[model]["on"]["loop_s"] / rows[model]["off"]["loop_s"], 4)
                rows[model]["on / off"] = ratio
                print(f"{model:14s} on / off {ratio}", flush=True)
    must_be_unchanged(before)
    found = {"command": "python benchmarks/overhead.py", "hardware": hardware(), "rows": rows}
    (HERE / "results" / "overhead.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
