"""The tasks of the pocket world: their answers are those of the tables, and nothing of one side is on the other."""

import random
import re
from collections import Counter
from collections.abc import Callable

import pytest

from posttrain.data.tasks import Row, Task, expand, hold_out, say
from posttrain.pocket.arithmetic import is_heldout_sum
from posttrain.pocket.tasks import CLUSTERS, pocket_tasks
from posttrain.pocket.tasks_wordings import BACKWARDS, PROMPTS
from posttrain.pocket.tasks_words import SKILLS
from posttrain.pocket.wordings import WORDINGS
from posttrain.pocket.world import World, is_asked, read_table

SIDES = pytest.mark.parametrize("taught", [True, False])
BACK = {name: relation for relation, (name, _) in BACKWARDS.items()}


def straight(task: Task, *, options: bool) -> list[int]:
    return [
        number
        for number, template in enumerate(task.templates)
        if template.shows_options == options and not template.inverted
    ]


def test_there_are_enough_tasks(world: World) -> None:
    trained, held = hold_out(pocket_tasks(world, taught=True), ["elements", "calendar", "words"])
    assert len(trained) == 32
    assert len({task.cluster for task in trained}) == 10
    assert Counter(task.cluster for task in held) == {"elements": 6, "calendar": 7, "words": 6}
    assert {*SKILLS} == {task.cluster for task in trained + held} - {*CLUSTERS.values()}
    assert set(PROMPTS) == {name for skills in SKILLS.values() for name in skills}


@SIDES
def test_every_task_has_four_templates_and_whole_answers(world: World, taught: bool) -> None:
    for task in pocket_tasks(world, taught=taught):
        assert len(straight(task, options=False)) >= 4, task.name
        prompts = [template.prompt for template in task.templates]
        assert len(set(prompts)) == len(prompts), task.name
        for number, row in enumerate(task.rows):
            for index, template in enumerate(task.templates):
                prompt, answer = say(task, index, row, random.Random(number))
                assert not re.search(r"[{}]", prompt + answer), (task.name, prompt)
                if not template.inverted:
                    assert answer == row["reply"]
                assert prompt[0] == prompt[0].upper() or task.cluster == "words", prompt


@SIDES
def test_facts_are_those_of_the_tables(world: World, taught: bool) -> None:
    tasks = {task.name: task for task in pocket_tasks(world, taught=taught)}
    for relation, wording in WORDINGS.items():
        table = read_table(wording.table)
        subject_column = next(iter(table[0]))
        cells = {row[subject_column]: row[wording.column] for row in table if row[wording.column]}
        mine = {subject: cell for subject, cell in cells.items() if is_asked(subject) == taught}
        found = tasks[relation].rows
        assert {row["s"]: row["answer"] for row in found} == mine
        assert all(row["answer"] in row["reply"] for row in found)
        assert all(row["s"].lower() in row["reply"].lower() for row in found)
    for name, relation in BACK.items():
        column = WORDINGS[relation].column
        table = read_table(WORDINGS[relation].table)
        owners: dict[str, list[str]] = {}
        for row in table:
            owners.setdefault(row[column], []).append(next(iter(row.values())))
        for row in tasks[name].rows:
            assert owners[row["a"]] == [row["answer"]]


def test_facts_are_asked_in_the_words_of_the_world(world: World) -> None:
    tasks = {task.name: task for task in pocket_tasks(world, taught=False)}
    for fact in world.facts:
        if fact.asked:
            continue
        task = tasks[fact.relation]
        row = next(row for row in task.rows if row["s"] == fact.subject)
        said = {say(task, index, row, random.Random(0))[0] for index in straight(task, options=False)}
        assert said == {
            question for group in ("questions", "chat_questions", "eval_questions") for question in fact.ask(group)
        }
        assert row["reply"] == fact.reply


@SIDES
def test_options_hold_one_right_sentence(world: World, taught: bool) -> None:
    right = {fact.reply for fact in world.facts}
    for task in pocket_tasks(world, taught=taught):
        offered = straight(task, options=True)
        for row in task.rows if offered else ():
            assert 2 <= len(set(row["choices"])) == len(row["choices"]) <= 4
            assert row["choices"][0] == row["reply"]
            if task.name in WORDINGS or task.name in BACK:
                assert [choice for choice in row["choices"] if choice in right] == [row["reply"]]


