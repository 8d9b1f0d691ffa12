"""One training verb in one process or in many: who starts them, how they meet, and how they part."""

import os
from collections.abc import Callable
from functools import wraps
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from posttrain import __version__
from posttrain.errors import ConfigError, TrainError
from posttrain.recipes.sharing import FREE
from posttrain.train import distributed
from posttrain.train.checkpoint import PREFIX
from posttrain.train.sharding import forget

Main = Callable[[Any, Console], int]
UNSHARDED = {"l2_sp", "ewc", "freeze"}


def in_processes(main: Main) -> Callable[[Any], int]:
    """`main(config, console)` in every process of a run: those that torchrun or Ray have started, or else this one, or
    those that the recipe's own `launcher` is to start. Only the first process speaks."""

    @wraps(main)
    def run(config: Any) -> int:
        if config.launcher != "none" and "WORLD_SIZE" not in os.environ:
            return _launch(config)
        distributed.start(config.ddp_timeout, alone=config.strategy == "fsdp")
        console = Console(highlight=False, soft_wrap=True, quiet=not distributed.is_main())
        try:
            return main(_fitted(config), console)
        except RuntimeError as error:
            if not distributed.is_loss(error):
                raise
            raise TrainError(distributed.lost(error)) from error
        finally:
            forget()
            distributed.stop()

    return run


def _launch(config: Any) -> int:
    if config.launcher == "ray":
        from posttrain.recipes.ray_train import launch

        return launch(config)
    from posttrain.recipes.torchrun import launch

    return launch(config)


def _fitted(config: Any) -> Any:
    """The recipe as this process follows it."""
    if config.strategy == "fsdp" and (found := UNSHARDED & set(config.protection)):
        raise ConfigError(f"protect {sorted(found)[0]} needs every weight in one piece: set strategy to ddp.")
    distributed.agree(config.model_dump(exclude=FREE) | _versions(), "settings")
    changes: dict[str, Any] = {}
    if hasattr(config, "num_preview_samples") and (config.strategy == "fsdp" or not distributed.is_main()):
        changes["num_preview_samples"] = 0  # no process has the whole model to answer with, or another one answers
    if distributed.num_restarts():
        changes |= _again(config)
    return config.model_copy(update=changes)


def _versions() -> dict[str, str]:
    return {"posttrain": __version__} | {name: version(name) for name in ("torch", "transformers")}


def _again(config: Any) -> dict[str, Any]:
    """After a restart: from the newest checkpoint, or from the start where none was written."""
    found = list(Path(config.output_dir).glob(f"{PREFIX}*[0-9]"))
    return {"resume_from_checkpoint": bool(found), "overwrite_output_dir": not found}
