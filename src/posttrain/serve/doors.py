"""What the parts of serving hand each other: requests to an engine, its pieces, guards, exchanges, votes, outcomes.

Records are frozen. An engine, a guard, a split and a keeper are protocols: the recipe chooses who fulfils them, and a
test puts a few lines in their place.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from posttrain.errors import PosttrainError
from posttrain.rollouts.sampling import Decoding, Request
from posttrain.types import Message

VOTES = ("up", "down", "better", "edit", "regenerated")


class Busy(PosttrainError):
    """The queue is full. `retry_after_s`: when to ask again."""

    def __init__(self, said: str, retry_after_s: float = 1.0) -> None:
        super().__init__(said)
        self.retry_after_s = retry_after_s


class UnknownModel(PosttrainError):
    """No model of this name is served."""


class TooLong(PosttrainError):
    """A prompt leaves no room in the context."""


class Stopped(PosttrainError):
    """The engine was closed before an answer's end."""


class UnknownExchange(PosttrainError):
    """A vote is about an answer that this server has not given, or no longer knows."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What an engine is asked: a prompt as token ids with one seed for each answer, and how tokens are drawn.

    `num_top`: None for no log-probabilities, else as many of the likeliest tokens stand beside each chosen one (0:
    none). `score_prompt`: the log-probability of every prompt token behind the ones before it is wanted too.
    `logit_bias`: added to the logits of these ids before anything else. `min_tokens`: before as many tokens no stop
    token is drawn, and no stop string heeded.
    """

    request: Request
    decoding: Decoding
    num_top: int | None = None
    score_prompt: bool = False
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    min_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Token:
    """A token with its log-probability under the distribution that it was drawn from (None: the first of a prompt,
    which nothing foretells), and the likeliest ones in its place, likeliest first."""

    id: int
    logp: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """What one answer grew by. `number`: which of the answers asked for. `text`: what may be sent: it ends before half
    a character and before what may become a stop string; without stop token and stop string. The texts of an answer's
    pieces joined are its text. `finish`: '' while it goes on, else 'stop' or 'length'. `prompt`: the scored prompt, in
    the first piece of answer 0 where it was asked for."""

    number: int
    text: str
    tokens: tuple[Token, ...] = ()
    finish: str = ""
    prompt: tuple[Token, ...] = ()


@dataclass(frozen=True, slots=True)
class Load:
    """How busy an engine is: answers that are being written, answers that wait, keys and values held (positions)."""

    running: int = 0
    waiting: int = 0
    held_positions: int = 0


@dataclass(frozen=True, slots=True)
class Served:
    """A model that is served. `root`: the folder; `parent`: of an adapter the model under it, else ''."""

    name: str
    tokenizer: Any
    context: int
    root: str
    parent: str = ""
    created: int = 0


class Engine(Protocol):
    """Writes answers, many at once."""

    def models(self) -> list[Served]:
        """Everything that is served."""
        ...

    def model(self, name: str) -> Served:
        """Raises UnknownModel."""
        ...

    def stream(self, model: str, asked: Asked) -> AsyncIterator[Piece]:
        """The pieces of all answers as they grow. Raises Busy, UnknownModel or TooLong before the first, a ValueError
        where a token id is none of the model's; later ModelError where the model fails, Stopped where the engine is
        closed. Leaving the iterator (or cancelling its task) ends the answers and gives their memory back at once."""
        ...

    def load_adapter(self, name: str, folder: str) -> Served:
        """Serve an adapter folder under a name. Raises ModelError; a ValueError where the name is taken."""
        ...

    def load_model(self, name: str, folder: str) -> Served:
        """Serve a model (or adapter) folder under a name; one of the same name is replaced once the new one is proven,
        and what it was writing is written to its end."""
        ...

    def unload(self, name: str) -> None:
        """Serve it no more; its running answers end first. Raises UnknownModel."""
        ...

    def load(self) -> Load:
        """How busy it is."""
        ...

    def close(self) -> None:
        """Let go of everything; running answers end."""
        ...


