"""Ctrl-C that saves: the first one asks the loop to stop after its step, the second one stops at once."""

import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Self

from posttrain.train import distributed

ECHO_S = 2.0
"""Within this time the same Ctrl-C may reach a process of torchrun twice: from the terminal, and from torchrun."""
ASKED = threading.Event()
"""Set by whoever runs a training outside the main thread, where no signal arrives."""


class Interrupt:
    """Use as a context around training; call it to ask whether to stop. SIGTERM counts as a Ctrl-C."""

    def __init__(self) -> None:
        self.requested = False
        self._since = 0.0
        self._has_told = False
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        if self.requested:
            self._tell("stopping and saving")
        return self.requested or ASKED.is_set()

    def __enter__(self) -> Self:
        is_heard = threading.current_thread() is threading.main_thread()
        for number in (signal.SIGINT, signal.SIGTERM) if is_heard else ():
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        is_one_of_many = "WORLD_SIZE" in os.environ
        if self.requested:
            if is_one_of_many and time.monotonic() - self._since < ECHO_S:
                return
            raise KeyboardInterrupt
        self.requested, self._since = True, time.monotonic()
        if not is_one_of_many:
            self._tell("stopping after this step and saving; press Ctrl-C again to stop at once")
        elif number == signal.SIGINT:  # SIGTERM is also what the others get when one of them has died
            self._tell("stopping after this step and saving")

    def _tell(self, text: str) -> None:
        """Once, and by the first process alone."""
        if not self._has_told and distributed.is_main():
            print(f"\n{text}", flush=True)
        self._has_told = True
