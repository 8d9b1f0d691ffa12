"""What torchrun's agent knows of how its processes ended, as one sentence with how to go on."""

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from posttrain.errors import TrainError
from posttrain.recipes.config import command
from posttrain.recipes.parting import LOST
from posttrain.train.checkpoint import PREFIX

SAID = (2, 130)
"""Exit codes of a process that was stopped by its input or by a person, has said so, and would be stopped again."""
STOPPED_S = 15
"""Who dies so much later than the first was killed by the agent, which gives the others thirty seconds to end."""


def culprit(failures: Mapping[int, ProcessFailure]) -> tuple[int, int, str]:
    """The process that ended the others: its number, exit code (negative: a signal) and last words."""
    first = min(failure.timestamp for failure in failures.values())

    def weight(number: int) -> int:
        code, late = failures[number].exitcode, failures[number].timestamp - first > STOPPED_S
        if late or code == -signal.SIGTERM:
            return 0
        return 1 if code == LOST else 2 if code in SAID else 3

    number = max(sorted(failures), key=weight)
    return number, failures[number].exitcode, str(failures[number].message)


def death(number: int, num_processes: int, code: int) -> str:
    """What became of a process, in words."""
    who = f"process {number} of {num_processes}"
    if code == LOST:
        return f"{who} got no answer from another one"
    if code >= 0:
        return f"{who} ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "unknown"
    often = ": often the system does so when memory runs out" if -code == signal.SIGKILL else ""
    return f"{who} was ended by signal {-code} ({name}{often})"


def failed(config: Any, name: str, failures: Mapping[int, ProcessFailure]) -> int:
    number, code, words = culprit(failures)
    if code in SAID:
        return code
    if code == LOST:
        raise TrainError(words)
    again, saved = config, "No checkpoint had been written: start it again"
    found = sorted(path for path in Path(config.output_dir).glob(f"{PREFIX}*[0-9]"))
    if found and name in _launches(config):
        again = config.model_copy(update={"resume_from_checkpoint": True, "overwrite_output_dir": False})
        saved = f"{found[-1]} is saved: go on"
    raise TrainError(f"{death(number, config.num_processes, code)}. {saved} with `{command(again)}`.")


def _launches(config: Any) -> str:
    try:
        return (Path(config.output_dir) / "run.json").read_text(encoding="utf-8")
    except OSError:
        return ""
