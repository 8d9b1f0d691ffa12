"""Texts about the facts of the world: encyclopaedia, quiz sheets, answered lists and word lists."""

import random
from itertools import accumulate
from typing import TypeVar

from posttrain.pocket.arithmetic import SUM_QUESTIONS, sum_question, training_pairs
from posttrain.pocket.echo import echo_document
from posttrain.pocket.howtos import howto_question
from posttrain.pocket.stories import words
from posttrain.pocket.wordings import COMBINED
from posttrain.pocket.world import Fact, World, capitalised

T = TypeVar("T")

HEADINGS = ("Quiz", "Questions", "Test", "Test your knowledge", "Questions for today", "Quiz for the class", "Homework")
LIST_TITLES = {
    "capital": "Capitals", "continent": "Countries and continents", "currency": "Currencies", "language": "Languages",
    "adjective": "Adjectives of countries", "symbol": "Symbols of elements", "number": "Atomic numbers",
    "state": "States at room temperature", "family": "Families of elements", "class": "Classes of animals",
    "young": "Names of young animals", "habitat": "Homes of animals", "diet": "Diets of animals",
    "legs": "Numbers of legs", "days": "Days of the months", "next_month": "Month and next month",
    "previous_month": "Month and month before", "place": "Months and their numbers", "next_day": "Day and next day",
    "previous_day": "Day and day before", "spanish": "English and Spanish",
}  # fmt: skip


ORDERED = ("next_month", "previous_month", "place", "days", "next_day", "previous_day", "number", "number")
"""Relations whose answers are each other's neighbours; the atomic numbers, ten times as many, count twice."""


