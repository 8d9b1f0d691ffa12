"""What Ray says: to nobody while it works, and in one plain sentence where it fails."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from posttrain.errors import ConfigError, PosttrainError

MEND = "Ray is not installed; install it with pip install 'posttrain[ray]'"
OUT_OF_MEMORY = "give each more room: fewer workers on a machine, or a smaller batch; run the same command to go on"
heard: list[str] = []
"""The last words of Ray's own processes, which it would print among ours."""


def quiet_ray() -> Any:
    """The module, told to report to nobody and to leave the terminal alone. ConfigError where it is not installed."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # a thread that is late would start a cluster of its own
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its C++ half writes to the terminal past Python
    try:
        import ray
    except ImportError:
        raise ConfigError(MEND) from None
    for name in ("ray", "ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with suppress(ImportError, AttributeError):  # no door of Ray's own leads there
        from ray._private import worker

        worker.print_to_stdstream = _hear
    return ray


def _hear(data: Any, *_: Any, **__: Any) -> None:
    heard.extend(str(line) for line in data.get("lines", ()))
    del heard[:-20]


@contextmanager
def silenced() -> Iterator[None]:
    """Nothing reaches the terminal: Ray's C++ half tells on its start that it will say nothing."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def plain(error: BaseException) -> PosttrainError | None:
    """What Ray raised as one sentence with the mend; None for what is none of Ray's."""
    if isinstance(error, PosttrainError):
        return error
    said = " ".join(str(error).split())
    names = {cls.__name__ for cls in type(error).__mro__}
    if "ersion mismatch" in said:
        return ConfigError(f"the Ray cluster has other versions than this process; install the same: {said[-300:]}")
    if not any(cls.__module__.startswith("ray.") for cls in type(error).__mro__):
        return None
    if "ModuleNotFoundError" in said or "No module named" in said:
        what = said.partition("No module named ")[2].split(" ")[0].strip("'\".") or "a module"
        return ConfigError(f"a machine of the Ray cluster lacks {what}: install posttrain there as it is here")
    if "OutOfMemoryError" in names or any("memory pressure" in line for line in heard):
        return PosttrainError(f"a Ray worker ran out of memory: {OUT_OF_MEMORY}")
    if names & {"ActorDiedError", "WorkerCrashedError", "NodeDiedError", "ActorUnavailableError", "ObjectLostError"}:
        return PosttrainError(f"a Ray worker died and could not be started again ({said[:300]}); run the command again")
    return PosttrainError(f"Ray failed: {said[:400]}; run the same command again to go on")
