"""Texts in which what was said is said again: lists, words in other dress, the subject of a question.

A model that answers in a sentence must first write the subject of the question, whichever it is. Copying is a skill of
its own (Olsson et al., 2022, *In-context learning and induction heads*); these texts teach it on every subject and on
made-up names, and answer nothing.
"""

import random
from collections.abc import Sequence

SYLLABLES = tuple(a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "el", "or"))
AGAIN = ("Again:", "Once more:", "The same list:", "Repeated:", "In other words:")
ABOUT = (
    "That is a question about {s}.",
    "It asks about {s}.",
    "The subject is {s}.",
    "Somebody wants to know about {s}.",
    "Let us think about {s}.",
)
FORMS = (
    "The word {w} in capital letters is {W}.",
    "{w} in capital letters: {W}",
    "{w} three times: {w} {w} {w}",
    "{w} two times: {w} {w}",
    "Say {w}: {w}",
    "{w} followed by {v}: {w} {v}",
    "The last word of {v}, {u}, {w} is {w}.",
    "The first word of {w}, {u}, {v} is {w}.",
)
SCENES = (
    "{a} met {b}. {b} said: hello, {a}. {a} said: hello, {b}.",
    "My name is {a}. So I am {a}.",
    "{a} and {b} are here. Who is here? {a} and {b} are here.",
    "Say hello to {a}: Hello, {a}!",
)


def echo_document(rng: random.Random, words: Sequence[str], questions: Sequence[tuple[str, str]]) -> str:
    """One document; `questions` are (question, subject) pairs, of both halves, and stay unanswered."""
    kind = rng.random()
    if kind < 0.3:
        return "\n".join(_list(rng, words) for _ in range(rng.randint(1, 4))) + "\n"
    if kind < 0.6:
        chosen = rng.sample(questions, rng.randint(5, 14))
        return "".join(f"{question} {rng.choice(ABOUT).format(s=subject)}\n" for question, subject in chosen)
    if kind < 0.85:
        return "\n".join(_form(rng, words) for _ in range(rng.randint(6, 18))) + "\n"
    lines = (rng.choice(SCENES).format(a=_name(rng), b=_name(rng)) for _ in range(rng.randint(3, 9)))
    return rng.choice((" ", "\n")).join(lines) + "\n"


def _name(rng: random.Random) -> str:
    return "".join(rng.choice(SYLLABLES) for _ in range(rng.randint(2, 3))).capitalize()


def _item(rng: random.Random, words: Sequence[str]) -> str:
    return _name(rng).lower() if rng.random() < 0.3 else rng.choice(words)


def _list(rng: random.Random, words: Sequence[str]) -> str:
    mark = rng.choice((", ", "; ", " "))
    items = mark.join(_item(rng, words) for _ in range(rng.randint(4, 14)))
    return f"{items}. {rng.choice(AGAIN)} {items}."


def _form(rng: random.Random, words: Sequence[str]) -> str:
    word, other, third = (_item(rng, words) for _ in range(3))
    return rng.choice(FORMS).format(w=word, W=word.upper(), v=other, u=third)
