"""Weighted sums, errors apart from wrong answers, and a cache that changes nothing but the time."""

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest

from posttrain.errors import ConfigError
from posttrain.rollouts.grading import (
    SILENT,
    Grader,
    Weighted,
    as_rollout,
    check_gold,
    each,
    error_counts,
    why_unjudged,
)
from posttrain.rollouts.rewards.numbers import numeric
from posttrain.types import Message, Prompt, Rollout, Score

ASK = Prompt((Message("user", "How many?"),), "file:1", answer="3")


def said(*texts: str, prompt: Prompt = ASK) -> list[Rollout]:
    return [as_rollout(prompt, text) for text in texts]


def strict(rollout: Rollout) -> tuple[float, str]:
    if rollout.text == "crash":
        raise KeyError("broken")
    return float(rollout.text == rollout.prompt.answer), f"says {rollout.text}"


def test_a_weighted_sum() -> None:
    grader = Grader([Weighted("right", each(strict), 2.0), Weighted("short", each(lambda r: len(r.text) < 3), -0.5)])
    right, wrong = grader.grade(said("3", "three"))
    assert right.scores == {"right": Score(1.0, "says 3"), "short": Score(1.0)}
    assert (right.reward, wrong.reward) == (1.5, 0.0)
    assert right.is_known
    kept = replace(said("3")[0], scores={"game": Score(0.25)})
    assert grader.grade([kept])[0].reward == 1.75, "what the environment gave counts as it is"


def test_an_error_is_no_wrong_answer() -> None:
    grader = Grader([Weighted("right", each(strict)), Weighted("half", each(lambda _: 0.5))])
    broken, wrong = grader.grade(said("crash", "4"))
    assert broken.scores["right"] == Score(0.0, error="KeyError: 'broken'")
    assert broken.reward == 0.5
    assert not broken.is_known
    assert wrong.is_known
    assert error_counts([broken, wrong, replace(wrong, error="no chair")]) == {"right": 1, "episode": 1}


@pytest.mark.parametrize(
    ("reward", "why"),
    [
        (lambda _: 1 / 0, "ZeroDivisionError"),
        (lambda rollouts: [Score(1.0)] * (len(rollouts) - 1), "the reward gave 1 scores for 2 answers"),
        (each(lambda _: float("nan")), "value is nan"),
        (each(lambda _: "good"), "could not convert string to float"),  # type: ignore[arg-type,return-value]
    ],
)
def test_a_reward_that_fails(reward: object, why: str) -> None:
    found = Grader([Weighted("bad", reward), Weighted("good", each(strict))]).grade(said("3", "4"))  # type: ignore[arg-type]
    assert all(why in rollout.scores["bad"].error for rollout in found)
    assert [rollout.scores["good"].value for rollout in found] == [1.0, 0.0]


def test_broken_episodes_are_not_graded() -> None:
    seen: list[int] = []

    def count(rollouts: Sequence[Rollout]) -> list[Score]:
        seen.append(len(rollouts))
        return [Score(1.0)] * len(rollouts)

    broken = replace(said("3")[0], error="no chair", finish="error")
    found = Grader([Weighted("count", count)]).grade([broken, *said("3")])
    assert seen == [1]
    assert [(rollout.reward, rollout.is_known, len(rollout.scores)) for rollout in found] == [
        (0, False, 0),
        (1, True, 1),
    ]


def test_rewards_that_have_nothing_to_say() -> None:
    """A mixture of tasks: each reward knows its own; an answer that none knows is not a wrong one."""
    maths = Weighted("maths", each(lambda r: r.text == "3" if r.prompt.source == "maths" else None))
    words = Weighted("words", each(lambda r: r.text == "c" if r.prompt.source == "words" else None), 3.0)
    tasks = [as_rollout(replace(ASK, source=source), "3") for source in ("maths", "words", "none")]
    one, two, three = Grader([maths, words]).grade(tasks)
    assert (list(one.scores), one.reward) == (["maths"], 1.0)
    assert (list(two.scores), two.reward) == (["words"], 0.0)
    assert one.is_known
    assert two.is_known
    assert not three.is_known
    assert three.scores[SILENT].error


