import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.feedback.personal_data import redact
from posttrain.serve.guard import Cleaned, Guardrails
from posttrain.serve.guard_blocks import BlockRule, LengthRule, block_size, redacting
from posttrain.serve.guard_log import DecisionLog
from posttrain.serve.guard_models import MAX_WAITING, Asked, by_judge, by_score, needs_phrase
from posttrain.serve.guard_patterns import PatternRule
from posttrain.serve.guard_regex import of_phrases
from posttrain.serve.guard_stage import Rule
from posttrain.types import Message

BOTH: dict[str, Any] = {"on_input": True, "on_output": True}
KEY = "-----BEGIN PRIVATE KEY-----\n" + "abc. \n" * 60 + "-----END PRIVATE KEY-----"


def words(name: str, *phrases: str, **scope: Any) -> PatternRule:
    return PatternRule(**{"name": name, "told": f"no {name}", **BOTH, "expression": of_phrases(phrases), **scope})


def stars(text: str) -> tuple[str, dict[str, int]]:
    return text.replace(KEY, "*").replace("secret", "*"), {"KEY": text.count(KEY), "WORD": text.count("secret")}


def user(*texts: str) -> list[Message]:
    return [Message("user", text) for text in texts]


def through(guard: Guardrails, pieces: Sequence[str]) -> tuple[str, str]:
    """What goes out, and the rule that refused."""
    watch = guard.watch(user("hi"), "ann")
    passed = [*map(watch.feed, pieces), watch.end()]
    last = passed[-1].ruling
    return "".join(each.text for each in passed), last.rule if last is not None and last.action == "refuse" else ""


def spam(score: float = 1.0) -> Asked:
    return Asked(lambda passage, _: score if "spam" in passage else 0.0, timeout_s=5)


# What is asked for.


def test_the_first_rule_of_the_file_decides_and_says_why() -> None:
    guard = Guardrails([words("one", "later"), words("two", "now")])
    ruling = guard.check(user("now and later"), "ann")
    assert (ruling.action, ruling.rule, ruling.told, ruling.where) == ("refuse", "one", "no one", "input")
    assert "later" not in json.dumps(dict(ruling.details))
    assert guard.check(user("fine"), "ann").action == "allow"


def test_what_is_blotted_out_is_hidden_from_the_rules_behind_it_and_from_the_model() -> None:
    guard = Guardrails([words("hide", "abc", replacement="[x]"), words("stop", "abc")])
    ruling = guard.check(user("an ABC here"), "ann")
    assert isinstance(ruling, Cleaned)
    assert (ruling.action, [message.content for message in ruling.messages]) == ("redact", ["an [x] here"])
    assert through(guard, ["an A", "BC here"]) == ("an [x] here", "")
    assert guard.check(user("nothing"), "ann") == Guardrails([]).check(user("nothing"), "ann")


@pytest.mark.parametrize(
    ("scope", "roles", "refused"),
    [
        ({}, [("user", "bad"), ("assistant", "no"), ("user", "ok")], False),
        ({"look_at": "all"}, [("user", "bad"), ("assistant", "no"), ("user", "ok")], True),
        ({}, [("user", "bad"), ("user", "ok")], True),
        ({}, [("user", "bad"), ("assistant", "ok")], True),
        ({}, [("user", "ok"), ("tool", "bad"), ("tool", "ok")], False),
        ({"roles": ("tool",)}, [("user", "bad"), ("assistant", "x"), ("tool", "bad"), ("tool", "ok")], True),
        ({"roles": ("tool",)}, [("user", "bad")], False),
        ({"on_input": False}, [("user", "bad")], False),
    ],
)
def test_which_messages_are_looked_at(scope: dict[str, Any], roles: list[tuple[str, str]], refused: bool) -> None:
    guard = Guardrails([words("r", "bad", **scope)])
    action = guard.check([Message(role, text) for role, text in roles], "ann").action
    assert action == ("refuse" if refused else "allow")


