"""One process of a training on Ray: it finds what the command sees, runs the verb's own recipe, and tells of it.

Ray has made the process group. A mistake of the input ends the run, and is told; a loss of another process, or an
error of the program, is raised, and Ray starts all processes anew as often as the recipe says.
"""

import os
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from posttrain.errors import PosttrainError, TrainError
from posttrain.recipes.ray_train_desk import Lines
from posttrain.train import distributed
from posttrain.train.interrupt import ASKED
from posttrain.verbs import VERBS

LISTEN_S = 0.5
NAMES = ("posttrain", "torch", "transformers", "ray")


@dataclass(frozen=True)
class Job:
    """What every process is given. `mark`: a file that lies beside the run folder; `versions`: of the command."""

    config: Any
    place: Path
    mark: Path
    versions: Mapping[str, str]


def versions() -> dict[str, str]:
    """Of what must be the same everywhere."""
    return {name: version(name) for name in NAMES}


def work(given: Mapping[str, Any]) -> None:
    """The recipe, in a process of Ray Train. `given`: job and desk."""
    import ray

    job, desk = given["job"], given["desk"]

    def tell(kind: str, text: str) -> None:
        ray.get(desk.tell.remote(kind, text))

    try:
        distributed.together(lambda: _require_same(job))
        attempt = distributed.from_main(ray.get(desk.begin.remote()) if distributed.is_main() else None)
        if attempt is None:
            return
        # As torchrun would say it: after the first attempt the recipe goes on from what those of this name have left.
        os.environ |= {"TORCHELASTIC_RESTART_COUNT": str(attempt), "TORCHELASTIC_RUN_ID": job.mark.name}
        with _heard(tell), _asked(lambda: ray.get(desk.is_stopping.remote())):
            code = resolve_name(VERBS[job.config.verb][1])(job.config)
    except distributed.Lost:
        raise
    except PosttrainError as error:
        tell("failed", str(error))
    except Exception:
        tell("err", traceback.format_exc())
        raise
    else:
        if os.environ["RANK"] == "0":
            tell("ended", str(code or 0))


def _require_same(job: Job) -> None:
    """The same versions, folders and files as the command has. Raises TrainError."""
    here = socket.gethostname()
    for name, theirs in job.versions.items():
        if (ours := version(name)) != theirs:
            raise TrainError(f"the worker on {here} has {name} {ours}, this command {theirs}: install the same one.")
    try:
        os.chdir(job.place)
    except OSError as error:
        raise TrainError(
            f"the worker on {here} cannot enter {job.place} ({error.strerror}): start the command in a folder on "
            "storage that all nodes of the cluster share."
        ) from error
    if not job.mark.exists():
        raise TrainError(
            f"the worker on {here} does not see what this command has written to {job.mark.parent}: set output_dir to "
            "a folder on storage that all nodes of the cluster share."
        )


@contextmanager
def _heard(tell: Callable[[str, str], None]) -> Iterator[None]:
    """What rank 0 prints reaches the command's terminal."""
    if not distributed.is_main():
        yield
        return
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = Lines("out", tell), Lines("err", tell)
    try:
        yield
    finally:
        sys.stdout.end()
        sys.stderr.end()
        sys.stdout, sys.stderr = before


@contextmanager
def _asked(is_stopping: Callable[[], bool]) -> Iterator[None]:
    """Stop after a step when the command says so; rank 0 asks it, and the training loop tells the others."""
    over = threading.Event()

    def listen() -> None:
        while not over.wait(LISTEN_S):
            if is_stopping():
                ASKED.set()
                return

    if distributed.is_main():
        threading.Thread(target=listen, daemon=True).start()
    try:
        yield
    finally:
        over.set()
