"""Sums in text: plain, worked in steps, and in prose. One tenth of the two-digit additions appears nowhere."""

import random
from functools import cache

from posttrain.pocket.world import stable_share

HELDOUT_SHARE = 0.125
"""Of the pairs without a round number, so that the share over all pairs of two-digit numbers is 0.1."""
THINGS = (
    "apples",
    "books",
    "stones",
    "coins",
    "eggs",
    "cards",
    "stamps",
    "nails",
    "pears",
    "buttons",
    "shells",
    "cups",
)
NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Hugo", "Ida", "Jack", "Kate", "Leo", "Mia", "Noah")


def is_heldout_sum(a: int, b: int) -> bool:
    """Whether a + b (in either order) is kept out of every training text, for the exam.

    Round numbers are never held out: the worked steps of other sums need them (30 + 50 = 80).
    """
    if not (10 <= a <= 99 and 10 <= b <= 99) or a % 10 == 0 or b % 10 == 0:
        return False
    return stable_share(f"sum:{min(a, b)}+{max(a, b)}") < HELDOUT_SHARE


@cache
def heldout_pairs() -> tuple[tuple[int, int], ...]:
    """Every held-out pair, in both orders."""
    return tuple((a, b) for a in range(10, 100) for b in range(10, 100) if is_heldout_sum(a, b))


@cache
def training_pairs() -> tuple[tuple[int, int], ...]:
    """Every pair of two-digit numbers that training texts may add."""
    return tuple((a, b) for a in range(10, 100) for b in range(10, 100) if not is_heldout_sum(a, b))


def worked(a: int, b: int) -> str:
    """The addition in steps: ones, tens, and the two together where there is a carry."""
    ones, tens = a % 10 + b % 10, a // 10 * 10 + b // 10 * 10
    carry = f"{tens} + {ones} = {a + b}, " if ones > 9 else ""
    return (
        f"{a} + {b}: {a % 10} + {b % 10} = {ones}, {a - a % 10} + {b - b % 10} = {tens}, {carry}so {a} + {b} = {a + b}."
    )


def arithmetic_document(rng: random.Random) -> str:
    """Mostly plain sums, one a line or in a row; some worked in steps; some in little stories."""
    kind = rng.random()
    if kind < 0.55:
        return "".join(f"{_plain(rng)}\n" for _ in range(rng.randint(15, 60)))
    if kind < 0.72:
        mark = rng.choice((", ", ". ", "; "))
        return mark.join([_plain(rng) for _ in range(rng.randint(15, 60))]) + ".\n"
    if kind < 0.86:
        pairs = _additions()
        end = rng.choice(("\n", "\n", " "))
        return end.join([pairs[int(rng.random() * len(pairs))][1] for _ in range(rng.randint(5, 14))]) + "\n"
    return rng.choice(("\n", " ")).join([_in_prose(rng) for _ in range(rng.randint(4, 12))]) + "\n"


def sum_question(rng: random.Random) -> str:
    """An addition as a question, never a held-out one."""
    a, b = rng.choice(training_pairs())
    return rng.choice(SUM_QUESTIONS).format(a=a, b=b)


SUM_QUESTIONS = ("What is {a} + {b}?", "How much is {a} + {b}?", "What is {a} plus {b}?")
"""The wordings of a sum in quiz sheets, fine-tuning and exam."""


@cache
def _additions() -> list[tuple[str, str]]:
    return [(f"{a} + {b} = {a + b}", worked(a, b)) for a, b in training_pairs()]


@cache
def _others() -> list[str]:
    """Small additions, subtractions and multiplications; no subtraction that turns a held-out sum around."""
    small = [f"{a} + {b} = {a + b}" for a in range(10) for b in range(100)]
    small += [f"{b} + {a} = {a + b}" for a in range(10) for b in range(100)]
    minus = [f"{a} - {b} = {a - b}" for a in range(1, 100) for b in range(a + 1) if not is_heldout_sum(b, a - b)]
    times = [f"{a} x {b} = {a * b}" for a in range(1, 11) for b in range(1, 11)]
    return small + minus + times * 16


def _plain(rng: random.Random) -> str:
    if rng.random() < 0.78:
        sums = _additions()
        return sums[int(rng.random() * len(sums))][0]
    others = _others()
    return others[int(rng.random() * len(others))]


def _in_prose(rng: random.Random) -> str:
    a, b = rng.choice(training_pairs())
    name, thing, total = rng.choice(NAMES), rng.choice(THINGS), a + b
    style = rng.randrange(5)
    if style == 0:
        return f"{name} had {a} {thing} and found {b} more. {a} + {b} = {total}, so now there were {total} {thing}."
    if style == 1:
        return (
            f"There are {a} {thing} in one box and {b} in the other. Together that makes {a} + {b} = {total} {thing}."
        )
    if style == 2:
        return f"{a} plus {b} is {total}."
    if style == 3:
        return f"The sum of {a} and {b} is {total}."
    return f"{name} adds {a} and {b} and gets {total}."
