"""One training verb in one process or in many: who starts them, how they meet, and how they begin again."""

import json
import os
from collections.abc import Callable
from datetime import datetime
from functools import wraps
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from posttrain import __version__
from posttrain.recipes.config import command
from posttrain.recipes.parting import parting
from posttrain.recipes.sharing import FREE
from posttrain.train import distributed
from posttrain.train.checkpoint import PREFIX
from posttrain.train.sharding import forget

Main = Callable[[Any, Console], int]
SAME = {"resume_from_checkpoint", "overwrite_output_dir", "output_dir"}
"""What is free in a resumed run, but one thing for all its processes."""


def in_processes(main: Main) -> Callable[[Any], int]:
    """`main(config, console)` in every process of a run: those that torchrun or Ray have started, or else this one, or
    those that the recipe's own `launcher` is to start. Only the first process speaks."""

    @wraps(main)
    def run(config: Any) -> int:
        if config.launcher != "none" and "WORLD_SIZE" not in os.environ:
            return _launch(config)
        is_own = not distributed.is_running()  # else whoever has made the group ends it
        distributed.start(config.ddp_timeout, alone=config.strategy == "fsdp")
        console = Console(highlight=False, soft_wrap=True, quiet=not distributed.is_main())
        try:
            with parting(config):
                return main(_fitted(config, console), console)
        finally:
            forget()
            if is_own:
                distributed.stop()

    return run


def _launch(config: Any) -> int:
    if config.launcher == "ray":
        from posttrain.recipes.ray_train import launch

        return launch(config)
    from posttrain.recipes.torchrun import launch

    return launch(config)


def _fitted(config: Any, console: Console) -> Any:
    """The recipe as this process follows it."""
    distributed.agree(config.model_dump(exclude=FREE - SAME) | _versions(), "settings")
    changes: dict[str, Any] = {}
    if hasattr(config, "num_preview_samples") and (config.strategy == "fsdp" or not distributed.is_main()):
        changes["num_preview_samples"] = 0  # no process has the whole model to answer with, or another one answers
    if number := distributed.num_restarts():
        since = 0.0 if config.launcher == "ray" else _launched()  # Ray's name is new each time, a node may be younger
        changes |= distributed.from_main(again(config, since))
        going_on = changes.get("resume_from_checkpoint", config.resume_from_checkpoint)
        console.print(f"restart {number}: {'going on from the last checkpoint' if going_on else 'from the beginning'}")
    return config.model_copy(update=changes)


def _versions() -> dict[str, str]:
    return {"posttrain": __version__} | {name: version(name) for name in ("torch", "transformers")}


def _launched() -> float:
    """When the first of the launchers began, in seconds since 1970."""
    return -distributed.largest(-psutil.Process(os.getppid()).create_time())


def spoken(config: Any) -> str:
    """The command line that starts the same processes again: torchrun's, where a person has called that. With fewer
    processes a step would have fewer rows. Of several machines it does not name the first, nor which one this is."""
    words = command(config)
    if config.launcher != "none" or not (distributed.has_met() and distributed.launch_id()):
        return words
    machines, restarts = os.environ["GROUP_WORLD_SIZE"], os.environ["TORCHELASTIC_MAX_RESTARTS"]
    flags = f"--nproc-per-node {os.environ['LOCAL_WORLD_SIZE']}"
    if machines != "1":
        flags += f" --nnodes {machines} --node-rank NODE_RANK --master-addr FIRST_MACHINE --master-port PORT"
    if restarts != "0":
        flags += f" --max-restarts {restarts}"
    return f"torchrun {flags} -m {words}"


def again(config: Any, since: float) -> dict[str, Any]:
    """What changes when the processes that a launcher began at `since` are started anew: they go on from the newest
    checkpoint of theirs, or anew over what they began. Nothing where they had not begun to write: what lies in the
    folder is an earlier run, and the recipe has said what is to become of it."""
    if not is_own(config, since):
        return {}
    found = any(Path(config.output_dir).glob(f"{PREFIX}*[0-9]"))
    return {"resume_from_checkpoint": found, "overwrite_output_dir": not found}


def is_own(config: Any, since: float) -> bool:
    """Whether the run folder was begun by this launch, and not by an earlier one."""
    if not distributed.launch_id():  # of a launcher that gives no name
        return True
    try:
        record = json.loads((Path(config.output_dir) / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if record.get("launch") != distributed.launch_id():  # a name that may come again, as `none` of torchrun does
        return False
    return datetime.fromisoformat(record["started"]).timestamp() >= since - 1
