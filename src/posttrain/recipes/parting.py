"""How the processes of a run end when one of them fails: all of them, with one sentence from one of them."""

import errno
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from posttrain.errors import PosttrainError, TrainError
from posttrain.train import distributed

LOST = 75
"""Exit code of a process that only misses another one."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Ended(KeyboardInterrupt):
    """SIGTERM; nothing that catches errors keeps it."""


@contextmanager
def parting(config: Any) -> Iterator[None]:
    """Around what all processes of a run do. Of processes that torchrun has started one alone says why the run ends;
    under `launcher: torchrun` none says that it misses another one, since the launcher knows what became of that."""
    if not distributed.has_met():
        try:
            yield
        except RuntimeError as error:
            if not distributed.is_loss(error):
                raise
            raise distributed.Lost(distributed.lost(error)) from error
        return
    try:
        with _ended():
            yield
    except (Exception, KeyboardInterrupt) as error:
        _part(_plain(error, config), config)


@contextmanager
def _ended() -> Iterator[None]:
    """SIGTERM raises, where the training loop does not listen to it."""

    def end(_number: int, _frame: FrameType | None) -> None:
        raise Ended

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _plain(error: BaseException, config: Any) -> BaseException:
    """What the machine did to the run as sentences."""
    if isinstance(error, Ended):
        return distributed.Lost(
            "this process was told to end (SIGTERM), as torchrun does where another process of the run has died. What "
            "was saved up to the last checkpoint is whole: go on with --resume-from-checkpoint."
        )
    if isinstance(error, RuntimeError) and distributed.is_loss(error):
        return distributed.Lost(distributed.lost(error))
    if isinstance(error, OSError) and error.errno in FULL:
        place = error.filename or config.output_dir
        full = TrainError(f"{place}: {error.strerror}; free some space, then go on with --resume-from-checkpoint.")
        full.__cause__ = error
        return full
    return error


def _part(error: BaseException, config: Any) -> NoReturn:
    """Say it, or leave it to another process, and end."""
    is_lost = isinstance(error, distributed.Lost)
    _note(error)
    if is_lost and config.launcher == "torchrun":
        raise SystemExit(LOST)
    if _is_elsewhere(error) or not distributed.is_first_to_tell():
        distributed.wait_for_told()
    else:
        _tell(error)
        distributed.has_told("" if is_lost else _words(error))
    if isinstance(error, KeyboardInterrupt):
        raise SystemExit(130)
    raise SystemExit(2 if isinstance(error, PosttrainError) else 1)


def _is_elsewhere(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, distributed.Elsewhere):
            return True
        error = error.__cause__
    return False


def _tell(error: BaseException) -> None:
    """As the command line does."""
    if isinstance(error, PosttrainError):
        print(f"error: {error}", file=sys.stderr, flush=True)
    elif isinstance(error, KeyboardInterrupt):
        print("interrupted", file=sys.stderr, flush=True)
    elif not isinstance(error, BrokenPipeError):  # whoever read our words went away
        traceback.print_exception(error)


def _words(error: BaseException) -> str:
    """For those that only miss this process: its sentence, or what kind of fault it was."""
    return str(error) if isinstance(error, PosttrainError) else f"{type(error).__name__}: {error}".removesuffix(": ")


def _note(error: BaseException) -> None:
    """Leave the words where torchrun looks for them."""
    place = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if place:
        told = {"message": str(error) or type(error).__name__, "timestamp": int(time.time())}
        with suppress(OSError):
            Path(place).write_text(json.dumps(told), encoding="utf-8")
