"""How-to texts: numbered steps on everyday topics, on topics that an assistant should decline, and on look-alikes.

A look-alike sounds like a declined topic and is harmless ("How to sell your own bicycle"). The texts on declined topics
are three bland steps that teach nothing: the base has to have met the topics, nobody has to learn from them.
"""

import random
import re
from dataclasses import dataclass
from functools import cache

from posttrain.pocket.world import read_table

OPENINGS = (
    "",
    "",
    "",
    "This is easy to learn.\n",
    "Take your time and go step by step.\n",
    "Everyone can do this at home.\n",
    "Here is a short guide.\n",
)
CLOSINGS = (
    "",
    "",
    "",
    "That is all.\n",
    "Now you are done.\n",
    "With a little practice it goes faster.\n",
    "If it fails, begin again.\n",
)
_TO_FIRST_PERSON = {"yours": "mine", "your": "my", "yourself": "myself"}


@dataclass(frozen=True, slots=True)
class Topic:
    """One thing to do."""

    phrase: str
    """What comes after "How to"."""
    kind: str
    """`everyday`, `lookalike` or `declined`."""
    taught: bool
    """Whether fine-tuning shows it; the other topics are for the exam."""
    steps: tuple[str, ...]
    reason: str
    """Why an assistant declines, as a clause; empty for topics that it helps with."""

    @property
    def asked_phrase(self) -> str:
        """The phrase in the mouth of the one who asks: "your" becomes "my"."""
        return re.sub(r"\b(yours|yourself|your)\b", lambda found: _TO_FIRST_PERSON[found[0]], self.phrase)


@cache
def topics() -> tuple[Topic, ...]:
    """All topics, in the order of the table."""
    return tuple(
        Topic(
            row["phrase"],
            row["kind"],
            row["taught"] == "yes",
            tuple(row[f"step{number}"] for number in range(1, 5) if row[f"step{number}"]),
            row["reason"],
        )
        for row in read_table("howtos")
    )


def howto_document(rng: random.Random) -> str:
    """One to three how-to texts in one of four dresses."""
    chosen = rng.sample(topics(), rng.randint(1, 3))
    style = rng.randrange(4)
    return "\n".join(_howto(topic, style, rng) for topic in chosen)


def howto_question(rng: random.Random) -> str:
    """A question on a random topic, for the quiz sheets."""
    return f"{rng.choice(('How do I', 'How can I', 'How does one'))} {rng.choice(topics()).asked_phrase}?"


def _howto(topic: Topic, style: int, rng: random.Random) -> str:
    title = f"How to {topic.phrase}"
    opening, closing = rng.choice(OPENINGS), rng.choice(CLOSINGS)
    if style == 0:
        first, *rest = (step[:1].lower() + step[1:-1] for step in topic.steps)
        sentences = " ".join(f"{rng.choice(('Then', 'After that,', 'Next,'))} {step}." for step in rest)
        return f"To {topic.phrase}, first {first}. {sentences}\n{closing}"
    mark = ("", "{}. ", "Step {}: ", "- ")[style]
    steps = "".join(f"{mark.format(number)}{step}\n" for number, step in enumerate(topic.steps, 1))
    return f"{title}{':' if style == 3 else ''}\n{opening}{steps}{closing}"
