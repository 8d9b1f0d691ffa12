"""The page of a preference run and of a reward model: what is drawn, what is concluded, that older pages stay."""

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest

from posttrain.train.charts import Reading, calibration_chart
from posttrain.train.pair_charts import pair_charts
from posttrain.train.report import write_report
from posttrain.train.reward_page import reward_view


def share(value: float, reach: float = 0.05) -> dict[str, float]:
    return {"value": value, "low": value - reach, "high": value + reach}


REWARD: dict[str, Any] = {
    "num_pairs": 400,
    "num_prompts": 200,
    "accuracy": share(0.72),
    "accuracy_ceiling": 0.9,
    "nll": 0.55,
    "calibration": {
        "curve": [
            {"predicted": 0.2, "observed": 0.3, "low": 0.2, "high": 0.4, "share": 0.5},
            {"predicted": 0.8, "observed": 0.7, "low": 0.6, "high": 0.8, "share": 0.5},
        ],
        "error": 0.1,
        "error_by_chance": 0.02,
        "temperature": 1.5,
        "temperature_low": 1.2,
        "temperature_high": 1.9,
        "nll_at_temperature": 0.5,
    },
    "by_margin": [
        {"low": 0.0, "high": 0.5, "num": 200, "accuracy": share(0.55), "predicted": 0.6},
        {"low": 0.5, "high": 3.0, "num": 200, "accuracy": share(0.89), "predicted": 0.9},
    ],
    "length": {
        "slope": share(0.6),
        "people_slope": share(0.1),
        "slope_beyond": None,
        "prefers_longer": share(0.65),
        "people_prefer_longer": share(0.52),
        "difference": share(0.13),
        "correlation": {"value": -0.2, "low": None, "high": 0.1},
    },
    "baseline": {
        "longer": share(0.52),
        "shorter": share(0.48),
        "fitted": share(0.55),
        "best": "fitted",
        "gain": share(0.17),
    },
    "null_answers": {
        "answers": [
            {"name": "<b>none</b>", "num": 400, "beats_chosen": share(0.1), "beats_rejected": share(0.3),
             "score": -1.5, "verdict": "sound"},
            {"name": "thanks", "num": 400, "beats_chosen": share(0.6), "beats_rejected": share(0.8),
             "score": 2.0, "verdict": "hole"},
        ],
        "verdict": "hole",
    },
}  # fmt: skip

COLUMNS = ("accuracy", "rewards_chosen", "rewards_rejected", "rewards_margin", "logp_chosen", "logp_rejected",
           "length_chosen", "length_rejected", "kl")  # fmt: skip


def metrics(**last: float) -> list[dict[str, float]]:
    """Two evaluations with all columns 0.5 at first and as given at last, and training steps with the same."""
    lines = []
    for step, values in ((0, {}), (10, last)):
        row = {column: values.get(column, 0.5) for column in COLUMNS}
        lines.append({"step": step} | {f"eval_{key}": value for key, value in row.items()})
        lines.append({"step": step, "loss": 0.7} | row)
    return lines


def page(folder: Path, **parts: Any) -> str:
    for name, content in parts.items():
        if name == "metrics":
            (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in content))
        else:
            (folder / f"{name}.json").write_text(json.dumps(content))
    return write_report(folder).read_text()


def text(page: str) -> str:
    body = page.partition("<main>")[2].partition("<script>")[0]
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def test_a_reward_model_is_told_in_full(tmp_path: Path) -> None:
    seen = text(page(tmp_path, reward=REWARD))
    for said in (
        "held-out accuracy 72.0 % 67.0 to 77.0, 400 pairs",
        "calibration error 0.100 0.020 by chance",
        "beyond length alone +17.0",
        "The temperature that fits is 1.50 (1.20 to 1.90): the model is too sure.",
        "right in 89.0 %, the closest in 55.0 %: a larger margin can be trusted more.",
        "17.0 points (12.0 to 22.0) better than the best rule on lengths alone (fitted rule)",
        "every majority the most there is 90 %",
        "favours the longer answer 13.0 points more than people do",
        "score and log-length inside prompts, r −0.20 (? to +0.10)",
        "“thanks” beats the chosen answer in 60.0 %: a policy trained on this reward would be drawn",
    ):
        assert said in seen, said
    assert seen.index("thanks mean score") < seen.index("<b>none</b> mean score"), "the worst stands first"


