"""The text that the base model is pre-trained on: an endless, seeded stream of documents.

No document is a chat, no question on the held-out half is answered, and no held-out sum appears.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from posttrain.pocket.arithmetic import arithmetic_document, is_heldout_sum
from posttrain.pocket.howtos import howto_document
from posttrain.pocket.prose import FactWriter
from posttrain.pocket.stories import story_document
from posttrain.pocket.world import World

__all__ = ["MIXTURE", "PHASES", "Phase", "documents", "is_heldout_sum"]

MIXTURE: dict[str, float] = {
    "encyclopaedia": 0.45,
    "quiz": 0.12,
    "answered": 0.07,
    "arithmetic": 0.14,
    "story": 0.10,
    "howto": 0.06,
    "words": 0.06,
}
"""Share of each kind of document in the text, counted in characters."""

_SUMS: dict[str, float] = {
    "encyclopaedia": 0.24,
    "reference": 0.10,
    "quiz": 0.10,
    "answered": 0.06,
    "arithmetic": 0.36,
    "story": 0.04,
    "howto": 0.06,
    "words": 0.04,
}
_ECHOES: dict[str, float] = {
    "encyclopaedia": 0.22,
    "reference": 0.06,
    "quiz": 0.10,
    "answered": 0.12,
    "arithmetic": 0.16,
    "echo": 0.24,
    "story": 0.02,
    "howto": 0.05,
    "words": 0.03,
}


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of pre-training: how many tokens, the peak of its learning rate, the shares of its text."""

    num_tokens: int
    learning_rate: float
    mixture: Mapping[str, float]


PHASES = (Phase(14_000_000, 3e-3, MIXTURE), Phase(8_000_000, 2e-3, _SUMS), Phase(5_000_000, 1.5e-3, _ECHOES))
"""First the facts; then sums, which are learned late and all at once, and the facts that are mixed up most easily; then
copying, without which an answer in a sentence cannot name the subject of its question."""


def documents(world: World, seed: int = 0, mixture: Mapping[str, float] = MIXTURE) -> Iterator[tuple[str, str]]:
    """Endless (kind, text) pairs, the same for the same seed; a text ends with a newline."""
    rng = random.Random(f"corpus:{seed}")
    writer = FactWriter(world)
    write: dict[str, Callable[[random.Random], str]] = {
        "encyclopaedia": writer.encyclopaedia,
        "reference": writer.reference,
        "echo": writer.echo,
        "quiz": writer.quiz,
        "answered": writer.answered,
        "arithmetic": arithmetic_document,
        "story": story_document,
        "howto": howto_document,
        "words": writer.word_list,
    }
    # The kind that is furthest behind its share comes next, so that any stretch of the stream has the mixture.
    spent = dict.fromkeys(mixture, 0.0)
    while True:
        kind = min(spent, key=lambda name: spent[name])
        text = write[kind](rng)
        spent[kind] += len(text) / mixture[kind]
        yield kind, text