# What is answered.


PARTS = st.sampled_from([*"ab. \nsecrtpmd", "secret", "-----BEGIN", "-----END K\n", "x x x x x x x x x x x x x x x"])


@given(st.lists(PARTS, max_size=60).map("".join), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_all_kinds_together_let_out_the_same_however_it_comes(text: str, size: int) -> None:
    rules: list[Rule] = [
        BlockRule(name="data", **BOTH, look=redacting(stars), every=8),
        words("pat", "ab", "p"),
        BlockRule(name="block", **BOTH, look=by_score(Count("d"), threshold=1), every=10, window=4),  # type: ignore[arg-type]
        LengthRule(name="long", **BOTH, most=120),
    ]
    guard = Guardrails(rules)
    whole = through(guard, [text])
    assert through(guard, [text[at : at + size] for at in range(0, len(text), size)]) == whole
    if not whole[1]:
        assert whole[0].replace("*", "secret") == text


class Count:
    """A score: how often a letter stands in a passage."""

    def __init__(self, letter: str) -> None:
        self.letter = letter

    def __call__(self, passage: str, _: Sequence[Message]) -> tuple[float, str]:
        return float(passage.count(self.letter)), ""


def test_nothing_of_a_refused_block_goes_out_and_the_earliest_refusal_counts() -> None:
    block = BlockRule(name="block", **BOTH, look=by_score(spam(), threshold=0.5), every=10)
    guard = Guardrails([words("stop", "end"), block])
    text = "All is fine. This is spam today. And the end of it."
    assert through(guard, [text]) == through(guard, list(text)) == ("All is fine. ", "block")
    fine = "All is fine. Nothing to see. And the end of it."
    assert through(guard, [fine]) == through(guard, list(fine)) == ("All is fine. Nothing to see. And the ", "stop")


def test_a_model_sees_what_stands_in_front_and_what_is_answered() -> None:
    seen: list[tuple[str, str]] = []

    def judge(passage: str, conversation: Sequence[Message]) -> bool:
        seen.append((passage, conversation[-1].content if conversation else ""))
        return False

    rule = BlockRule(name="j", **BOTH, look=by_judge(Asked(judge, timeout_s=5)), every=8, window=6)
    guard = Guardrails([rule])
    assert through(guard, list("One two. Three four. Five")) == ("One two. Three four. Five", "")
    assert seen == [("One two. ", "hi"), (" two. Three four. ", "hi"), ("four. Five", "hi")]
    guard.check(user("What?"), "ann")
    assert seen[-1] == ("What?", "")


@pytest.mark.parametrize(
    ("text", "every", "size"),
    [
        ("One. Two. Three", 4, 5),
        ("One. Two. Three", 5, 10),
        ("no end yet", 20, 0),
        ("a" * 50, 20, 0),
        ("a" * 10_001, 20, 10_000),
        ("a" * 50 + "," + "b", 20, 51),
        ("ab," * 20, 20, 39),
        ("word " * 20, 20, 40),
        ("call 0123 456 789 012 345 678 901 234 x " * 9, 10, 18),
        ("x -----BEGIN K. \n" + "a. \n" * 9, 12, 0),
    ],
)
def test_blocks(text: str, every: int, size: int) -> None:
    assert block_size(text, 0, every) == size


def test_a_key_is_one_block() -> None:
    guard = Guardrails([BlockRule(name="data", **BOTH, look=redacting(stars), every=20)])
    text = f"Here it is: {KEY} Done."
    assert through(guard, list(text)) == ("Here it is: * Done.", "")


def test_length_lets_out_what_is_allowed() -> None:
    guard = Guardrails([LengthRule(name="long", **BOTH, most=5)])
    assert through(guard, ["abc", "def", "g"]) == ("abcde", "long")
    assert through(guard, ["abc", "de"]) == ("abcde", "")


def test_an_answer_that_was_changed_says_so() -> None:
    watch = Guardrails([words("hide", "abc", replacement="#")]).watch(user("hi"), "ann")
    assert watch.feed("hello, ").ruling is None
    ruling = [watch.feed("abc and more words that follow on"), watch.end()][0].ruling
    assert ruling is not None
    assert (ruling.action, ruling.where) == ("redact", "output")


# Models that are away.


@pytest.mark.parametrize(("on_error", "action"), [("refuse", "refuse"), ("allow", "allow")])
@pytest.mark.parametrize("fault", ["slow", "broken", "nan"])
def test_a_model_that_is_away(on_error: str, action: str, fault: str, tmp_path: Path) -> None:
    gate = threading.Event()

    def model(*_: Any) -> float:
        if fault == "slow":
            gate.wait(5)
        if fault == "broken":
            raise RuntimeError("the text itself")
        return float("nan")

    asked = Asked(model, timeout_s=0.05)
    log = DecisionLog(tmp_path / "log.jsonl")
    rule = BlockRule(name="m", **BOTH, look=by_score(asked, threshold=0.5, on_error=on_error))
    guard = Guardrails([rule], log=log, closing=[asked.close])
    try:
        assert guard.check(user("hello"), "ann").action == action
    finally:
        gate.set()
        guard.close()
    row = json.loads(log.path.read_text())
    assert (row["rule"], row["action"]) == ("m", action)
    assert row["details"]["error"] in ("no answer within 0.05 s", "RuntimeError", "ValueError")


def test_few_questions_wait() -> None:
    gate = threading.Event()
    asked = Asked(lambda *_: gate.wait(10), timeout_s=10)
    with ThreadPoolExecutor(MAX_WAITING) as pool:
        waiting = [pool.submit(asked, "x", ()) for _ in range(MAX_WAITING)]
        while asked._room.acquire(blocking=False):  # until all of them wait
            asked._room.release()
        assert asked("x", ())[1] == f"{MAX_WAITING} questions wait for the model already"
        gate.set()
        assert [each.result() for each in waiting] == [(True, "")] * MAX_WAITING
    assert asked("x", ()) == (True, "")
    asked.close()


@pytest.mark.parametrize("refuse_if", [True, False])
@pytest.mark.parametrize("said", [True, False])
def test_a_judge_says_yes_or_no(said: bool, refuse_if: bool) -> None:
    action = "refuse" if said == refuse_if else "allow"
    look = by_judge(Asked(lambda *_: said, timeout_s=5), refuse_if=refuse_if)
    assert Guardrails([BlockRule(name="j", look=look)]).check(user("x"), "ann").action == action


@pytest.mark.parametrize(("score", "below", "action"), [(0.5, False, "refuse"), (0.49, False, "allow"),
                                                        (0.5, True, "allow"), (0.49, True, "refuse")])  # fmt: skip
def test_thresholds(score: float, below: bool, action: str) -> None:
    look = by_score(spam(score), threshold=0.5, refuse_below=below)
    assert Guardrails([BlockRule(name="c", look=look)]).check(user("spam"), "ann").action == action


def test_allowed_topics() -> None:
    look = needs_phrase(of_phrases(["garden", "plants"]), 3)
    guard = Guardrails([BlockRule(name="t", look=look, every=1 << 40)])
    said = [guard.check(user(text), "ann").action for text in ("My PLANTS are dry", "thank you", "what is the capital")]
    assert said == ["allow", "allow", "refuse"]


# The log.


def test_every_decision_is_logged_and_no_text(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path / "logs" / "g.jsonl")
    guard = Guardrails([words("hide", "abc", replacement="#"), words("stop", "bad")], log=log)
    guard.check(user("my bad abc"), "u1")
    through(guard, ["so bad"])
    rows = [json.loads(line) for line in log.path.read_bytes().split(b"\n")[:-1]]
    assert [(row["user"], row["where"], row["rule"], row["action"]) for row in rows] == [
        ("u1", "input", "hide", "redact"),
        ("u1", "input", "stop", "refuse"),
        ("ann", "output", "stop", "refuse"),
    ]
    assert all("text" not in row and "time" in row for row in rows)
    with_text = Guardrails(guard.rules, log=DecisionLog(tmp_path / "t.jsonl"), log_text=True, log_allowed=True)
    with_text.check(user("so bad"), "u1")
    with_text.check(user("fine"), "u1")
    through(with_text, ["how ", "bad it is"])
    rows = [json.loads(line) for line in (tmp_path / "t.jsonl").read_bytes().split(b"\n")[:-1]]
    assert [(row["action"], row["text"]) for row in rows] == [
        ("refuse", "so bad"),
        ("allow", "fine"),
        ("refuse", "how bad it is"),
    ]


def test_the_log_is_turned_over(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path / "g.jsonl", max_bytes=200, keep=2)
    for number in range(20):
        log.write({"n": number})
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["g.jsonl", "g.jsonl.1", "g.jsonl.2"]
    kept = [
        json.loads(line)["n"] for name in reversed(files) for line in (tmp_path / name).read_text().split("\n")[:-1]
    ]
    assert kept == list(range(kept[0], 20))
    assert all((tmp_path / name).stat().st_size <= 200 for name in files)


def test_a_full_disk_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = DecisionLog(tmp_path / "g.jsonl")
    guard = Guardrails([words("stop", "bad")], log=log)
    guard.check(user("bad"), "u1")
    whole = log.path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(log, "path", Path("/dev/full"))
        assert guard.check(user("bad"), "u1").action == "refuse"
    assert (log.num_lost, log.last_error[:7]) == (1, "OSError")
    log.path.write_bytes(whole + whole[:20])  # and a half line was left
    guard.check(user("bad"), "u2")
    lines = log.path.read_bytes().split(b"\n")
    assert json.loads(lines[2])["user"] == "u2"


def test_threads_write_whole_lines(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path / "g.jsonl", max_bytes=5000, keep=9)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: log.write({"n": number, "pad": "x" * (number % 50)}), range(200)))
    rows = [json.loads(line) for path in tmp_path.iterdir() for line in path.read_bytes().split(b"\n")[:-1]]
    assert sorted(row["n"] for row in rows) == list(range(200))
    assert log.num_lost == 0