def test_names_of_null_answers_are_text(tmp_path: Path) -> None:
    assert "<b>none" not in page(tmp_path, reward=REWARD)


def test_the_page_needs_nothing_from_outside(tmp_path: Path) -> None:
    made = page(tmp_path, reward=REWARD, metrics=metrics())
    assert not re.search(r"""(?:src|href)\s*=|url\(|@import|https?://""", made)


@pytest.mark.parametrize("part", [key for key in REWARD if key != "accuracy"])
def test_any_part_may_be_missing(part: str, tmp_path: Path) -> None:
    assert "72.0" in page(tmp_path, reward={key: value for key, value in REWARD.items() if key != part})
    assert "72.0" in page(tmp_path, reward=REWARD | {part: None})


@pytest.mark.parametrize("report", [{}, {"accuracy": None}, {"accuracy": {"value": None}}])
def test_no_accuracy_no_part(report: dict[str, Any]) -> None:
    assert reward_view(report) == {}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"calibration": REWARD["calibration"] | {"temperature": None}}, "No temperature makes"),
        ({"calibration": REWARD["calibration"] | {"temperature_low": 0.9}}, "a margin means what it says"),
        ({"calibration": REWARD["calibration"] | {"temperature_low": 0.5, "temperature_high": 0.8}}, "less sure than"),
        ({"by_margin": REWARD["by_margin"][:1]}, "All margins are alike"),
        ({"by_margin": REWARD["by_margin"][::-1]}, "the margin is no guide"),
        ({"baseline": REWARD["baseline"] | {"gain": share(-0.2)}}, "do not use this model"),
        ({"baseline": REWARD["baseline"] | {"gain": share(0.01)}}, "cannot be told from a rule"),
        ({"length": REWARD["length"] | {"difference": share(-0.2)}}, "grows terse"),
        ({"length": REWARD["length"] | {"difference": share(0.01)}}, "about as often as people do"),
        ({"null_answers": REWARD["null_answers"] | {"verdict": "weak"}}, "too often to rule out"),
        ({"null_answers": REWARD["null_answers"] | {"verdict": "sound"}}, "comes near the real ones"),
    ],
)
def test_conclusions_follow_the_figures(change: dict[str, Any], said: str) -> None:
    blocks = reward_view(REWARD | change)["blocks"]
    assert any(said in block["says"] for block in blocks)
    assert not any(said in block["says"] for block in reward_view(REWARD)["blocks"])


def test_places_of_the_calibration_chart() -> None:
    plot = str(calibration_chart([Reading(0.2, 0.3, 0.1, 0.4, 0.5), Reading(0.8, 0.7, 0.6, 0.9, 0.5)]))
    assert 'class="diagonal" d="M0 100L100 0"' in plot
    assert 'class="whisker" d="M20.0 90.0V60.0M80.0 40.0V10.0"' in plot
    assert 'd="M20.0 70.0L80.0 30.0"' in plot
    assert calibration_chart([]) == ""


def test_all_columns_of_a_preference_run_are_drawn(tmp_path: Path) -> None:
    made = page(tmp_path, metrics=metrics(accuracy=0.8))
    titles = re.findall(r"<h3>(.*?)</h3>", made)
    wanted = ["Rewards", "Accuracy", "Reward margin", "Log-probability", "Length", "Distance from the reference"]
    assert titles[:7] == [*wanted, "Loss"]
    assert "held-out accuracy 50 % → 80 %" in text(made)
    assert "Loss a pair" in text(made)
    found = [json.loads(html.unescape(value)) for value in re.findall(r'data-series="([^"]*)"', made)]
    names = ["chosen, training", "rejected, training", "chosen, held-out", "rejected, held-out"]
    assert [name for name, _ in found[0]] == names


