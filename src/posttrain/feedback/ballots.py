"""The records of the preference store. Frozen, standard library only, ValueError when built wrong."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from numbers import Real
from typing import Any

from posttrain.types import Message

KINDS = ("ranking", "choice", "rating", "label", "edit", "flag", "skip")
SOURCES = ("person", "judge", "verifier", "serving")


@dataclass(frozen=True, slots=True)
class Ballot:
    """What one annotator said about one prompt and some of its answers.

    `response_ids`: the answers in the order in which they were shown, left to right. `source`: one of SOURCES.
    `item_id`: the item that asked for it. `ranks[i]`, of a ranking: the place of `response_ids[i]`, 0 the best, equal
    places tie; a partial ballot lists the answers that it ranks and no other. `all_bad`, of a ranking: none of them is
    good enough. `value`: the response id of a choice, the number of a rating, text or a list of texts of a label, the
    better answer of an edit, the reason of a flag or a skip. `guidelines`: the version that was shown. `seconds`: time
    taken. `key`: chosen by the client; the store keeps one ballot a key. `details`: whatever a judge says of itself.
    `id`, `replaced_by` and, where nothing is given, `key` and `created` are the store's.
    """

    kind: str
    prompt_id: int
    response_ids: tuple[int, ...]
    annotator: str
    source: str = "person"
    item_id: int | None = None
    ranks: tuple[float, ...] | None = None
    all_bad: bool = False
    value: Any = None
    comment: str = ""
    guidelines: int | None = None
    seconds: float | None = None
    key: str = ""
    created: datetime | None = None
    id: int | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    replaced_by: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "response_ids", tuple(self.response_ids))
        object.__setattr__(self, "ranks", None if self.ranks is None else tuple(self.ranks))
        if self.created is not None and self.created.tzinfo is None:
            object.__setattr__(self, "created", self.created.replace(tzinfo=UTC))
        _require(self.kind in KINDS, f"kind is {self.kind!r}, expected one of {', '.join(KINDS)}")
        _require(self.source in SOURCES, f"source is {self.source!r}, expected one of {', '.join(SOURCES)}")
        check_name(self.annotator, "annotator")
        for name in ("comment", "key"):
            check_text(getattr(self, name), name)
        numbers = (self.prompt_id, *self.response_ids)
        _require(all(type(number) is int for number in numbers), "prompt_id and response_ids must be whole numbers")
        _require(len(set(self.response_ids)) == len(self.response_ids), "response_ids name an answer twice")
        if self.seconds is not None:
            _require(_finite(self.seconds) and self.seconds >= 0, f"seconds is {self.seconds!r}, expected at least 0")
        _require(isinstance(self.details, Mapping), "details must be a mapping")
        self._check_ranks()
        self._check_value()

    def _check_ranks(self) -> None:
        if self.kind != "ranking":
            _require(self.ranks is None, f"only a ranking has ranks, this is a {self.kind}")
            _require(not self.all_bad, f"only a ranking can say that all answers are bad, this is a {self.kind}")
            return
        num = len(self.response_ids)
        _require(num >= 2, f"a ranking needs at least two answers, got {num}")
        _require(self.ranks is not None, "a ranking needs ranks, one for each of response_ids, 0 the best")
        ranks = self.ranks or ()
        _require(len(ranks) == num, f"got {len(ranks)} ranks for {num} answers")
        _require(all(_finite(rank) for rank in ranks), f"ranks are {list(ranks)}, expected finite numbers")
        object.__setattr__(self, "ranks", tuple(float(rank) for rank in ranks))

    def _check_value(self) -> None:
        value, num = self.value, len(self.response_ids)
        if self.kind == "ranking":
            _require(value is None, "a ranking has ranks and no value")
        elif self.kind == "choice":
            _require(num >= 2, f"a choice needs at least two answers, got {num}")
            _require(
                type(value) is int and value in self.response_ids,
                f"the choice {value!r} is not among the answers {list(self.response_ids)}",
            )
        elif self.kind == "rating":
            _require(num == 1, f"a rating is about one answer, got {num}")
            _require(_finite(value), f"the rating is {value!r}, expected a finite number")
        elif self.kind == "label":
            texts = [value] if isinstance(value, str) else value
            right = isinstance(texts, list | tuple) and bool(texts) and all(isinstance(one, str) for one in texts)
            _require(right, f"the label is {value!r}, expected text or a list of texts")
        elif self.kind == "edit":
            _require(isinstance(value, str) and bool(value.strip()), "an edit needs the text of the better answer")
        else:
            _require(value is None or isinstance(value, str), f"the reason of a {self.kind} must be text")


@dataclass(frozen=True, slots=True)
class StoredPrompt:
    """A prompt of the store. `source`: where it came from; `fields`: whatever else its data says of it."""

    id: int
    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    source: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """An answer. `model`: what wrote it; `parameters`: how it was sampled; `token_ids`: what was sampled, to the
    token, where that is known; `scores`: those of a reward-model ensemble."""

    id: int
    prompt_id: int
    messages: tuple[Message, ...]
    model: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    token_ids: tuple[int, ...] | None = None
    scores: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """Answers to one prompt that `overlap` people are to compare."""

    id: int
    prompt_id: int
    response_ids: tuple[int, ...]
    overlap: int = 1


@dataclass(frozen=True, slots=True)
class Annotator:
    """Who votes. The token is not here: the store knows only its hash."""

    name: str
    source: str
    created: datetime


@dataclass(frozen=True, slots=True)
class Assignment:
    """An item on an annotator's screen. `order`: the response ids from left to right."""

    id: int
    item_id: int
    annotator: str
    order: tuple[int, ...]
    opened: datetime
    closed: datetime | None = None


def check_text(value: Any, name: str) -> None:
    """ValueError unless every database can hold the text."""
    _require(isinstance(value, str), f"{name} is {type(value).__name__}, expected text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} holds half of a surrogate pair, which is no character; remove it") from None
    _require("\0" not in value, f"{name} holds a NUL character, which not every database can keep; remove it")


def check_name(value: Any, name: str) -> None:
    """ValueError unless it is text that says something."""
    check_text(value, name)
    _require(bool(value.strip()), f"{name} is empty; give a name")


def _require(fulfilled: bool, complaint: str) -> None:
    if not fulfilled:
        raise ValueError(complaint)


def _finite(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
