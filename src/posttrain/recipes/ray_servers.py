"""Several servers of one model: the work is shared out among them, and what fails on one is asked of another."""

import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

from posttrain.errors import ConfigError
from posttrain.recipes.ray_jobs import Held
from posttrain.recipes.text_model import text_model
from posttrain.rollouts.endpoint import ServerError

ASIDE_S = 30.0
"""How long a server is left alone after nothing came of it."""


class Servers:
    """`models`: one for each address. A job begins at the server that its number gives it, so that servers have like
    shares."""

    def __init__(self, held: Held) -> None:
        how = dict(held.server)
        try:
            self.models = [text_model(held.name, url=url, **how) for url in held.urls]
        except ConfigError as error:  # the key is looked for in the environment of the worker's machine
            raise ConfigError(f"on machine {socket.gethostname()} of the Ray cluster: {error}") from None
        self.urls: list[str] = [str(model.identity["url"]) for model in self.models]
        self._aside: dict[int, float] = {}
        self._failed: dict[str, tuple[int, str]] = {}

    def ask(self, number: int, asks: Sequence[Any], answer: Callable[[Any, Sequence[Any]], Sequence[Any]]) -> list[Any]:
        """An answer for every ask. One that fails on its way is asked of the next server; the last one's error stays
        with it. Raises ServerError where all servers fail for all."""
        found: list[Any] = [None] * len(asks)
        left, fatal = list(range(len(asks))), None
        for place in self._order(number):
            try:
                got: Sequence[Any] = answer(self.models[place], [asks[number] for number in left])
            except ServerError as error:
                fatal = error
                self._note(place, len(left), str(error))
                continue
            for each, one in zip(left, got, strict=True):
                found[each] = one
            failed = [each for each in left if self._failed_there(place, found[each])]
            if failed:
                self._note(place, len(failed), self._error(found[failed[-1]]), aside=len(failed) == len(left))
            left = failed
            if not left:
                break
        if fatal is not None and all(one is None for one in found):
            raise fatal
        return found

    def failures(self) -> list[tuple[str, int, str]]:
        """(server, requests that failed there, the last error) since the last call."""
        found = [(url, count, error) for url, (count, error) in self._failed.items()]
        self._failed.clear()
        return found

    def _order(self, number: int) -> list[int]:
        """The servers from this job's own on; those set aside come last."""
        turn = [(number + step) % len(self.models) for step in range(len(self.models))]
        now = time.monotonic()
        return sorted(turn, key=lambda place: now < self._aside.get(place, 0.0))

    def _note(self, place: int, count: int, error: str, *, aside: bool = True) -> None:
        before, _ = self._failed.get(self.urls[place], (0, ""))
        self._failed[self.urls[place]] = (before + count, error)
        if aside:
            self._aside[place] = time.monotonic() + ASIDE_S

    def _failed_there(self, place: int, found: Any) -> bool:
        """Whether the way there failed, whose errors begin with the address; what a model says is its answer."""
        return self._error(found).startswith(self.urls[place])

    @staticmethod
    def _error(found: Any) -> str:
        errors = [one.error for one in found] if isinstance(found, list) else [found.error]
        return next((error for error in errors if error), "")
