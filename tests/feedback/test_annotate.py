"""`posttrain annotate` as users start it: files in, links out, errors with their mend, and kills that lose nothing."""

import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

from posttrain.cli import main
from posttrain.errors import ConfigError, DataError
from posttrain.feedback.store import Store
from posttrain.recipes import annotate
from posttrain.recipes.annotate_config import AnnotateConfig
from posttrain.recipes.annotate_items import add_files, groups, make_items
from posttrain.recipes.config import load
from posttrain.types import Message

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "annotate.py"


def write(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def said(store: Store) -> dict[str, set[tuple[str, str]]]:
    """{question: {(answer, model)}}."""
    return {
        prompt.messages[-1].content: {(one.messages[0].content, one.model) for one in store.responses(prompt.id)}
        for prompt in store.prompts()
    }


def test_every_layout_of_answers(sqlite_store: Store, tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "q2"}]
    file = write(
        tmp_path / "a.jsonl",
        {"prompt": "q1", "responses": ["a", "b"]},
        {
            "prompt": chat,
            "responses": [{"role": "assistant", "content": "a", "model": "m", "samples": [0]}, {"content": "b"}],
        },
        {"prompt": "q3", "responses": ["a", "b"], "models": ["m", "n"]},
        {"prompt": "q4", "responses": ["a", "b", "c"], "ranks": [0, 1, 2], "model": "m"},
        {"prompt": "q5", "chosen": "a", "rejected": "b"},
        {"prompt": "q6", "response": "a", "model": "m"},
        {"prompt": "q6", "response": "b", "model": "n"},
    )
    assert add_files(sqlite_store, [file]) == 6
    assert said(sqlite_store) == {
        "q1": {("a", ""), ("b", "")},
        "q2": {("a", "m"), ("b", "")},
        "q3": {("a", "m"), ("b", "n")},
        "q4": {("a", "m"), ("b", "m"), ("c", "m")},
        "q5": {("a", ""), ("b", "")},
        "q6": {("a", "m"), ("b", "n")},
    }
    before = sqlite_store.counts()
    assert add_files(sqlite_store, [file]) == 6
    assert sqlite_store.counts() == before, "twice is the same as once"


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"prompt": "q", "responses": ["a", 1]}, r"line 1, field 'responses\[1\]'"),
        ({"prompt": "q", "responses": ["a", {"text": "b"}]}, r"line 1, field 'responses\[1\]"),
        ({"prompt": 1, "responses": ["a", "b"]}, "line 1, field 'prompt'"),
        ({"prompt": "q", "responses": ["a", "b"], "models": ["m"]}, "line 1, field 'models': got 1 models for 2"),
        ({"text": "only text"}, "line 1: there are no answers to compare"),
        ({"prompt": "only a prompt"}, "line 1: there are no answers to compare"),
        ([1], "line 1"),
    ],
)
def test_bad_rows_name_their_place(sqlite_store: Store, tmp_path: Path, row: Any, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        add_files(sqlite_store, [write(tmp_path / "a.jsonl", row)])
    assert sqlite_store.counts()["prompts"] == 0


@pytest.mark.parametrize("num", range(2, 14))
@pytest.mark.parametrize("most", [2, 3, 4])
def test_groups_hold_everybody(num: int, most: int) -> None:
    import random

    found = groups(range(num), set(), most, random.Random(1))
    assert all(2 <= len(group) == len(set(group)) <= most for group in found)
    seen = Counter(id for group in found for id in group)
    assert set(seen) == set(range(num))
    assert sum(seen.values()) <= num + 1, "at most one answer stands twice"


def test_items_for_what_was_not_compared(sqlite_store: Store) -> None:
    prompt = sqlite_store.add_prompt([Message("user", "q")])
    ids = [sqlite_store.add_response(prompt, [Message("assistant", text)], model=f"m{text}") for text in "abcde"]
    sqlite_store.add_response(prompt, [Message("assistant", "a")], model="an echo")
    lonely = sqlite_store.add_prompt([Message("user", "lonely")])
    sqlite_store.add_response(lonely, [Message("assistant", "a")])
    assert make_items(sqlite_store, fewest=2, most=4, overlap=1) == (2, 1)
    assert sorted(id for item in sqlite_store.items() for id in item.response_ids) == ids
    assert make_items(sqlite_store, fewest=2, most=4, overlap=3) == (0, 1)
    assert {item.overlap for item in sqlite_store.items()} == {3}, "items are widened"
    new = sqlite_store.add_response(prompt, [Message("assistant", "f")])
    assert make_items(sqlite_store, fewest=2, most=4, overlap=1) == (1, 1)
    assert new in sqlite_store.items()[-1].response_ids
    assert len(sqlite_store.items()[-1].response_ids) == 2


def test_the_keys() -> None:
    config = load(AnnotateConfig, None, {"annotators": ["ann, bob", "cyd,ann"], "answers": "3"})
    assert config.annotators == ["ann", "bob", "cyd"]
    assert config.num_answers == (3, 3)
    assert load(AnnotateConfig, None, {}).num_answers == (2, 4)
    for wrong in ("4..2", "1..4", "2..5", "two"):
        with pytest.raises(ConfigError, match="answers"):
            load(AnnotateConfig, None, {"answers": wrong})


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What would be served; nothing is."""
    found: list[Any] = []
    monkeypatch.setattr(annotate, "_serve", lambda app, listener: found.append((app, listener.getsockname()[1])))
    return found


def test_links_are_printed_once(served: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "a.jsonl", {"prompt": "q", "responses": ["a", "b"]})
    rules = tmp_path / "rules.md"
    rules.write_text("be right")
    words = ["annotate", "--store", str(tmp_path / "f.db"), "--port", "0", "--guidelines", str(rules)]

    def run(*more: str) -> dict[str, str]:
        assert main([*words, *more]) == 0
        out = capsys.readouterr().out
        links = dict(re.findall(r"^(\w+).*?: (http://127\.0\.0\.1:\d+/\S+)$", out, re.MULTILINE))
        assert all(f":{served[-1][1]}/" in link for link in links.values())
        return {name: link.partition("#")[2] for name, link in links.items()}

    first = run("--input", file, "--annotators", "ann,bob")
    assert set(first) == {"ann", "bob", "figures"}
    assert len(served) == 1
    again = run("--annotators", "ann,bob,cyd")
    assert set(again) == {"cyd", "figures"}, "whoever has a link keeps it"
    assert again["figures"] != first["figures"]
    new = run("--annotators", "ann", "--new-tokens")
    assert set(new) == {"ann", "figures"}
    with Store.open(tmp_path / "f.db") as store:
        assert store.annotator(new["ann"]) == "ann"
        assert store.annotator(first["ann"]) is None
        assert store.annotator(first["bob"]) == "bob"
        assert store.guidelines() == (1, "be right")
        assert [item.overlap for item in store.items()] == [2]


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ((), "annotators is empty"),
        (("--annotators", "ann", "--guidelines", "no-such-file.md"), "guidelines: no-such-file.md cannot be read"),
        (("--annotators", "ann", "--input", "no-such-file.jsonl"), "no-such-file.jsonl"),
        (("--annotators", "ann", "--host", "no.such.host.invalid"), "cannot listen on no.such.host.invalid"),
        (("--annotators", "ann", "--answers", "5"), "answers"),
        (("--annotators", "ann", "--random-share", "2"), "random-share"),
    ],
)
def test_errors_name_the_mend(
    served: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], complaint: str
) -> None:
    assert main(["annotate", "--store", str(tmp_path / "f.db"), "--port", "0", *flags]) == 2
    assert complaint in capsys.readouterr().err
    assert not served
    assert not (tmp_path / "f.db").exists(), "a command that fails leaves no empty store"


def test_a_bad_file_leaves_the_store_as_it_was(
    served: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A new one is not made, one that is there keeps what it holds."""
    words = ["annotate", "--store", str(tmp_path / "f.db"), "--port", "0", "--annotators", "ann"]
    good = write(tmp_path / "good.jsonl", {"prompt": "q", "responses": ["a", "b"]})
    bad = write(tmp_path / "bad.jsonl", {"prompt": "p", "responses": ["a", "b"]}, {"prompt": "only a prompt"})
    assert main([*words, "--input", good, "--input", bad]) == 2
    assert "bad.jsonl, line 2" in capsys.readouterr().err
    assert not (tmp_path / "f.db").exists()
    assert main([*words, "--input", good]) == 0
    assert main([*words, "--input", bad]) == 2
    with Store.open(tmp_path / "f.db") as store:
        assert [prompt.messages[-1].content for prompt in store.prompts()] == ["q"]
    assert len(served) == 1


def test_a_port_that_is_taken(served: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert main(["annotate", "--store", str(tmp_path / "f.db"), "--annotators", "ann", "--port", port]) == 2
    assert "Give another --port" in capsys.readouterr().err
    assert not served


def test_help_needs_nothing_heavy() -> None:
    program = (
        "import sys; from posttrain.cli import main; main(['annotate', '--help'])\n"
        "assert not {'torch', 'numpy', 'sqlalchemy', 'fastapi', 'uvicorn', 'markdown_it'} & set(sys.modules)"
    )
    assert (
        "--random-share"
        in subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    )


def test_a_server_that_is_asked_to_end_ends_well(tmp_path: Path) -> None:
    """Ctrl-C while a page is open: the vote before it is there, nothing is said but the links."""
    import signal

    file = write(tmp_path / "a.jsonl", *({"prompt": f"q{i}", "responses": ["a", "b"]} for i in range(3)))
    words = [sys.executable, "-m", "posttrain.cli", "annotate", "--store", str(tmp_path / "f.db"), "--port", "0"]
    process = subprocess.Popen(
        [*words, "--annotators", "ann", "--input", file],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "POSTTRAIN_ALLOCATOR": "system"},
    )
    assert process.stdout is not None
    link = next(line for line in process.stdout if line.startswith("ann: ")).split()[1]
    place, _, token = link.partition("/#")
    next(line for line in process.stdout if line.startswith("figures"))
    with httpx.Client(base_url=place, headers={"Authorization": f"Bearer {token}"}, timeout=30) as page:
        shown = page.get("/api/next").json()
        body = {"kind": "ranking", "key": "a key of it", "assignment": shown["assignment"], "places": [0, 1]}
        assert page.post("/api/vote", json=body).status_code == 200
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode in (0, 130, -signal.SIGINT)
    assert token not in out + err
    assert "Traceback" not in err
    with Store.open(tmp_path / "f.db") as store:
        assert len(store.ballots()) == 1


def test_an_ensemble_scores_what_is_compared(sqlite_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reward model gives every answer one score, and the store keeps them in the order of the models."""
    for question, answers in (("q1", ("a", "bbb")), ("q2", ("cc", "dddd", "e"))):
        prompt = sqlite_store.add_prompt([Message("user", question)])
        ids = [sqlite_store.add_response(prompt, [Message("assistant", text)]) for text in answers]
        sqlite_store.add_item(prompt, ids)
    stub = ModuleType("scoring")
    sign = {"long": 1.0, "short": -1.0}
    stub.score_answers = lambda model, asked: [  # type: ignore[attr-defined]
        [sign[model] * len(answer[0].content) for answer in answers] for _, answers in asked
    ]
    monkeypatch.setitem(sys.modules, "posttrain.recipes.scoring", stub)
    assert annotate._score(sqlite_store, ["long", "short"]) == 5
    for response in sqlite_store.responses():
        length = len(response.messages[0].content)
        assert response.scores == (length, -length)


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("annotate_benchmark", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_killed_server_loses_nothing(address: str, tmp_path: Path, benchmark: ModuleType) -> None:
    """4 annotators, 8 ballots each, one SIGKILL; the benchmark does it with 20, 200 and two."""
    found = benchmark.measure(address, tmp_path, num_annotators=4, num_ballots=8, num_kills=1)
    assert found["unexpected"] == []
    assert found["acknowledged"] == 32
    assert found["stored"] == 32
    assert (found["lost"], found["duplicates"], found["items_over_overlap"]) == (0, 0, 0)
    assert found["sent_again"] > 0, "the kill was noticed"
