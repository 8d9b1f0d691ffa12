"""Tasks: what a template renders to, what is drawn, what is held out, and what a faulty file of tasks says."""

import json
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.data.task_file import is_task_file, read_task_set, read_tasks
from posttrain.data.tasks import Row, Task, TaskSet, Template, expand, hold_out, say
from posttrain.errors import DataError

EXAMPLE = Path(__file__).parents[2] / "examples" / "instruction_tuning" / "tasks.yaml"

PLAIN = Template("What is the capital of {{ s }}?", "It is {{ a }}.")
OFFERED = Template("{{ s }}?\n{{ options }}", "{{ a }}")
LETTERED = Template("{{ s }}?\n{{ options }}\nGive a letter.", "{{ a }}", letters=True)
TURNED = Template("{{ a }} is the answer. Ask.", "What is the capital of {{ s }}?", inverted=True)
ROWS: tuple[Row, ...] = (
    {"s": "France", "a": "Paris", "near": ["Paris", "Lyon", "Nice"]},
    {"s": "Peru", "a": "Lima", "near": ["Cusco", "Lima"]},
    {"s": "Japan", "a": "Tokyo", "near": ["Tokyo", "Kyoto", "Osaka", "Nara"]},
)


def task(*templates: Template, rows: tuple[Row, ...] = ROWS, name: str = "capital", cluster: str = "places") -> Task:
    return Task(name, cluster, templates or (PLAIN,), rows, options="near")


def texts(found: list) -> list[tuple[str, str]]:
    return [(one.messages[0].content, one.messages[1].content) for one in found]


# What is said


def test_a_row_fills_both_sides() -> None:
    found = expand(task())
    assert texts(found) == [
        ("What is the capital of France?", "It is Paris."),
        ("What is the capital of Peru?", "It is Lima."),
        ("What is the capital of Japan?", "It is Tokyo."),
    ]
    assert [one.source for one in found] == ["capital:1:1", "capital:2:1", "capital:3:1"]
    assert [[message.role for message in one.messages] for one in found] == [["user", "assistant"]] * 3


def test_options_are_a_block_of_lines() -> None:
    prompt, answer = say(task(OFFERED), 0, ROWS[0], random.Random(1))
    head, *lines = prompt.split("\n")
    assert head == "France?"
    assert lines[0] == "OPTIONS:"
    assert sorted(lines[1:]) == ["- Lyon", "- Nice", "- Paris"]
    assert answer == "Paris"


def test_letters_follow_the_order_shown() -> None:
    orders = set()
    for seed in range(30):
        prompt, answer = say(task(LETTERED), 0, ROWS[2], random.Random(seed))
        lines = prompt.split("\n")[2:-1]
        assert [line[:4] for line in lines] == ["(A) ", "(B) ", "(C) ", "(D) "]
        assert f"{answer} Tokyo" in lines
        orders.add(answer)
    assert orders == {"(A)", "(B)", "(C)", "(D)"}


def test_an_inverted_template_asks_for_the_question() -> None:
    assert say(task(PLAIN, TURNED), 1, ROWS[0], random.Random(0)) == (
        "Paris is the answer. Ask.",
        "What is the capital of France?",
    )


def test_options_of_the_task_serve_every_row() -> None:
    rows = ({"t": "good film", "label": 1}, {"t": "bad film", "label": 0})
    judged = Template("{{ t }}\n{{ options }}", "{{ ['bad', 'good'][label] }}")
    found = expand(Task("film", "mood", (judged,), rows, options=("good", "bad")))
    assert [answer for _, answer in texts(found)] == ["good", "bad"]
    assert all("- good" in prompt and "- bad" in prompt for prompt, _ in texts(found))


def test_fields_with_any_name_are_reached_through_row() -> None:
    odd = Template("{{ row['Best Answer'] }}", "{{ row['a b'] }}")
    assert texts(expand(Task("t", "c", (odd,), ({"Best Answer": "x", "a b": 7},)))) == [("x", "7")]


