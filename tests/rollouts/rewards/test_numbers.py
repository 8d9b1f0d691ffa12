"""Numbers in answers: by hand, on hostile text, and on every gold answer and graded solution of the public sets."""

import json
import time
from fractions import Fraction
from pathlib import Path

import pytest

from posttrain.data.sources import read
from posttrain.rollouts.grading import as_rollout, check_gold
from posttrain.rollouts.rewards.numbers import boxed, numbers, numeric, read_number
from posttrain.types import Message, Prompt, Rating, Score

ANSWERS = {
    "18": 18,
    "It has 3 cats and 4 dogs.": 4,
    "so 9 * 2 = $<<9*2=18>>18 every day\n#### 18": 18,
    "#### 1,234": 1234,
    "#### -5": -5,
    "#### $1,200.50": Fraction(2401, 2),
    "The answer is 7, since 3 + 4 = 7 and 12 is too much": 7,
    "The answer is 3 + 4 = 7.": 7,
    "The answer is: **42**. I checked it 2 times.": 42,
    "The final answer is $5.00": 5,
    "Answer: 12 apples\n\nQ: What is 3 + 9?": 12,
    "He has 5.\nA: 26": 26,
    "<answer>8</answer> of 10": 8,
    r"$\boxed{18}$ and not 3": 18,
    r"\boxed{\frac{3}{4}} of 8": Fraction(3, 4),
    r"\boxed{-\dfrac{1}{2}}": Fraction(-1, 2),
    r"\boxed{x = \text{about } 7}": 7,
    r"\boxed{1{,}000}": 1000,
    r"\boxed{1\,000}": 1000,
    r"first \boxed{1}, then \boxed{2}": 2,
    "3/4": Fraction(3, 4),
    "-3/4": Fraction(-3, 4),
    "1 1/2 cups": Fraction(3, 2),
    r"3\frac{1}{2}": Fraction(7, 2),
    r"3-\frac{1}{2}": Fraction(1, 2),
    "half is 0.5": Fraction(1, 2),
    ".25": Fraction(1, 4),
    "3.50": Fraction(7, 2),
    "25%": 25,
    "50 %": 50,
    "1,000,000": 1000000,
    "1,2 and 3": 3,
    "10-5": 5,
    "10 - 5": 5,
    "= -5": -5,
    "−5": -5,
    "-$5": -5,
    "$-5": -5,
    "- 5 apples": 5,
    "20kg": 20,
    "It is 5.": 5,
    "version2": None,
    "none": None,
    "": None,
    r"\boxed{}": None,
    r"\boxed{many}": None,
    "5/0": None,
    "1/2/2020 is a date with 7": 7,
    "the answer is unknown, perhaps 4": 4,
}


@pytest.mark.parametrize("text", ANSWERS)
def test_read(text: str) -> None:
    assert read_number(text) == ANSWERS[text]


def test_boxes() -> None:
    assert boxed(r"\boxed{\frac{1}{2}} x") == r"\frac{1}{2}"
    assert boxed(r"\boxed{1") is None
    assert boxed("1") is None


@pytest.mark.parametrize(
    "text",
    ["1" * 100_000, "1," * 50_000, "1 " * 50_000, "1/" * 50_000, "(-" * 50_000, "\\boxed{" * 20_000, "#### " * 20_000,
     "\\frac{" * 20_000, "answer is " * 10_000, "." * 100_000, "$" * 100_000, "1.1." * 30_000],
    ids=lambda text: text[:8],
)  # fmt: skip
def test_hostile_text_takes_no_time(text: str) -> None:
    began = time.thread_time()
    read_number(text)
    assert time.thread_time() - began < 2


def test_verdicts() -> None:
    ask = Prompt((Message("user", "How many?"),), "file:1", answer="#### 1,200")
    said = [as_rollout(ask, text) for text in ("1200.0", "1,201", "many", "<think>7 or 8</think>1200")]
    assert list(numeric()(said)) == [
        Score(1.0, "1200 is right"),
        Score(0.0, "1201 is not 1200"),
        Score(0.0, "no number"),
        Score(1.0, "1200 is right"),
    ]
    assert numeric(tolerance=0.01)(said[1:2])[0].value == 1.0  # type: ignore[union-attr]
    for gold, why in (("", "has no gold answer"), ("blue", "no number in the gold answer")):
        (score,) = numeric()([as_rollout(Prompt(ask.messages, "file:1", answer=gold), "5")])
        assert score is not None
        assert why in score.error
    listed = Prompt(ask.messages, answer="3", fields={"correct": ["3", "-3"]})
    assert numeric()([as_rollout(listed, "-3")])[0].value == 1.0  # type: ignore[union-attr]


def test_all_numbers() -> None:
    assert numbers("3 cats, 1/2 dog and -4.5") == [3, Fraction(1, 2), Fraction(-9, 2)]


@pytest.mark.parametrize("name", ["gsm8k/train.jsonl", "gsm8k/test.jsonl"])
def test_gsm8k_gold_answers(public_data: Path, name: str) -> None:
    """All 8,792 read as the number behind '####', and earn 1."""
    rows = [json.loads(line) for line in (public_data / name).read_text(encoding="utf-8").splitlines()]
    prompts = [Prompt((Message("user", row["question"]),), name, answer=row["answer"]) for row in rows]
    report = check_gold(prompts, numeric())
    assert (report.num_checked, report.failures) == (len(rows), ())
    for prompt in prompts:
        assert read_number(prompt.answer) == int(prompt.answer.split("####")[1].replace(",", ""))


def test_svamp_gold_answers(public_data: Path) -> None:
    (source,) = read(public_data / "svamp" / "SVAMP.json")
    prompts = [record for record in source.records if isinstance(record, Prompt)]
    report = check_gold(prompts, numeric(), answered=lambda prompt: f"So it is {prompt.answer} of them.")
    assert (report.num_checked, report.failures) == (1000, ())


def test_gsm8k_graded_solutions(public_data: Path) -> None:
    """The four models' 5,276 solutions get the marks that their authors gave them, every one."""
    (source,) = read(public_data / "gsm8k" / "example_model_solutions.jsonl")
    lines = Path(source.path).read_text(encoding="utf-8").splitlines()
    gold = [json.loads(line)["ground_truth"] for line in lines]
    ratings = [record for record in source.records if isinstance(record, Rating)]
    assert len(ratings) == 4 * len(gold) == 5276
    rollouts = [
        as_rollout(Prompt(rating.prompt, rating.source, answer=gold[number // 4]), rating.response[-1].content)
        for number, rating in enumerate(ratings)
    ]
    scores = numeric()(rollouts)
    agreed = sum(score is not None and score.value == r.score for score, r in zip(scores, ratings, strict=True))
    assert agreed == 5276
    assert not any(score is None or score.error for score in scores)