def test_lines_differ_without_colour() -> None:
    values = {key: [(0.0, 1.0), (5.0, 2.0)] for name in COLUMNS for key in (name, f"eval_{name}")}
    for chart in pair_charts(lambda key: values.get(key, [])):
        marks = [re.sub(r"\b[ab]\b", "", str(mark)) for _, mark in chart["legend"]]
        assert len(set(marks)) == len(marks), chart["title"]
        assert chart["says"].endswith(".")


@pytest.mark.parametrize("column", [*COLUMNS, *(f"eval_{name}" for name in COLUMNS)])
@pytest.mark.parametrize("num", [1, 30])
def test_one_column_alone_is_drawn(column: str, num: int) -> None:
    charts = pair_charts(lambda key: [(float(x), x / 40) for x in range(num)] if key == column else [])
    assert len(charts) == 1
    assert len(charts[0]["legend"]) == 1
    assert charts[0]["says"].endswith(".")


@pytest.mark.parametrize(
    ("last", "said"),
    [
        ({"accuracy": 0.9}, "went from 50 % to 90 %, and on training pairs it ended at 90 %: what was learned carries"),
        ({"accuracy": 0.52}, "hardly better than a coin"),
        ({"rewards_chosen": 1.0}, "went from 0 to 0.5: chosen answers gained"),
        ({"rewards_chosen": 0.0, "rewards_rejected": -1.0}, "while both fell"),
        ({"rewards_rejected": 1.0}, "did not learn to tell them apart better"),
        ({"rewards_margin": 0.1}, "widest at step 0 (0.5) and ended at 0.1"),
        ({"rewards_margin": 2.0}, "from 0.5 to 2 and was not past its best"),
        ({"logp_chosen": -5.0}, "chosen answers lost 5.5 and rejected ones gained 0 nats: the model moves away"),
        ({"logp_chosen": 5.0}, "stay as likely"),
        ({"length_chosen": 20.0}, "“longer is better”"),
        ({"length_rejected": 20.0}, "“shorter is better”"),
        ({"length_chosen": 0.5}, "length gives little away"),
        ({"kl": 7.0}, "ended 7 nats a token from the reference"),
    ],
)
def test_sentences_follow_the_curves(last: dict[str, float], said: str, tmp_path: Path) -> None:
    assert said in text(page(tmp_path, metrics=metrics(**last)))


def test_scores_of_a_reward_model_are_drawn() -> None:
    values = {"eval_score_chosen": [(0.0, 0.0), (9.0, 2.0)], "eval_score_rejected": [(0.0, 0.0), (9.0, 0.5)]}
    values["eval_margin"] = [(0.0, 0.0), (9.0, 1.5)]
    scores, margin = pair_charts(lambda key: values.get(key, []))
    assert (scores["title"], margin["title"]) == ("Scores", "Score margin")
    assert "from 0 to 1.5: chosen answers gained" in scores["says"]
    assert "from 0 to 1.5 and was not past its best" in margin["says"]


def test_memory_is_named() -> None:
    values = {"accuracy": [(1.0, 0.95)], "eval_accuracy": [(0.0, 0.5), (1.0, 0.7)]}
    (chart,) = pair_charts(lambda key: values.get(key, []))
    assert "the 25 points between them are memory" in chart["says"]


def test_a_run_without_pairs_has_none_of_this(tmp_path: Path) -> None:
    made = text(page(tmp_path, metrics=[{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]))
    assert "Chosen" not in made
    assert "Reward" not in made
    assert "Loss nats a token" in made