def test_text_around_a_template_is_trimmed_and_inside_is_kept() -> None:
    wide = Template("\n  {{ a }}\n\n  b \n", "  {{ a }} \n")
    assert texts(expand(task(wide, rows=({"a": "x  y"},)))) == [("x  y\n\n  b", "x  y")]


words = st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=12)


@given(st.lists(words, min_size=2, max_size=9, unique=True), st.data(), st.booleans(), st.integers(0, 99))
def test_the_target_is_always_among_the_options(
    options: list[str], data: st.DataObject, letters: bool, seed: int
) -> None:
    answer = data.draw(st.sampled_from(options))
    template = Template("{{ options }}", "{{ a }}", letters=letters)
    row = {"a": answer, "near": options}
    prompt, said = say(task(template, rows=(row,)), 0, row, random.Random(seed))
    shown = prompt.split("\n", 1)[1].split("\n") if "\n" in prompt else []
    marks = [line.split(" ", 1) for line in shown]
    assert sorted(text for _, text in marks) == sorted(options)
    assert (dict(marks)[said] if letters else said) == answer


# What is drawn


def many(count: int) -> tuple[Row, ...]:
    return tuple({"s": f"s{number}", "a": f"a{number}", "near": [f"a{number}", "b"]} for number in range(count))


def test_the_seed_decides() -> None:
    wide = task(PLAIN, OFFERED, LETTERED, TURNED, rows=many(50))
    assert expand(wide, seed=3) == expand(wide, seed=3)
    assert expand(wide, seed=3) != expand(wide, seed=4)


def test_later_rows_change_nothing_before_them() -> None:
    few, more = (task(PLAIN, OFFERED, LETTERED, TURNED, rows=many(count)) for count in (20, 30))
    assert expand(more, seed=1)[:20] == expand(few, seed=1)


def test_the_cap_takes_every_row_once_before_any_twice() -> None:
    wide = task(PLAIN, OFFERED, LETTERED, TURNED, rows=many(40))
    for cap in (1, 39, 40, 41, 100, 160, 999):
        found = expand(wide, per_task=cap, per_row=4)
        assert len(found) == min(cap, 160)
        times = Counter(one.source.split(":")[1] for one in found)
        assert max(times.values()) - min(times.values()) <= 1
        assert len(times) == min(cap, 40)
        assert len({one.source for one in found}) == len(found), "a template comes twice for one row"


def test_a_cap_draws_among_all_rows() -> None:
    met = {one.source for seed in range(99) for one in expand(task(rows=many(20)), per_task=3, seed=seed)}
    assert len(met) == 20


@pytest.mark.parametrize(("share", "low", "high"), [(0.0, 0, 0), (0.25, 200, 300), (1.0, 1000, 1000), (None, 450, 550)])
def test_the_inverted_share(share: float | None, low: int, high: int) -> None:
    found = expand(task(PLAIN, TURNED, rows=many(1000)), inverted_share=share)
    turned = sum(one.messages[0].content.endswith("Ask.") for one in found)
    assert low <= turned <= high


def test_other_rows_may_be_given() -> None:
    assert texts(expand(task(), ROWS[1:2])) == [("What is the capital of Peru?", "It is Lima.")]


# What is held out


def test_whole_clusters_are_held_out() -> None:
    tasks = [task(rows=many(3), name="one"), task(rows=({"s": "x", "a": "y"},), name="two", cluster="other")]
    trained, held = hold_out(tasks, ["other"])
    assert [one.name for one in trained] == ["one"]
    assert [one.name for one in held] == ["two"]
    assert hold_out(tasks, []) == (tasks, [])


def test_the_same_row_on_both_sides_is_refused() -> None:
    other = task(rows=({"a": "y"}, {**ROWS[1], "s": " PERU", "a": "lima"}), name="b", cluster="other")
    with pytest.raises(DataError, match=r"row 2 of task 'capital'.*row 2 of task 'b'.*one cluster"):
        hold_out([task(), other], ["other"])
    apart = task(rows=({"a": "y"}, {**ROWS[1], "s": "Chile"}), name="b", cluster="other")
    assert hold_out([task(), apart], ["other"]) == ([task()], [apart])
    assert hold_out([task(), other], []) == ([task(), other], [])


