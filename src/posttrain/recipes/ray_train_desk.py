"""What the workers of a training on Ray, its controller and the command that started it tell each other."""

import io
from collections.abc import Callable
from typing import NamedTuple


class Word(NamedTuple):
    """`kind`: out or err, for the terminal; begun, an attempt's number; died, of what; failed, a sentence; ended, the
    exit code."""

    kind: str
    text: str


class Desk:
    """An actor beside the command. Calls of one worker are heard in order."""

    def __init__(self) -> None:
        self.words: list[Word] = []
        self.num_begun, self.is_over, self.is_asked_to_stop = 0, False, False

    def begin(self) -> int | None:
        """The number of this attempt, from 0; None where there is nothing to begin any more."""
        if self.is_over or self.is_asked_to_stop:
            return None
        self.num_begun += 1
        self.words.append(Word("begun", str(self.num_begun - 1)))
        return self.num_begun - 1

    def tell(self, kind: str, text: str) -> None:
        """Leave a word for the command."""
        self.is_over = self.is_over or kind in ("failed", "ended")
        self.words.append(Word(kind, text))

    def take(self) -> list[Word]:
        """What was told since the last time."""
        found, self.words = self.words, []
        return found

    def stop(self) -> None:
        """Ask the workers to save after this step, and to end."""
        self.is_asked_to_stop = True

    def is_stopping(self) -> bool:
        """Whether they were asked to."""
        return self.is_asked_to_stop


class Lines(io.TextIOBase):
    """A text stream that tells whole lines."""

    encoding = "utf-8"

    def __init__(self, kind: str, tell: Callable[[str, str], None]) -> None:
        self.kind, self.tell_of, self.begun = kind, tell, ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        whole, mark, self.begun = (self.begun + text).rpartition("\n")
        if mark:
            self.tell_of(self.kind, whole + mark)
        return len(text)

    def end(self) -> None:
        """Tell a line that has no end."""
        if self.begun:
            self.tell_of(self.kind, self.begun)
        self.begun = ""