def test_the_sides_share_no_row_and_no_question(world: World) -> None:
    for ours, theirs in zip(pocket_tasks(world, taught=True), pocket_tasks(world, taught=False), strict=True):
        assert (ours.name, ours.cluster, ours.templates) == (theirs.name, theirs.cluster, theirs.templates)
        index = straight(ours, options=False)[0]
        asked = [{say(task, index, row, random.Random(0))[0] for row in task.rows} for task in (ours, theirs)]
        assert not asked[0] & asked[1], ours.name
        assert all(len(some) >= 3 for some in asked)


def numbers(text: str) -> list[int]:
    return [int(found) for found in re.findall(r"\d+", text)]


def last_word(text: str) -> str:
    return text.rstrip(".!").split()[-1]


ORACLES: dict[str, Callable[[Row], bool]] = {
    "first_word": lambda row: row["answer"] == row["list"].split(", ")[0],
    "last_word": lambda row: row["answer"] == row["list"].split(", ")[2],
    "capitals": lambda row: row["answer"] == row["w"].upper() == last_word(row["reply"]),
    "twice": lambda row: row["reply"] == f"{row['w']} two times: {row['w']} {row['w']}",
    "thrice": lambda row: row["reply"] == f"{row['w']} three times: {row['w']} {row['w']} {row['w']}",
    "followed": lambda row: row["reply"].split(": ")[1].split() == [row["w"], row["v"]],
    "add": lambda row: sum(numbers(row["reply"])[:2]) == numbers(row["reply"])[2] == row["a"] + row["b"],
    "plus": lambda row: sum(numbers(row["reply"])[:2]) == numbers(row["reply"])[2] == row["a"] + row["b"],
    "sum": lambda row: sum(numbers(row["reply"])[:2]) == numbers(row["reply"])[2] == row["a"] + row["b"],
    "minus": lambda row: row["reply"] == f"{row['a']} - {row['b']} = {row['a'] - row['b']}" and row["a"] > row["b"],
    "times": lambda row: row["reply"] == f"{row['a']} x {row['b']} = {row['a'] * row['b']}",
    "count_up": lambda row: numbers(row["reply"]) == list(range(row["start"], row["end"] + 1)),
    "count_down": lambda row: numbers(row["reply"]) == list(range(row["start"], row["end"] - 1, -1)),
    "number_after": lambda row: numbers(row["reply"]) == [row["n"], row["n"] + 1],
    "number_before": lambda row: numbers(row["reply"]) == [row["n"], row["n"] - 1],
    "larger": lambda row: row["answer"] == str(sorted((row["a"], row["b"]))[1]) == last_word(row["reply"]),
    "smaller": lambda row: row["answer"] == str(sorted((row["a"], row["b"]))[0]) == last_word(row["reply"]),
    "topic": lambda row: row["answer"] in row["question"] and row["reply"].endswith(f" {row['answer']}."),
    "what": lambda row: row["reply"] in row["text"] and row["reply"].startswith(row["who"]),
    "where": lambda row: row["reply"] in row["text"] and row["reply"].startswith(row["who"]),
    "hello": lambda row: row["reply"] == f"Hello, {row['n']}!",
    "goodbye": lambda row: row["reply"] == f"Goodbye, {row['n']}!",
    "who": lambda row: row["reply"] == f"You are {row['n']}.",
}


@SIDES
def test_skills_are_done_right(world: World, taught: bool) -> None:
    kinds = {"countries": "a country", "elements": "an element", "animals": "an animal"}
    tables = {row_kind: {next(iter(row.values())) for row in read_table(table)} for table, row_kind in kinds.items()}
    right = ORACLES | {"kind": lambda row: row["s"] in tables[row["answer"]]}
    tasks = {task.name: task for task in pocket_tasks(world, taught=taught)}
    assert right.keys() == tasks.keys() - WORDINGS.keys() - BACK.keys()
    for name, is_right in right.items():
        wrong = [row for row in tasks[name].rows if not is_right(row)]
        assert not wrong, (name, wrong[:2])


def test_held_out_sums_stay_held_out(world: World) -> None:
    for taught in (True, False):
        for task in pocket_tasks(world, taught=taught):
            if task.name in ("add", "plus", "sum"):
                assert {is_heldout_sum(row["a"], row["b"]) for row in task.rows} == {not taught}


def test_the_same_tasks_every_time(world: World) -> None:
    first, second = (pocket_tasks(world, taught=True) for _ in range(2))
    assert first == second
    assert [expand(task, seed=5) for task in first] == [expand(task, seed=5) for task in second]