@dataclass(frozen=True, slots=True)
class Ruling:
    """What a guard decided: `action` is 'allow', 'redact' or 'refuse'; `rule`: which rule (its name in the file);
    `told`: the sentence for the user; `where`: 'input' or 'output'; `details` for the log, without the user's text."""

    action: str
    rule: str = ""
    told: str = ""
    where: str = "input"
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Passed:
    """Text that may go out now, and the ruling that ended or changed the answer, if one did."""

    text: str
    ruling: Ruling | None = None


class Watch(Protocol):
    """A guard's eye on one answer while it is streamed."""

    def feed(self, text: str) -> Passed:
        """More of the answer; what may go out of all that was fed. After a refusal nothing goes out any more."""
        ...

    def end(self) -> Passed:
        """The answer is whole: what was held back, or the refusal."""
        ...


class Guard(Protocol):
    """Rules on what comes in and what goes out."""

    def check(self, messages: Sequence[Message], user: str) -> Ruling:
        """What a conversation may do; every decision that is not 'allow' is logged by the guard."""
        ...

    def watch(self, messages: Sequence[Message], user: str) -> Watch:
        """An eye on one answer."""
        ...


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request with its answers, as it was served. `user`: opaque, already hashed. `model`: what answered; `arm`:
    its arm in the A/B test, '' outside one. `may_keep`: the user agreed that the text is kept and learned from.
    `replaces`: the id of the exchange that this one was asked for again instead of."""

    id: str
    user: str
    messages: tuple[Message, ...]
    answers: tuple[Message, ...]
    model: str
    arm: str = ""
    tools: tuple[Mapping[str, Any], ...] = ()
    may_keep: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict)
    token_ids: tuple[tuple[int, ...], ...] = ()
    replaces: str = ""
    created: datetime | None = None


@dataclass(frozen=True, slots=True)
class Vote:
    """What a user says of answers. `kind`, one of VOTES; `exchange` and `answer`: which answer is meant: the one that
    is good or bad, the better one, the one that was edited or asked for again. `over`: of 'better' the others that were
    shown. `text`: of 'edit' the user's own words. `key`: chosen by the client; one sent again is the same vote."""

    key: str
    user: str
    kind: str
    exchange: str
    answer: int = 0
    over: tuple[tuple[str, int], ...] = ()
    text: str = ""
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an A/B test learns from a vote: how good (0 to 1) a user found an arm's answer. `versus`: of a 'better' vote
    between two arms the other arm; then `value` is 1 where `arm` won, 0.5 for a tie. `replaced`: when the user took it
    back for another on the same answers, None where it stands."""

    user: str
    arm: str
    value: float
    kind: str
    versus: str = ""
    created: datetime | None = None
    replaced: datetime | None = None


class Keeper(Protocol):
    """Where exchanges and votes go. Both methods return after the commit and may be called from any thread."""

    def keep(self, exchange: Exchange) -> None:
        """Remember an exchange, its text only where it may be kept (personal data blotted out)."""
        ...

    def vote(self, vote: Vote) -> list[Outcome]:
        """Keep a vote; the outcomes that it makes. Raises UnknownExchange, StoreError, StoreAway, ValueError."""
        ...

    def outcomes(self) -> list[Outcome]:
        """Of all votes so far, in the order of their casting."""
        ...


class Split(Protocol):
    """Which model answers whom."""

    @property
    def arms(self) -> tuple[str, ...]:
        """The names of the models, the one in use before the test first."""
        ...

    def arm(self, user: str) -> str:
        """The arm of a user, always the same one."""
        ...

    def heard(self, outcomes: Sequence[Outcome]) -> None:
        """Learn from outcomes."""
        ...

    def state(self) -> dict[str, Any]:
        """Users and outcomes by arm, and how the traffic is split at the moment."""
        ...
