"""Experiment trackers, each started only when a recipe names it; a missing package is an error with its mend."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from posttrain.errors import ConfigError


def start_trackers(names: Sequence[str], folder: Path, config: dict[str, Any]) -> list[Any]:
    """One watcher per name ('tensorboard', 'trackio', 'wandb'); each has `write(line)`."""
    return [TRACKERS[name](folder, config) for name in names]


def _load(module: str, package: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigError(f"report_to names {package}, which is not installed; pip install {package}.") from error


class TensorBoard:
    """Event files in `<run>/tensorboard`."""

    def __init__(self, folder: Path) -> None:
        _load("tensorboard", "tensorboard")
        self.writer = _load("torch.utils.tensorboard", "tensorboard").SummaryWriter(str(folder / "tensorboard"))

    def write(self, line: dict[str, Any]) -> None:
        for key, value in line.items():
            if key != "step":
                self.writer.add_scalar(key, value, line["step"])
        self.writer.flush()


class RunTracker:
    """Trackers with wandb's interface: `init` and `log`."""

    def __init__(self, package: str, folder: Path, config: dict[str, Any]) -> None:
        module = _load(package, package)
        where = {"dir": str(folder)} if package == "wandb" else {}
        self.run = module.init(project="posttrain", name=folder.name, config=config, **where)
        self.module = module

    def write(self, line: dict[str, Any]) -> None:
        self.module.log({key: value for key, value in line.items() if key != "step"}, step=line["step"])


TRACKERS = {
    "tensorboard": lambda folder, _config: TensorBoard(folder),
    "trackio": lambda folder, config: RunTracker("trackio", folder, config),
    "wandb": lambda folder, config: RunTracker("wandb", folder, config),
}
