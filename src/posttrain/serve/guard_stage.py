"""What every kind of rule is while text runs through it: a stage that lets text out once nothing more can be found in
it, whatever the pieces that it came in."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from posttrain.types import Message


@dataclass(frozen=True, slots=True)
class Found:
    """What a rule did. `action`: 'refuse', 'redact', or 'allow' where it could not decide and lets pass. `place`: at
    which character of the text. `details`: for the log, nothing of the text itself."""

    rule: str
    action: str
    told: str = ""
    place: int = 0
    details: dict[str, Any] = field(default_factory=dict)


class Stage(Protocol):
    """A rule, or several, at work on one text. `found`: what was done since it was last emptied, oldest first; a
    refusal is the last, and nothing is let out behind it."""

    found: list[Found]

    def feed(self, text: str) -> str:
        """More text; what may go on."""
        ...

    def end(self) -> str:
        """The text is whole; the rest of what may go on."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule of the file. `told`: the sentence for the user. `on_input`, `on_output`: where it holds. `roles`,
    `look_at`: at which messages of the input it looks: the `last` one of each role and what follows the last answer,
    or `all`."""

    name: str
    told: str = ""
    on_input: bool = True
    on_output: bool = False
    roles: tuple[str, ...] = ("user",)
    look_at: str = "last"

    def stage(self, conversation: Sequence[Message]) -> Stage:
        """The rule at work on a new text; of an answer, `conversation` is what it answers."""
        raise NotImplementedError


def looked_at(messages: Sequence[Message], rule: Rule) -> list[int]:
    """The places of the messages that a rule on the input looks at."""
    places = [place for place, message in enumerate(messages) if message.role in rule.roles]
    if rule.look_at == "all":
        return places
    answers = [place for place, message in enumerate(messages) if message.role == "assistant"]
    since = answers[-1] if answers else -1
    newest = {messages[place].role: place for place in places}
    return [place for place in places if place > since or newest[messages[place].role] == place]
