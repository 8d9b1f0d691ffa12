"""What a server hands to the store, told by its attributes alone: the server's own records fit."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from posttrain.feedback.ballots import check_name, check_text
from posttrain.feedback.served_outcomes import VALUES
from posttrain.types import Message

MAX_OVER = 7  # other answers that one vote may be about


class Exchange(Protocol):
    """A request with its answers, as a server hands it over."""

    @property
    def id(self) -> str: ...
    @property
    def user(self) -> str: ...
    @property
    def messages(self) -> Sequence[Message]: ...
    @property
    def answers(self) -> Sequence[Message]: ...
    @property
    def model(self) -> str: ...
    @property
    def arm(self) -> str: ...
    @property
    def tools(self) -> Sequence[Mapping[str, Any]]: ...
    @property
    def may_keep(self) -> bool: ...
    @property
    def parameters(self) -> Mapping[str, Any]: ...
    @property
    def token_ids(self) -> Sequence[Sequence[int]]: ...
    @property
    def replaces(self) -> str: ...
    @property
    def created(self) -> datetime | None: ...


class Vote(Protocol):
    """What a user says of answers, as a server hands it over."""

    @property
    def key(self) -> str: ...
    @property
    def user(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def exchange(self) -> str: ...
    @property
    def answer(self) -> int: ...
    @property
    def over(self) -> Sequence[tuple[str, int]]: ...
    @property
    def text(self) -> str: ...
    @property
    def comment(self) -> str: ...


def check_vote(vote: Vote) -> None:
    """ValueError unless the vote says something."""
    if vote.kind not in VALUES:
        raise ValueError(f"kind is {vote.kind!r}, expected one of {', '.join(VALUES)}")
    for name in ("key", "user", "exchange"):
        check_name(getattr(vote, name), name)
    for name in ("text", "comment"):
        check_text(getattr(vote, name), name)
    others = {(str(one), int(place)) for one, place in vote.over}
    if vote.kind == "better":
        if not others or len(others) != len(vote.over) or (vote.exchange, vote.answer) in others:
            raise ValueError("'better' names in `over` the other answers that were shown, each once")
        if len(others) > MAX_OVER:
            raise ValueError(f"'better' is about {len(others) + 1} answers, the most is {MAX_OVER + 1}")
    elif others:
        raise ValueError(f"only 'better' is over other answers, this is {vote.kind!r}")
    if vote.kind == "edit" and not vote.text.strip():
        raise ValueError("an edit needs the text of the better answer")
