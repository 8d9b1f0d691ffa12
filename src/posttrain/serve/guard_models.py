"""What models say of a passage: a classifier's score against a threshold, a judge's yes or no. The models are callables
that are passed in; one that takes too long or fails is away, and the rule says what happens then."""

import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, TimeoutError
from queue import SimpleQueue
from typing import Any

from posttrain.serve.guard_blocks import Look
from posttrain.serve.guard_regex import Expression
from posttrain.serve.guard_stage import Found
from posttrain.serve.guard_text import fold
from posttrain.types import Message

Classify = Callable[[str, Sequence[Message]], float]
"""A passage and the conversation that it answers (empty for what a user wrote) to a score."""
Judge = Callable[[str, Sequence[Message]], bool]
"""A passage and the conversation that it answers to yes or no."""
MAX_WAITING = 32
"""Questions that may wait for one model at a time; more would only grow old."""


class Asked:
    """A model that is asked in threads of its own, and not waited for longer than `timeout_s`. `at_once`: questions
    that it takes at a time."""

    def __init__(self, model: Callable[[str, Sequence[Message]], Any], *, timeout_s: float, at_once: int = 1) -> None:
        self.model, self.timeout_s = model, timeout_s
        self._room = threading.BoundedSemaphore(MAX_WAITING)
        self._jobs: SimpleQueue[tuple[Future[Any], str, Sequence[Message]] | None] = SimpleQueue()
        self._is_closed = False
        # Daemons, unlike a pool's threads: the program can end while a model hangs.
        for _ in range(at_once):
            threading.Thread(target=self._work, name="guard", daemon=True).start()

    def __call__(self, passage: str, conversation: Sequence[Message]) -> tuple[Any, str]:
        """What it says, or why it says nothing: the kind of the failure alone, since its words may hold the text."""
        if not self._room.acquire(blocking=False):
            return None, f"{MAX_WAITING} questions wait for the model already"
        waiting: Future[Any] = Future()
        waiting.add_done_callback(lambda _: self._room.release())
        self._jobs.put((waiting, passage, conversation))
        if self._is_closed:
            waiting.cancel()
        try:
            return waiting.result(self.timeout_s), ""
        except TimeoutError:
            waiting.cancel()
            return None, f"no answer within {self.timeout_s:g} s"
        except CancelledError:
            return None, "the model is asked no more"
        except Exception as error:  # a guard that breaks must not take the server down
            return None, type(error).__name__

    def close(self) -> None:
        """Ask no more."""
        self._is_closed = True
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            waiting, passage, conversation = job
            if self._is_closed:
                waiting.cancel()
            if not waiting.set_running_or_notify_cancel():
                continue
            try:
                waiting.set_result(self.model(passage, conversation))
            except BaseException as error:
                waiting.set_exception(error)
        self._jobs.put(None)  # to the next thread


def by_score(asked: Asked, *, threshold: float, refuse_below: bool = False, on_error: str = "refuse") -> Look:
    """Refuses a passage whose score is at least the threshold, or below it where a high score is a good one."""

    def decide(score: Any) -> tuple[bool, dict[str, Any]]:
        value = float(score)
        if value != value:
            raise ValueError("the score is no number")
        bad = value < threshold if refuse_below else value >= threshold
        return bad, {"score": round(value, 4), "threshold": threshold}

    return _looking(asked, decide, on_error)


def by_judge(asked: Asked, *, refuse_if: bool = True, on_error: str = "refuse") -> Look:
    """Refuses a passage of which the judge says yes, or no."""
    return _looking(asked, lambda said: (bool(said) is refuse_if, {"said": "yes" if said else "no"}), on_error)


def needs_phrase(expression: Expression, min_words: int) -> Look:
    """Refuses a text of at least `min_words` words in which the expression is not found."""
    regex = re.compile(expression.text, re.IGNORECASE)

    def look(before: str, block: str, conversation: Sequence[Message]) -> tuple[str, Found | None]:  # noqa: ARG001
        text = fold(block)
        num_words = len(text.split())
        if num_words < min_words or regex.search(text):
            return block, None
        return "", Found("", "refuse", details={"words": num_words})

    return look


def _looking(asked: Asked, decide: Callable[[Any], tuple[bool, dict[str, Any]]], on_error: str) -> Look:
    def look(before: str, block: str, conversation: Sequence[Message]) -> tuple[str, Found | None]:
        started = time.monotonic()
        said, error = asked(before + block, conversation)
        try:
            bad, details = (on_error == "refuse", {}) if error else decide(said)
        except (TypeError, ValueError) as wrong:
            error, bad, details = type(wrong).__name__, on_error == "refuse", {}
        details |= {"seconds": round(time.monotonic() - started, 3)} | ({"error": error} if error else {})
        if bad:
            return "", Found("", "refuse", details=details)
        # What could not be decided is let pass, and told to the log.
        return block, Found("", "allow", details=details) if error else None

    return look
