"""Ctrl-C that saves: the first one asks the loop to stop after its step, the second one stops at once."""

import signal
from types import FrameType, TracebackType
from typing import Any, Self


class Interrupt:
    """Use as a context around training; call it to ask whether to stop. SIGTERM counts as a Ctrl-C."""

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        return self.requested

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        print("\nstopping after this step and saving; press Ctrl-C again to stop at once", flush=True)