JWT = "eyJhbGciOiJIUzI1NiJ9.eyJ" + "abcDEF12" * 60 + ".sig_NATURE-99999999"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f"The token is {JWT} ok.", "The token is [SECRET] ok."),
        (",".join(f"ann{n}@b.example" for n in range(50)), ",".join(["[EMAIL]"] * 50)),
        ("[" + ",".join(f'"ann{n}@b.example"' for n in range(50)) + "]", "[" + ",".join(['"[EMAIL]"'] * 50) + "]"),
        (",".join(["4111111111111111"] * 40), ",".join(["[CARD]"] * 40)),
        *((f"{'a ' * n} Tel. 5552671 thanks", f"{'a ' * n} Tel. [PHONE] thanks") for n in range(92, 102)),
    ],
)
def test_personal_data_is_not_cut_in_two_by_a_block(text: str, left: str) -> None:
    look = redacting(lambda block: (redact(block).text, redact(block).counts))
    guard = Guardrails([BlockRule(name="data", on_output=True, look=look, every=200)])
    for size in (len(text), 7):
        assert through(guard, [text[at : at + size] for at in range(0, len(text), size)]) == (left, "")


def test_a_model_that_hangs_does_not_keep_the_program() -> None:
    """Nor does one that was closed take questions."""
    script = (
        "import time; from posttrain.serve.guard_models import Asked\n"
        "asked = Asked(lambda *_: time.sleep(60), timeout_s=0.05)\n"
        "print(asked('x', ())); asked.close(); print(asked('y', ()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.split("\n")[:2] == ["(None, 'no answer within 0.05 s')", "(None, 'the model is asked no more')"]
