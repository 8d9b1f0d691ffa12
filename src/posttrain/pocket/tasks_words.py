"""Tasks that need no fact: plays with words, sums, counting, comparing, reading, sorting into kinds, greetings."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from posttrain.data.tasks import Row, Task, Template
from posttrain.pocket.arithmetic import heldout_pairs, training_pairs
from posttrain.pocket.instructions import is_taught
from posttrain.pocket.stories import NAMES, PLACES, THINGS, words
from posttrain.pocket.tasks_wordings import PROMPTS
from posttrain.pocket.wordings import WORDINGS
from posttrain.pocket.world import World, capitalised, with_article

NUM_ROWS = 240
KINDS = {"countries": "a country", "elements": "an element", "animals": "an animal"}
TOPICS = ("capital", "currency", "language", "class", "young", "diet")
"""Relations whose questions are asked about: what they ask for is of no matter here."""
CHOICES = ("{q}\n{{{{ options }}}}", "{q} Choose one of these.\n{{{{ options }}}}", "{{{{ options }}}}\n{q}")
INVERSIONS = (
    "Which question has this answer? {{ reply }}",
    "Write a question that is answered by this: {{ reply }}",
)


@dataclass(frozen=True, slots=True)
class Pool:
    """What rows are made of: the words, names and numbers that fine-tuning shows, or those that it does not."""

    words: Sequence[str]
    names: Sequence[str]
    pairs: Sequence[tuple[int, int]]
    numbers: Sequence[int]
    factors: Sequence[tuple[int, int]]
    subjects: Mapping[str, Sequence[str]]


Maker = Callable[[random.Random, Pool], Row]


@dataclass(frozen=True, slots=True)
class Skill:
    """How one task makes its rows. `offers`: whether it can be asked with options; `turns`: whether its answer tells
    what the question was."""

    make: Maker
    offers: bool = False
    turns: bool = True


def word_tasks(world: World, *, taught: bool) -> list[Task]:
    """Every skill over the taught words, names and numbers, or over the others."""
    pool = _pool(world, taught)
    tasks = []
    for cluster, skills in SKILLS.items():
        for name, skill in skills.items():
            rng = random.Random(f"tasks:{name}:{taught}")
            rows = {str(row): row for row in (skill.make(rng, pool) for _ in range(NUM_ROWS))}
            asked = templates(PROMPTS[name], offers=skill.offers, turns=skill.turns)
            tasks.append(Task(name, cluster, asked, tuple(rows.values()), options="choices"))
    return tasks


def templates(questions: Sequence[str], *, offers: bool = True, turns: bool = True) -> tuple[Template, ...]:
    """Each question by itself, the first three with options, and the first one asked for, given its answer."""
    offered = [frame.format(q=question) for frame, question in zip(CHOICES, questions, strict=False) if offers]
    straight = [Template(prompt, "{{ reply }}") for prompt in (*questions, *offered)]
    turned = [Template(prompt, questions[0], inverted=True) for prompt in INVERSIONS if turns]
    return (*straight, *turned)


def _pool(world: World, taught: bool) -> Pool:
    subjects: dict[str, list[str]] = {table: [] for table in KINDS}
    for (table, subject), facts in world.subjects.items():
        if table in KINDS and facts[0].asked == taught:
            subjects[table].append(subject)
    return Pool(
        [word for word in words() if is_taught(word) == taught],
        [name for name in NAMES if is_taught(name) == taught],
        training_pairs() if taught else heldout_pairs(),
        [number for number in range(2, 99) if is_taught(f"number {number}") == taught],
        [(a, b) for a in range(1, 11) for b in range(1, 11) if is_taught(f"{a} x {b}") == taught],
        subjects,
    )


def _row(form: str, answer: object, wrong: Sequence[object] = (), **fields: object) -> Row:
    """`form` says the answer in a sentence; the options are that sentence with the wrong answers in its place."""
    reply, *others = (form.format(answer=option, **fields) for option in (answer, *wrong))
    return fields | {"answer": str(answer), "reply": reply, "choices": [reply, *others]}


def _in_list(place: int, form: str) -> Maker:
    def make(rng: random.Random, pool: Pool) -> Row:
        chosen = rng.sample(pool.words, 3)
        return _row(form, chosen[place], list=", ".join(chosen))

    return make


def _capitals(rng: random.Random, pool: Pool) -> Row:
    word = rng.choice(pool.words)
    return _row("The word {w} in capital letters is {answer}.", word.upper(), w=word)


def _times(count: int, form: str) -> Maker:
    def make(rng: random.Random, pool: Pool) -> Row:
        word = rng.choice(pool.words)
        return _row(form, " ".join([word] * count), w=word)

    return make


def _followed(rng: random.Random, pool: Pool) -> Row:
    word, other = rng.sample(pool.words, 2)
    return _row("{w} followed by {v}: {answer}", f"{word} {other}", w=word, v=other)


def _sum(form: str) -> Maker:
    def make(rng: random.Random, pool: Pool) -> Row:
        a, b = rng.choice(pool.pairs)
        return _row(form, a + b, a=a, b=b)

    return make


def _difference(rng: random.Random, pool: Pool) -> Row:
    a, b = sorted(rng.sample(pool.numbers, 2), reverse=True)
    return _row("{a} - {b} = {answer}", a - b, a=a, b=b)


def _product(rng: random.Random, pool: Pool) -> Row:
    a, b = rng.choice(pool.factors)
    return _row("{a} x {b} = {answer}", a * b, a=a, b=b)


def _counting(step: int) -> Maker:
    def make(rng: random.Random, pool: Pool) -> Row:
        start, length = rng.choice(pool.numbers) + 8, rng.randint(3, 7)
        row = [start + step * number for number in range(length)]
        return _row("{answer}", " ".join(map(str, row)), start=row[0], end=row[-1])

    return make


def _beside(step: int, form: str) -> Maker:
    def make(rng: random.Random, pool: Pool) -> Row:
        number = rng.choice(pool.numbers)
        return _row(form, number + step, n=number)

    return make


def _compared(best: Callable[[int, int], int], form: str) -> Maker:
    def make(rng: random.Random, pool: Pool) -> Row:
        a, b = rng.sample(pool.numbers, 2)
        answer = best(a, b)
        return _row(form, answer, [a + b - answer], a=a, b=b)

    return make


def _kind(rng: random.Random, pool: Pool) -> Row:
    table = rng.choice(list(KINDS))
    subject = rng.choice(pool.subjects[table])
    wrong = [kind for other, kind in KINDS.items() if other != table]
    return _row("{S} is {answer}.", KINDS[table], wrong, s=subject, S=capitalised(subject))


def _topic(rng: random.Random, pool: Pool) -> Row:
    wording = WORDINGS[rng.choice(TOPICS)]
    subject = rng.choice(pool.subjects[wording.table])
    asked = rng.choice(wording.questions).format(s=subject, S=capitalised(subject), an=with_article(subject))
    return _row("That is a question about {answer}.", subject, question=asked)


def _scene(key: str, form: str) -> Maker:
    """Two people, and what each has or where each is; one of them is asked about."""
    things = {"has": THINGS, "is at": PLACES}[key]

    def make(rng: random.Random, pool: Pool) -> Row:
        first, second = rng.sample(pool.names, 2)
        one, other = rng.sample(things, 2)
        who, answer, wrong = rng.choice(((first, one, other), (second, other, one)))
        told = f"{first} {key} {one}. {second} {key} {other}."
        return _row(form, answer, [wrong], text=told, who=who)

    return make


def _greeting(form: str) -> Maker:
    def make(rng: random.Random, pool: Pool) -> Row:
        name = rng.choice(pool.names)
        return _row(form, name, n=name)

    return make


SKILLS: dict[str, dict[str, Skill]] = {
    "words": {
        "first_word": Skill(_in_list(0, "The first word of {list} is {answer}.")),
        "last_word": Skill(_in_list(2, "The last word of {list} is {answer}.")),
        "capitals": Skill(_capitals),
        "twice": Skill(_times(2, "{w} two times: {answer}")),
        "thrice": Skill(_times(3, "{w} three times: {answer}")),
        "followed": Skill(_followed),
    },
    "sums": {
        "add": Skill(_sum("{a} + {b} = {answer}")),
        "plus": Skill(_sum("{a} plus {b} is {answer}.")),
        "sum": Skill(_sum("The sum of {a} and {b} is {answer}.")),
        "minus": Skill(_difference),
        "times": Skill(_product),
    },
    "counting": {
        "count_up": Skill(_counting(1)),
        "count_down": Skill(_counting(-1)),
        "number_after": Skill(_beside(1, "The number after {n} is {answer}.")),
        "number_before": Skill(_beside(-1, "The number before {n} is {answer}.")),
    },
    "comparison": {
        "larger": Skill(_compared(max, "The larger number of {a} and {b} is {answer}."), offers=True),
        "smaller": Skill(_compared(min, "The smaller number of {a} and {b} is {answer}."), offers=True),
    },
    "kinds": {"kind": Skill(_kind, offers=True)},
    "topics": {"topic": Skill(_topic, turns=False)},
    "reading": {
        "what": Skill(_scene("has", "{who} has {answer}."), offers=True, turns=False),
        "where": Skill(_scene("is at", "{who} is at {answer}."), turns=False),
    },
    "greetings": {
        "hello": Skill(_greeting("Hello, {answer}!")),
        "goodbye": Skill(_greeting("Goodbye, {answer}!")),
        "who": Skill(_greeting("You are {answer}.")),
    },
}
"""Skills by cluster and name. Where pre-training has a sentence for the answer, the answer is that sentence."""
