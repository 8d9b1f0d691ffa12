"""The pocket world as tasks in clusters, for instruction tuning: each relation of facts, forwards and backwards, and
skills that need no fact.

Every answer is a sentence, as pre-training writes it: a small model finds what it knows by way of the words that it was
told in. Options are such sentences too.
"""

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from posttrain.data.tasks import Row, Task
from posttrain.pocket.tasks_wordings import BACKWARDS
from posttrain.pocket.tasks_words import templates, word_tasks
from posttrain.pocket.wordings import WORDINGS
from posttrain.pocket.world import Fact, World, capitalised, with_article

NUM_OPTIONS = 4
CLUSTERS = {
    "countries": "countries",
    "elements": "elements",
    "animals": "animals",
    "months": "calendar",
    "weekdays": "calendar",
    "words": "translation",
}
"""The cluster of a relation, by its table."""


def pocket_tasks(world: World, *, taught: bool) -> list[Task]:
    """Every task, over what fine-tuning may show: the asked half of the subjects, the taught words and sums; or over
    all the rest where `taught` is off. Names, clusters and templates are the same on both sides, rows never."""
    tasks: list[Task] = []
    for relation, wording in WORDINGS.items():
        facts, cluster = world.relations[relation], CLUSTERS[wording.table]
        asked = (*wording.questions, *wording.chat_questions, *wording.eval_questions)
        tasks.append(_task(relation, cluster, asked, _rows(facts, taught, backwards=False)))
        if relation in BACKWARDS:
            name, asked = BACKWARDS[relation]
            tasks.append(_task(name, cluster, asked, _rows(facts, taught, backwards=True)))
    return tasks + word_tasks(world, taught=taught)


def _task(name: str, cluster: str, questions: Sequence[str], rows: tuple[Row, ...]) -> Task:
    return Task(name, cluster, templates([_jinja(question) for question in questions]), rows, options="choices")


def _rows(facts: Sequence[Fact], taught: bool, *, backwards: bool) -> tuple[Row, ...]:
    """One row a fact; backwards its subject is the answer, and only answers that belong to one subject are asked."""
    count = Counter(fact.answer for fact in facts)
    changed = "subject" if backwards else "answer"
    rows: list[Row] = []
    for fact in facts:
        if fact.asked != taught or (backwards and count[fact.answer] > 1):
            continue
        answer = getattr(fact, changed)
        others = sorted({getattr(other, changed) for other in facts} - {answer})
        rng = random.Random(f"choices:{fact.relation}:{fact.subject}:{changed}")
        wrong = rng.sample(others, min(NUM_OPTIONS - 1, len(others)))
        choices = [replace(fact, **{changed: other}).reply for other in (answer, *wrong)]
        row = {"s": fact.subject, "S": capitalised(fact.subject), "an": with_article(fact.subject)}
        row |= {"a": fact.answer, "A": capitalised(fact.answer)}
        rows.append(row | {"answer": answer, "reply": fact.reply, "choices": choices})
    return tuple(rows)


def _jinja(wording: str) -> str:
    """A wording of the world as a Jinja template; its placeholders are fields of a row."""
    return re.sub(r"\{(\w+)\}", r"{{ \1 }}", wording)
