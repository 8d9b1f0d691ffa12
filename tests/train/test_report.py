"""The page of a run: what it shows, that nothing in it is markup from outside, and that any part may be missing."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from posttrain.errors import DataError
from posttrain.recipes.report import run
from posttrain.recipes.report_config import ReportConfig
from posttrain.train.charts import Series, line_chart, nice_ticks, running_mean, thin
from posttrain.train.report import write_report

RUN = {
    "verb": "sft",
    "command": "posttrain sft --dataset pocket",
    "config": {"learning_rate": 0.0005, "packing": True, "eval_dataset": None, "report_to": []},
    "versions": {"torch": "2.13.0"},
    "seeds": {"seed": 0},
    "inputs": [{"path": "data.jsonl", "sha256": "ab" * 32, "records": 1200}],
    "parent": "runs/base",
    "started": "2026-01-02T03:04:05+00:00",
    "finished": "2026-01-02T03:05:20+00:00",
    "status": "finished",
    "model": {"parameters": 5_000_000, "trainable": 50_000},
    "hardware": {"device": "cpu"},
    "result": {"eval_loss": 1.5},
}
METRICS = [
    {"step": 0, "eval_loss": 3.0},
    {"step": 10, "epoch": 0.5, "loss": 2.5, "learning_rate": 1e-4, "grad_norm": 0.8, "tokens_per_s": 5123.0,
     "trained_tokens": 12345, "memory_mb": 812, "elapsed_s": 12.1},
    {"step": 20, "epoch": 1.0, "loss": 1.25, "learning_rate": 0.0, "grad_norm": math.nan, "tokens_per_s": 5200.0,
     "trained_tokens": 24690, "memory_mb": 820, "elapsed_s": 24.2},
    {"step": 20, "eval_loss": 1.5},
]  # fmt: skip
SAMPLES = [
    {"prompt": "<script>alert(1)</script> & more", "before": "  two\n  lines", "after": "</script>"},
    {
        "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
        "before": "",
        "after": "Hi",
    },
]
EXAM = {
    "before": {"facts_by_question": {"num_asked": 100, "num_right": 5, "accuracy": 0.05, "low": 0.02, "high": 0.11}},
    "after": {
        "facts_by_question": {"num_asked": 100, "num_right": 80, "accuracy": 0.8, "low": 0.71, "high": 0.87},
        "refusals": {"num_asked": 10, "num_right": 9, "accuracy": 0.9, "low": 0.6, "high": 0.98},
    },
    "notes": ["Greedy decoding."],
}


def fill(folder: Path, parts: dict[str, Any]) -> Path:
    for name, content in parts.items():
        lines = content if name.endswith(".jsonl") else [content]
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


WHOLE = {"run.json": RUN, "metrics.jsonl": METRICS, "samples.jsonl": SAMPLES, "exam.json": EXAM}


@pytest.fixture
def page(tmp_path: Path) -> str:
    return write_report(fill(tmp_path, WHOLE)).read_text()


def text(page: str) -> str:
    """What a reader sees, roughly: tags out, space in one piece."""
    return " ".join(re.sub(r"<[^>]+>", " ", page.partition("<main>")[2].partition("<script>")[0]).split())


def test_the_page_says_what_happened(page: str) -> None:
    seen = text(page)
    assert "posttrain sft 02 January 2026, 03:04, 1 min 15 s in all finished" in seen
    assert "exam 5 % → 80 %" in seen, "the total is over the kinds that were asked on both sides"
    assert "held-out loss 3 → 1.5 training loss 2.5 → 1.25" in seen
    assert "trained tokens 24,690" in seen
    assert "peak memory 820 MB" in seen
    assert "parameters 5 M 1 % trained" in seen
    assert "+75" in seen
    assert "runs/base" in seen
    assert "ab" * 32 in seen
    assert "learning_rate 0.0005" in seen
    assert "posttrain sft --dataset pocket" in seen


def test_every_plot_is_there(page: str) -> None:
    assert re.findall(r"<h3>(.*?)</h3>", page)[:5] == ["Loss", "Learning rate", "Gradient norm", "Speed", "Memory"]
    assert page.count("<svg") == 5
    assert "nan" not in text(page).lower()


def test_samples_are_text(page: str) -> None:
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in page
    assert '<div class="said">  two\n  lines</div>' in page, "white space is kept"
    assert page.count("<script>") == 1


def test_the_page_needs_nothing_from_outside(page: str) -> None:
    assert not re.search(r"""(?:src|href)\s*=|url\(|@import|https?://""", page)


def test_readings_for_the_pointer_are_json(page: str) -> None:
    import html

    found = [json.loads(html.unescape(value)) for value in re.findall(r'data-series="([^"]*)"', page)]
    assert [name for name, _ in found[0]] == ["training", "held-out"]
    assert found[0][0][1][0][2:] == ["10", "2.5"]


def test_the_same_files_give_the_same_page(page: str, tmp_path: Path) -> None:
    assert write_report(str(tmp_path)).read_text() == page


@pytest.mark.parametrize("name", WHOLE)
def test_any_part_alone_makes_a_page(name: str, tmp_path: Path) -> None:
    assert "</html>" in write_report(fill(tmp_path, {name: WHOLE[name]})).read_text()


@pytest.mark.parametrize("name", WHOLE)
def test_any_part_may_be_missing(name: str, tmp_path: Path) -> None:
    parts = {key: value for key, value in WHOLE.items() if key != name}
    assert "</html>" in write_report(fill(tmp_path, parts)).read_text()


@pytest.mark.parametrize(
    "parts",
    [
        {"run.json": {}},
        {"run.json": {"config": None, "inputs": None, "model": {"parameters": None}, "started": None, "status": None}},
        {"run.json": {"started": "yesterday", "finished": "today", "inputs": ["x"]}},
        {"run.json": RUN | {"started": "2026-01-02T03:04:05", "finished": "2026-01-02T03:04:06+00:00"}},
        {"metrics.jsonl": []},
        {"metrics.jsonl": [{"step": 5, "loss": 2.0}]},
        {"exam.json": {"before": {}, "after": None, "notes": "one note"}},
        {"exam.json": {"after": EXAM["after"]}},
        {"samples.jsonl": [{"prompt": "x"}, {}]},
    ],
)
def test_thin_or_odd_files_make_a_page(parts: dict[str, Any], tmp_path: Path) -> None:
    assert "</html>" in write_report(fill(tmp_path, parts)).read_text()


def test_a_line_cut_off_at_the_end_is_left_out(tmp_path: Path) -> None:
    fill(tmp_path, {"metrics.jsonl": METRICS})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 30, "lo')
    assert "training loss 2.5 → 1.25" in text(write_report(tmp_path).read_text())


def test_broken_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(DataError, match=r"metrics.jsonl, line 2: this is not valid JSON"):
        write_report(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(DataError, match=r"run.json: this is not valid JSON"):
        write_report(tmp_path)


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a run folder"):
        write_report(tmp_path / "nowhere")


def test_the_verb_says_where_the_page_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(ReportConfig(run_dir=str(fill(tmp_path, {"run.json": RUN}))))
    assert capsys.readouterr().out == f"wrote {tmp_path / 'report.html'}\n"


def test_no_chart_without_points() -> None:
    assert line_chart([Series("loss", [])]) == ""


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (-3.2, 7.7), (1e-9, 3e-9), (4.0, 4.0), (0, 0), (1e6, 1.7e6), (-2, -2)]
)
def test_ticks_cover_the_values(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low <= high <= ticks[-1]
    assert 2 <= len(ticks) <= 8
    assert ticks == sorted(set(ticks))


def test_thinning_keeps_the_ends_and_the_mean() -> None:
    points = [(float(x), float(x % 7)) for x in range(1000)]
    thinned = thin(points, 100)
    assert len(thinned) == 100
    assert (thinned[0], thinned[-1]) == (points[0], points[-1])
    assert thin(points[:100], 100) == points[:100]


def test_running_mean_of_a_straight_line_is_the_line() -> None:
    line = [(float(x), 2.0 * x) for x in range(200)]
    assert [y for _, y in running_mean(line)] == pytest.approx([y for _, y in line])