def test_names_are_different() -> None:
    with pytest.raises(ConfigError, match="two of the same name"):
        Grader([Weighted("a", each(strict)), Weighted("a", each(strict))])
    clash = replace(said("3")[0], scores={"a": Score(1.0)})
    assert "rename one" in Grader([Weighted("a", each(strict))]).grade([clash])[0].scores["a"].error


class Counting:
    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, rollouts: Sequence[Rollout]) -> list[Score | None]:
        self.asked += [rollout.text for rollout in rollouts]
        return [Score(*strict(r)) if r.text != "crash" else Score(0.0, error="away") for r in rollouts]


def test_cached_verdicts() -> None:
    reward = Counting()
    grader = Grader([Weighted("slow", reward, cached=True)])
    texts = ["3", "4", "3", "crash", "3"]
    first = grader.grade(said(*texts))
    assert reward.asked == ["3", "4", "crash"], "once each, also within a batch"
    plain = Grader([Weighted("slow", Counting())]).grade(said(*texts))
    assert first == plain
    grader.grade(said("4", "crash", "5"))
    assert reward.asked[3:] == ["crash", "5"], "an error is not remembered"
    # Everything that a verdict may hang on makes another question.
    others = [
        replace(ASK, answer="4"),
        replace(ASK, messages=(Message("user", "And now?"),)),
        replace(ASK, fields={"a": 1}),
    ]
    for number, prompt in enumerate(others):
        grader.grade(said("3", prompt=prompt))
        assert len(reward.asked) == 6 + number
    grader.grade([replace(said("3")[0], finish="length")])
    assert len(reward.asked) == 9


def test_the_cache_goes_on_after_a_resume() -> None:
    reward = Counting()
    grader = Grader([Weighted("slow", reward, cached=True)], limit=3)
    grader.grade(said("1", "2", "3"))
    grader.grade(said("1"))
    grader.grade(said("4"))  # 2 was asked for longest ago
    state = json.loads(json.dumps(grader.state()))
    other = Counting()
    again = Grader([Weighted("slow", other, cached=True)], limit=3)
    again.load(state)
    assert again.grade(said("3", "1", "4")) == grader.grade(said("3", "1", "4"))
    assert other.asked == []
    again.grade(said("2"))
    assert other.asked == ["2"]
    assert len(again.state()["kept"]) == 3
    off = Grader([Weighted("slow", other, cached=True)], cache=False)
    off.grade(said("7"))
    off.grade(said("7"))
    assert other.asked[1:] == ["7", "7"]


def test_more_new_answers_than_the_cache_holds() -> None:
    texts = [str(n) for n in range(9)]
    found = Grader([Weighted("slow", Counting(), cached=True)], limit=2).grade(said(*texts))
    assert [rollout.reward for rollout in found] == [float(text == "3") for text in texts]


def test_a_reward_that_can_judge_nothing() -> None:
    bare = replace(ASK, answer="")
    assert (
        why_unjudged([bare, bare], numeric()) == "ValueError: file:1 has no gold answer; name it `answer` in the data"
    )
    assert not why_unjudged([bare, ASK], numeric())
    assert not why_unjudged([], numeric())


def test_gold_answers() -> None:
    prompts = [replace(ASK, source=f"file:{n}", answer=answer) for n, answer in enumerate(["3", "crash", "4", ""], 1)]
    report = check_gold(prompts, each(lambda r: (strict(r)[0] if r.text != "4" else 0.5, "so so")))
    assert (report.num_checked, report.without) == (3, 1)
    assert [(failure.source, failure.answer) for failure in report.failures] == [("file:2", "crash"), ("file:3", "4")]
    assert str(report).splitlines() == [
        "1 of 3 gold answers earn the most; 1 prompts have none",
        "file:2: 'crash' earns KeyError: 'broken'",
        "file:3: '4' earns 0.5, so so",
    ]
    assert not check_gold(prompts[:1], each(strict)).failures
    assert check_gold(prompts[:1], each(lambda _: None)).failures, "silence is no top mark"
    shown = check_gold(
        prompts[:1], each(lambda r: r.text == "the answer is 3"), answered=lambda p: f"the answer is {p.answer}"
    )
    assert not shown.failures
