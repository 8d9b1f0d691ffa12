"""Small instructions whose fulfilment can be checked: write in capitals, repeat, count, name three birds."""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from posttrain.pocket.stories import NAMES, words
from posttrain.pocket.world import Fact, stable_share, with_article

TIMES = {2: "two", 3: "three", 4: "four"}
GROUPS = {
    "class": (("Name {one} animal that is {aa}.", "Name {three} animals of this kind: {a}."), "the {s}"),
    "continent": (("Name {one} country in {a}.", "Name {three} countries in {a}."), "{s}"),
}
"""Instructions that ask for members of a group, by relation: for one, for three; and how a member is named."""
MIN_GROUP = 4


@dataclass(frozen=True, slots=True)
class Instruction:
    """A prompt, a good reply, and what makes any reply right."""

    prompt: str
    reply: str
    answers: tuple[str, ...]
    """Phrases of which `num_needed` have to be in a right reply."""
    wrongs: tuple[str, ...] = ()
    """Phrases that no right reply has beside the answers."""
    num_needed: int = 1


def is_taught(text: str) -> bool:
    """Whether fine-tuning may use this word or number range in instructions; the exam uses the others."""
    return stable_share(f"instruction:{text}") < 0.6


def instructions(rng: random.Random, facts: Sequence[Fact], *, taught: bool) -> Iterable[Instruction]:
    """Endless instructions over the taught or the other words; groups are drawn from `facts`."""
    pool = [word for word in words() if is_taught(word) == taught]
    ranges = [(a, b) for a in range(1, 30) for b in range(a + 2, a + 7) if is_taught(f"{a}-{b}") == taught]
    makers: list[Callable[[], Instruction]] = [
        lambda: _capitals(rng, pool),
        lambda: _repeat(rng, pool),
        lambda: _followed(rng, pool),
        lambda: _end_of_list(rng, pool),
        lambda: _answer_with(rng, pool),
        lambda: _count(rng, ranges),
        lambda: _hello(rng, taught),
        lambda: _group(rng, facts),
        lambda: _group(rng, facts),
    ]
    while True:
        yield from (make() for make in rng.sample(makers, len(makers)))


def _capitals(rng: random.Random, pool: Sequence[str]) -> Instruction:
    word = rng.choice(pool)
    prompt = rng.choice(("Write the word {w} in capital letters.", "Put the word {w} into capital letters."))
    return Instruction(prompt.format(w=word), word.upper(), (word.upper(),))


def _repeat(rng: random.Random, pool: Sequence[str]) -> Instruction:
    word, times = rng.choice(pool), rng.choice(list(TIMES))
    prompt = rng.choice(("Repeat the word {w} {n} times.", "Write the word {w} {n} times."))
    reply = " ".join([word] * times)
    return Instruction(prompt.format(w=word, n=TIMES[times]), reply, (reply,), (word,))


def _followed(rng: random.Random, pool: Sequence[str]) -> Instruction:
    first, second = rng.sample(pool, 2)
    reply = f"{first} {second}"
    return Instruction(f"Write the word {first} followed by the word {second}.", reply, (reply,))


def _end_of_list(rng: random.Random, pool: Sequence[str]) -> Instruction:
    chosen = rng.sample(pool, 3)
    end, index = rng.choice((("first", 0), ("last", -1)))
    answer = chosen[index]
    prompt = f"What is the {end} word of this list: {', '.join(chosen)}?"
    wrongs = tuple(word for word in chosen if word != answer)
    return Instruction(prompt, f"The {end} word of the list is {answer}.", (answer,), wrongs)


def _answer_with(rng: random.Random, pool: Sequence[str]) -> Instruction:
    word = rng.choice(pool)
    return Instruction(f"Answer only with the word {word}.", word, (word,))


def _count(rng: random.Random, ranges: Sequence[tuple[int, int]]) -> Instruction:
    low, high = rng.choice(ranges)
    reply = " ".join(str(number) for number in range(low, high + 1))
    return Instruction(f"Count from {low} to {high}.", reply, (reply,), (str(low - 1), str(high + 1)))


def _hello(rng: random.Random, taught: bool) -> Instruction:
    name = rng.choice([name for name in NAMES if is_taught(name) == taught])
    return Instruction(f"Say hello to {name}.", f"Hello, {name}!", (f"hello {name}", f"hi {name}"))


def _group(rng: random.Random, facts: Sequence[Fact]) -> Instruction:
    relation = rng.choice(list(GROUPS))
    members: dict[str, list[str]] = {}
    for fact in facts:
        if fact.relation == relation:
            members.setdefault(fact.answer, []).append(fact.subject.removeprefix("the "))
    group = rng.choice([name for name, subjects in members.items() if len(subjects) >= MIN_GROUP])
    (one, three), member = GROUPS[relation]
    count = rng.choice((1, 3))
    prompt = (one if count == 1 else three).format(one="one", three="three", a=group, aa=with_article(group))
    chosen = [member.format(s=subject) for subject in rng.sample(members[group], count)]
    reply = chosen[0] if count == 1 else f"{chosen[0]}, {chosen[1]} and {chosen[2]}"
    others = tuple(subject for name, subjects in members.items() if name != group for subject in subjects)
    return Instruction(prompt, f"{reply[:1].upper()}{reply[1:]}.", tuple(members[group]), others, count)