@pytest.mark.parametrize(
    ("clusters", "said"),
    [(["place"], "did you mean 'places'"), (["zzz"], "there are places"), (["places"], "nothing is")],
)
def test_what_cannot_be_held_out(clusters: list[str], said: str) -> None:
    with pytest.raises(DataError, match=said):
        hold_out([task()], clusters)


def test_a_set_gives_either_side() -> None:
    tasks = (task(PLAIN, TURNED, rows=many(30)), task(PLAIN, TURNED, rows=many(40)[30:], name="b", cluster="held"))
    both = TaskSet(tasks, hold_out=("held",), inverted_share=1.0)
    assert {one.source.split(":")[0] for one in both.conversations()} == {"capital"}
    held = both.conversations(held_out=True)
    assert {one.source.split(":")[0] for one in held} == {"b"}
    assert all(one.source.endswith(":1") for one in held), "a held-out task is asked straight"
    with pytest.raises(DataError, match="no cluster is held out"):
        TaskSet(tasks).conversations(held_out=True)


# What a template may not do


@pytest.mark.parametrize(
    ("template", "row", "said"),
    [
        (
            Template("{{ country }}", "x"),
            {"s": "France"},
            r"field 'country': task 'capital', template 1, row 1, prompt: .*fields s",
        ),
        (Template("x", "{{ s.name }}"), {"s": {}}, r"row 1, target: .*'name'"),
        (Template("x", "{{ s }}"), {"s": " "}, "gives no text"),
        (Template("{{ 1 // s }}", "x"), {"s": 0}, "cannot be filled"),
        (Template("{{ s.__class__.__mro__ }}", "x"), {"s": ""}, "cannot be filled|unsafe"),
        (OFFERED, {"s": "x", "a": "y"}, "the row's field 'near' gives None"),
        (OFFERED, {"s": "x", "a": "y", "near": ["y"]}, "at least two"),
        (OFFERED, {"s": "x", "a": "y", "near": ["y", "y "]}, "at least two different"),
        (OFFERED, {"s": "x", "a": "y", "near": ["u", "v"]}, "'y', which is none of the options"),
        (LETTERED, {"s": "x", "a": "1", "near": list(range(27))}, "27 options and only 26 letters"),
    ],
)
def test_what_cannot_be_said_names_its_place(template: Template, row: Row, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        expand(Task("capital", "places", (template,), (row,), options="near", file="tasks.yaml"))
    assert caught.value.file == "tasks.yaml"
    assert "task 'capital', template 1, row 1" in str(caught.value)


def test_a_task_needs_a_straight_template() -> None:
    with pytest.raises(ValueError, match="not inverted"):
        task(TURNED)


# Files of tasks

GOOD = """\
per_task: 4
seed: 1
hold_out: [mood]
tasks:
  - name: capital
    cluster: places
    data: capitals.jsonl
    templates:
      - prompt: "What is the capital of {{ s }}?"
        target: "{{ a }}"
      - "{{ s }}: capital? ||| {{ a }}"
      - prompt: "{{ a }} is the capital of which country?"
        target: "{{ s }}"
        inverted: true
  - name: film
    cluster: mood
    rows:
      - {t: fine, label: good}
      - {t: dull, label: bad}
    options: [good, bad]
    templates:
      - prompt: "{{ t }}\\n{{ options }}"
        target: "{{ label }}"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [{"s": f"s{number}", "a": f"a{number}"} for number in range(6)]
    (tmp_path / "capitals.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "tasks.yaml").write_text(GOOD)
    return tmp_path


def test_a_file_of_tasks_is_read(folder: Path) -> None:
    found = read_task_set(folder / "tasks.yaml")
    assert [(one.name, one.cluster, len(one.templates), len(one.rows)) for one in found.tasks] == [
        ("capital", "places", 3, 6),
        ("film", "mood", 1, 2),
    ]
    assert found.tasks[0].templates[1] == Template("{{ s }}: capital? ", " {{ a }}", line=11)
    assert (found.hold_out, found.per_task, found.per_row, found.inverted_share, found.seed) == (
        ("mood",),
        4,
        1,
        None,
        1,
    )
    trained = read_tasks(folder / "tasks.yaml")
    assert len(trained) == 4
    assert trained == found.conversations() == read_tasks(str(folder / "tasks.yaml"))
    assert {one.source.split(":")[0] for one in trained} == {"capital"}
    held = read_tasks(folder / "tasks.yaml", held_out=True)
    assert [answer for _, answer in texts(held)] == ["good", "bad"]
    assert is_task_file("a/tasks.YML")
    assert not is_task_file("tasks.jsonl")


def test_rows_in_a_table_are_read(folder: Path) -> None:
    (folder / "capitals.csv").write_text("s,a\nPeru,Lima\nFrance,Paris\n")
    (folder / "tasks.yaml").write_text(GOOD.replace("capitals.jsonl", "capitals.csv"))
    assert [dict(row) for row in read_task_set(folder / "tasks.yaml").tasks[0].rows] == [
        {"s": "Peru", "a": "Lima"},
        {"s": "France", "a": "Paris"},
    ]


def test_rows_of_the_hub_are_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def rows(name: str, *, config: str | None, split: str) -> list[tuple[int, Row]]:
        asked.append((name, config, split))
        return [(1, {"s": "Peru", "a": "Lima"})]

    monkeypatch.setattr("posttrain.data.task_file.hub_rows", rows)
    hub = "hub: owner/places\n    config: en\n    split: test"
    (folder / "tasks.yaml").write_text(GOOD.replace("data: capitals.jsonl", hub))
    assert [dict(row) for row in read_task_set(folder / "tasks.yaml").tasks[0].rows] == [{"s": "Peru", "a": "Lima"}]
    assert asked == [("owner/places", "en", "test")]


FAULTS = [
    ("seed: 1", "seed: -1", ["line 2", "'seed'", "-1", "at least 0"]),
    ("per_task: 4", "per_task: many", ["line 1", "'per_task'", "'many'"]),
    ("per_task: 4", "per_tasks: 4", ["line 1", "'per_tasks'", "did you mean per_task?"]),
    ("seed: 1", "inverted_share: 2", ["line 2", "'inverted_share'", "from 0 to 1"]),
    ("seed: 1", "per_task: 5", ["line 2", "'per_task'", "already given on line 1"]),
    ("hold_out: [mood]", "hold_out: [moods]", ["'hold_out'", "did you mean 'mood'?"]),
    ("hold_out: [mood]", "hold_out: mood", ["line 3", "expected a list"]),
    ("name: capital", "title: capital", ["line 5", "task 1", "'title'", "name, cluster"]),
    ("name: film", "name: capital", ["line 15", "task 2", "two tasks of the name 'capital'"]),
    ("cluster: places", "cluster: 7", ["line 6", "task 'capital'", "'cluster'", "found a number"]),
    ("data: capitals.jsonl", "data: nowhere.jsonl", ["nowhere.jsonl", "no such file"]),
    ("data: capitals.jsonl", "options: [a, b]", ["task 'capital'", "one of data"]),
    ("data: capitals.jsonl", "data: capitals.jsonl\n    rows: [{a: b}]", ["task 'capital'", "one of data"]),
    (
        'prompt: "What is',
        'promt: "What is',
        ["line 9", "task 'capital', template 1", "'promt'", "did you mean prompt?"],
    ),
    ('target: "{{ a }}"', 'target: "{{ a "', ["line 10", "task 'capital', template 1", "'target'", "no valid Jinja"]),
    ("of {{ s }}?", "of {{ s | random }}?", ["line 9", "template 1", "'prompt'", "random"]),
    (
        "of {{ s }}?",
        "of {{ country }}?",
        ["line 9", "task 'capital', template 1", "'country'", "no such field", "s, a"],
    ),
    ("capital? ||| ", "capital? ", ["line 11", "task 'capital', template 2", "no |||"]),
    ("inverted: true", "inverted: perhaps", ["line 14", "task 'capital', template 3", "'inverted'", "true or false"]),
    ("inverted: true", "letters: true", ["line 14", "template 3", "'letters'", "{{ options }}"]),
    ("options: [good, bad]", "options: [yes, no]", ["line 20", "task 'film'", "'options'", "quotes"]),
    ("options: [good, bad]", "options: [fine, bad]", ["line 22", "task 'film', template 1", "none of the options"]),
    ("options: [good, bad]", "options: answers", ["task 'film', template 1, row 1", "'answers' gives None"]),
    ("- {t: fine, label: good}", "- fine", ["line 17", "task 'film'", "'rows'"]),
    ("hold_out: [mood]", "hold_out: [mood", ["not valid YAML", "line"]),
    ("tasks:", "tasks: []\nother:", ["'other'"]),
]


@pytest.mark.parametrize(("old", "new", "said"), FAULTS, ids=[new for _, new, _ in FAULTS])
def test_a_fault_names_its_place(folder: Path, old: str, new: str, said: list[str]) -> None:
    file = folder / "tasks.yaml"
    file.write_text(GOOD.replace(old, new, 1))
    assert file.read_text() != GOOD
    with pytest.raises(DataError) as caught:
        read_tasks(file), read_tasks(file, held_out=True)
    assert ("tasks.yaml" in str(caught.value)) != ("nowhere" in new)
    for part in said:
        assert part in str(caught.value), str(caught.value)


@pytest.mark.parametrize("text", ["", "tasks:", "- a", "just words", "tasks: 3", "&a [*a]", "tasks: &a [*a]", "\x00"])
def test_what_is_no_file_of_tasks(tmp_path: Path, text: str) -> None:
    (tmp_path / "tasks.yaml").write_text(text)
    with pytest.raises(DataError, match=r"tasks\.yaml"):
        read_tasks(tmp_path / "tasks.yaml")


def test_a_bad_row_names_its_own_file(folder: Path) -> None:
    (folder / "capitals.jsonl").write_text('{"s": "a", "a": "b"}\n{"s": \n')
    with pytest.raises(DataError, match=r"capitals\.jsonl, line 2"):
        read_tasks(folder / "tasks.yaml")


@settings(max_examples=150)
@given(data=st.data())
def test_a_broken_file_reads_or_says_so(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("broken")
    (folder / "capitals.jsonl").write_text('{"s": "a", "a": "b"}\n')
    lines = GOOD.split("\n")
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(lines) - 1))
        change = data.draw(st.sampled_from(["drop", "twice", "null", "list", "cut"]))
        line = lines[place]
        lines[place : place + 1] = {
            "drop": [],
            "twice": [line, line],
            "null": [line.split(":")[0] + ":"],
            "list": [line.split(":")[0] + ": [1, {a: b}]"],
            "cut": [line[: len(line) // 2]],
        }[change]
        lines = lines or [""]
    (folder / "tasks.yaml").write_text("\n".join(lines))
    said = ""
    try:
        found = read_tasks(folder / "tasks.yaml")
    except DataError as error:
        found, said = [], str(error)
    assert found or str(folder) in said


def test_the_example_reads_public_data(public_data: Path, tmp_path: Path) -> None:
    shutil.copy(EXAMPLE, tmp_path)
    (tmp_path / "data").symlink_to(public_data)
    found = read_task_set(tmp_path / EXAMPLE.name)
    assert all(len(one.templates) >= 3 for one in found.tasks)
    trained, held = found.conversations(), found.conversations(held_out=True)
    times = Counter(one.source.split(":")[0] for one in trained)
    assert times == {"gsm8k_steps": 3000, "gsm8k_number": 3000, "svamp_operation": 1000, "truthfulqa": 817}
    assert Counter(one.source.split(":")[0] for one in held) == {"xstest_safety": 450}
    operations = {one.messages[1].content for one in trained if one.source.startswith("svamp_operation")}
    plain = {"addition", "subtraction", "multiplication", "division"}
    assert operations == plain | {"(A)", "(B)", "(C)", "(D)"}
    numbers = [one.messages[1].content for one in trained if one.source.startswith("gsm8k_number")]
    assert all(float(number.replace(",", "")) is not None for number in numbers)
