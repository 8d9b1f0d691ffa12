"""The closed world: real facts from the tables, each with a gold answer, split in two halves by subject.

The `asked` half is the one whose questions may be answered, in pre-training and in fine-tuning. Questions on the other
half are answered nowhere, so that a right answer to one shows knowledge that fine-tuning opened and did not teach.
"""

import csv
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files

from posttrain.pocket.wordings import WORDINGS


@dataclass(frozen=True, slots=True)
class Fact:
    """One cell of one table: the relation of a subject has this answer."""

    subject: str
    relation: str
    answer: str
    asked: bool
    """Whether the subject is of the half whose questions are answered in the data."""

    @property
    def statements(self) -> list[str]:
        """The fact in every wording, the plain one first."""
        fields = _fields(self.subject, self.answer)
        return [_fill(wording, fields) for wording in WORDINGS[self.relation].statements]

    @property
    def completion(self) -> str:
        """The plain statement up to its answer, without the blank before the answer."""
        return _fill(WORDINGS[self.relation].completion, _fields(self.subject, self.answer))

    @property
    def reply(self) -> str:
        """The sentence that answers a question on this fact."""
        return self.statements[0]

    @property
    def questions(self) -> list[str]:
        """The question wordings that pre-training shows."""
        return self.ask("questions")

    def ask(self, group: str) -> list[str]:
        """The wordings of one group of questions: `questions`, `chat_questions` or `eval_questions`."""
        fields = _fields(self.subject, self.answer)
        return [_fill(wording, fields) for wording in getattr(WORDINGS[self.relation], group)]


@dataclass(frozen=True)
class World:
    """All facts, in the order of the tables."""

    facts: tuple[Fact, ...]
    seed: int = 0

    @cached_property
    def subjects(self) -> Mapping[tuple[str, str], tuple[Fact, ...]]:
        """Facts by (table, subject): a word may stand in two tables, always in the same half."""
        grouped: dict[tuple[str, str], list[Fact]] = {}
        for fact in self.facts:
            grouped.setdefault((WORDINGS[fact.relation].table, fact.subject), []).append(fact)
        return {key: tuple(facts) for key, facts in grouped.items()}

    @cached_property
    def relations(self) -> Mapping[str, tuple[Fact, ...]]:
        """Facts by relation."""
        grouped: dict[str, list[Fact]] = {name: [] for name in WORDINGS}
        for fact in self.facts:
            grouped[fact.relation].append(fact)
        return {name: tuple(facts) for name, facts in grouped.items()}


def build_world(seed: int = 0) -> World:
    """The world of a seed: the facts are always the same, the seed draws the two halves."""
    facts: list[Fact] = []
    for table in dict.fromkeys(wording.table for wording in WORDINGS.values()):
        relations = [(name, wording.column) for name, wording in WORDINGS.items() if wording.table == table]
        for row in read_table(table):
            subject = next(iter(row.values()))
            asked = is_asked(subject, seed)
            facts += [Fact(subject, name, row[column], asked) for name, column in relations if row[column]]
    return World(tuple(facts), seed)


def read_table(name: str) -> list[dict[str, str]]:
    """Rows of `tables/<name>.tsv`; the first column is the subject, an empty cell a fact left out as unsure."""
    text = files("posttrain.pocket").joinpath("tables", f"{name}.tsv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))


def is_asked(subject: str, seed: int = 0) -> bool:
    """Whether a subject falls in the asked half. Hashed by the name alone, so new rows never move old ones."""
    return stable_share(f"half-f:{seed}:{subject.lower()}") < 0.5


def stable_share(text: str) -> float:
    """A number in [0, 1) that depends on the text only: the same in every process and on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def with_article(noun: str) -> str:
    """The noun with "a" or "an" before it."""
    return f"{'an' if noun[:1] in 'aeioAEIO' and not noun.startswith('eu') else 'a'} {noun}"


def capitalised(text: str) -> str:
    """The text with its first letter in upper case, the rest as it is."""
    return text[:1].upper() + text[1:]


def _fields(subject: str, answer: str) -> dict[str, str]:
    an, aa = with_article(subject), with_article(answer)
    return {
        "s": subject, "S": capitalised(subject), "an": an, "An": capitalised(an),
        "a": answer, "A": capitalised(answer), "aa": aa, "Aa": capitalised(aa),
    }  # fmt: skip


def _fill(wording: str, fields: dict[str, str]) -> str:
    return capitalised(wording.format(**fields))