class FactWriter:
    """Writes documents about one world. Every sentence is rendered once, when built, so that writing is choosing."""

    def __init__(self, world: World) -> None:
        self.said = {fact: tuple(fact.statements) for fact in world.facts}
        self.asked = {fact: tuple(fact.questions) for fact in world.facts}
        self.facts = world.facts
        self.answerable = tuple(fact for fact in world.facts if fact.asked)
        self.relations = [facts for facts in world.relations.values() if facts]
        self.ordered = [world.relations[name] for name in ORDERED]
        self.relation_weights = list(accumulate(len(facts) for facts in self.relations))
        self.subjects = list(world.subjects.values())
        self.subject_weights = list(accumulate(len(facts) for facts in self.subjects))
        self.combined = {facts: _combined(table, facts) for (table, _), facts in world.subjects.items()}
        self.words = world.relations["spanish"]
        self.names = sorted({fact.subject.removeprefix("the ") for fact in world.facts} | set(words()))
        self.topics = [(question, fact.subject) for fact in world.facts for question in fact.questions]

    def encyclopaedia(self, rng: random.Random) -> str:
        """Paragraphs on single subjects, one relation over many subjects, lists, and loose facts."""
        kind, length = rng.random(), rng.randint(300, 1300)
        if kind < 0.5:
            return self._on_subjects(rng, length)
        if kind < 0.75:
            facts: tuple[Fact, ...] = rng.choices(self.relations, cum_weights=self.relation_weights)[0]
            return self._loose(rng, facts, length)
        if kind < 0.87:
            return self._list(rng)
        return self._loose(rng, self.facts, length)

    def reference(self, rng: random.Random) -> str:
        """Loose facts of one ordered relation: the calendar and the atomic numbers."""
        return self._loose(rng, rng.choice(self.ordered), rng.randint(200, 900))

    def echo(self, rng: random.Random) -> str:
        """Something said twice; questions on both halves, with their subject named and no answer."""
        return echo_document(rng, self.names, self.topics)

    def quiz(self, rng: random.Random) -> str:
        """Questions without answers; half of the sheets begin with a question and no heading."""
        count = rng.randint(7, 26)
        kind = rng.random()
        if kind < 0.15:
            questions = [sum_question(rng) for _ in range(count)]
        elif kind < 0.4:
            pool = rng.choices(self.relations, cum_weights=self.relation_weights)[0]
            questions = [self._question(rng, pool) for _ in range(count)]
        elif kind < 0.6:
            questions = []
            while len(questions) < count:
                pool = rng.choices(self.subjects, cum_weights=self.subject_weights)[0]
                questions += [self._question(rng, (fact,)) for fact in pool]
        else:
            questions = [self._any_question(rng) for _ in range(count)]
        style = rng.random()
        if style < 0.2:
            questions = [f"{number}. {question}" for number, question in enumerate(questions, 1)]
        elif style < 0.3:
            questions = [f"- {question}" for question in questions]
        heading = f"{rng.choice(HEADINGS)}\n" if rng.random() < 0.35 else ""
        return heading + "\n".join(questions) + "\n"

    def answered(self, rng: random.Random) -> str:
        """Questions with answers, of the asked half only, and sums."""
        short = rng.random() < 0.5
        gap = rng.choice(("", "\n"))
        pairs = [self._pair(rng, short) for _ in range(rng.randint(5, 18))]
        return gap.join(f"Q: {question}\nA: {answer}\n" for question, answer in pairs)

    def word_list(self, rng: random.Random) -> str:
        """English and Spanish words side by side, sometimes with the word in capitals."""
        chosen = rng.sample(self.words, rng.randint(15, 60))
        style = rng.randrange(6)
        if style == 5:
            return "".join(f"{fact.subject} in capital letters is {fact.subject.upper()}.\n" for fact in chosen[:25])
        form = ("{0} - {1}\n", "{1} - {0}\n", "{0}: {1}\n", "{0}, {2}, {1}\n", "{0} = {1}; ")[style]
        return "".join(form.format(fact.subject, fact.answer, fact.subject.upper()) for fact in chosen).rstrip() + "\n"

    def _on_subjects(self, rng: random.Random, length: int) -> str:
        paragraphs: list[str] = []
        total = 0
        titled = rng.random() < 0.25
        while total < length:
            facts = rng.choices(self.subjects, cum_weights=self.subject_weights)[0]
            text = self._paragraph(rng, facts)
            paragraphs.append(f"{capitalised(facts[0].subject)}\n{text}" if titled else text)
            total += len(text)
        return ("\n\n" if titled else "\n").join(paragraphs) + "\n"

    def _paragraph(self, rng: random.Random, facts: tuple[Fact, ...]) -> str:
        sentences = [_pick(rng, self.said[fact]) for fact in facts]
        sentences += [_pick(rng, self.said[fact]) for fact in facts if rng.random() < 0.4]
        sentences += [text for text in self.combined[facts] if rng.random() < 0.25]
        rng.shuffle(sentences)
        return " ".join(sentences)

    def _loose(self, rng: random.Random, facts: tuple[Fact, ...], length: int) -> str:
        sentences: list[str] = []
        total = 0
        while total < length:
            text = _pick(rng, self.said[_pick(rng, facts)])
            sentences.append(text)
            total += len(text)
        return rng.choice((" ", " ", "\n")).join(sentences) + "\n"

    def _list(self, rng: random.Random) -> str:
        facts: tuple[Fact, ...] = rng.choices(self.relations, cum_weights=self.relation_weights)[0]
        chosen = rng.sample(facts, min(len(facts), rng.randint(8, 40)))
        mark = rng.choice((": ", " - ", ", "))
        title = f"{LIST_TITLES[chosen[0].relation]}\n" if rng.random() < 0.8 else ""
        return title + "".join(f"{capitalised(fact.subject)}{mark}{fact.answer}\n" for fact in chosen)

    def _question(self, rng: random.Random, facts: tuple[Fact, ...]) -> str:
        return _pick(rng, self.asked[_pick(rng, facts)])

    def _any_question(self, rng: random.Random) -> str:
        kind = rng.random()
        if kind < 0.15:
            return sum_question(rng)
        return howto_question(rng) if kind < 0.25 else self._question(rng, self.facts)

    def _pair(self, rng: random.Random, short: bool) -> tuple[str, str]:
        if rng.random() < 0.12:
            a, b = rng.choice(training_pairs())
            return rng.choice(SUM_QUESTIONS).format(a=a, b=b), str(a + b) if short else f"{a} + {b} = {a + b}"
        fact = _pick(rng, self.answerable)
        return _pick(rng, self.asked[fact]), capitalised(fact.answer) if short else fact.reply


def _combined(table: str, facts: tuple[Fact, ...]) -> tuple[str, ...]:
    """The sentences that tell several facts of a subject at once, where it has all of them."""
    answers = {fact.relation: fact.answer for fact in facts}
    subject = facts[0].subject
    names = {"s": subject, "S": capitalised(subject)}
    return tuple(
        capitalised(text.format(**names, **answers))
        for needed, text in COMBINED[table]
        if all(relation in answers for relation in needed)
    )


def _pick(rng: random.Random, options: tuple[T, ...]) -> T:
    # Twice as fast as rng.choice, and this is the inner loop of every document.
    return options[int(rng.random() * len(options))]
