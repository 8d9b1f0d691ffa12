"""The figures of a store, and the report that prints them."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from posttrain.cli import main
from posttrain.feedback.ballots import Ballot
from posttrain.feedback.store import Store
from posttrain.feedback.summary import feedback_statistics
from posttrain.types import Message

STRENGTH = {"large": 1.5, "medium [bf16]": 0.5, "small": -0.5}
ACCURACY = {"ann": 0.95, "bob": 0.9, "dice": 0.0}  # the share of votes that follow the truth; dice clicks at random


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 items of three models' answers, each ranked by three people, one of whom clicks at random."""
    path = tmp_path_factory.mktemp("store") / "feedback.db"
    rng = np.random.default_rng(0)
    with Store.open(path) as store, store.batch():
        for name in ACCURACY:
            store.add_annotator(name)
        for number in range(120):
            prompt = store.add_prompt([Message("user", f"question {number}")])
            ids = [store.add_response(prompt, [Message("assistant", name)], model=name) for name in STRENGTH]
            item = store.add_item(prompt, ids, overlap=3)
            merit = np.array(list(STRENGTH.values())) + rng.gumbel(size=3)
            for name, accuracy in ACCURACY.items():
                seen = merit if rng.random() < accuracy else rng.random(3)
                ranks = tuple(float(x) for x in (-seen).argsort().argsort())
                store.vote(Ballot("ranking", prompt, tuple(ids), name, item_id=item, ranks=ranks, seconds=12.0))
        store.vote(Ballot("skip", prompt, (), "ann", item_id=item))
        store.vote(Ballot("ranking", prompt, tuple(ids), "judge", "judge", ranks=(0, 1, 2)))
    return path


def test_the_figures(filled: Path) -> None:
    with Store.open(filled) as store:
        found = feedback_statistics(store)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["counts"]["ballots"], found["counts"]["ballots_of_source"]) == (362, 361)
    assert found["kinds"] == {"ranking": 360, "skip": 1}
    assert (found["comparisons"], found["ties"]) == (1080, 0)
    assert found["items"] == {"total": 120, "done": 120, "ballots_needed": 360, "ballots_missing": 0}
    assert 0.5 < found["agreement"]["pairwise"]["low"] < found["agreement"]["pairwise"]["value"] < 0.8
    assert found["agreement"]["alpha_of_ratings"]["value"] is None
    people = {row["name"]: row for row in found["annotators"]}
    assert {name: row["verdict"] for name, row in people.items()} == {"ann": "fine", "bob": "fine", "dice": "by chance"}
    assert people["ann"]["median_seconds"] == 12
    assert [row["name"] for row in found["models"]] == list(STRENGTH)
    assert [row["ranked_pairs"] for row in found["models"]] == [1, 2, 3]
    assert found["models"][0]["low"] > found["models"][2]["high"]
    assert not found["bounded_by_prior"]
    neighbours = found["stopping"]["neighbours"]
    assert [(row["first"], row["second"], row["items"]) for row in neighbours] == [
        ("large", "medium [bf16]", 120),
        ("medium [bf16]", "small", 120),
    ]


def test_an_item_needs_all_its_votes_before_it_counts(tmp_path: Path) -> None:
    with Store.open(tmp_path / "new.db") as store:
        prompt = store.add_prompt([Message("user", "?")])
        ids = [store.add_response(prompt, [Message("assistant", name)], model=name) for name in "xy"]
        item = store.add_item(prompt, ids, overlap=2)
        for name, in_bounds in (("ann", 0), ("bob", 1)):
            store.add_annotator(name)
            store.vote(Ballot("ranking", prompt, tuple(ids), name, item_id=item, ranks=(0, 1)))
            found = feedback_statistics(store, num_resamples=10)
            assert found["stopping"]["neighbours"][0]["items"] == in_bounds
            assert found["items"]["done"] == in_bounds
        assert found["bounded_by_prior"]
        store.vote(Ballot("flag", prompt, tuple(ids), "ann", item_id=item, value="private"))
        found = feedback_statistics(store, num_resamples=10)
        assert (found["comparisons"], found["counts"]["flagged_ballots"], found["models"]) == (0, 2, [])


def test_a_better_answer_taken_back_is_no_ballot(tmp_path: Path) -> None:
    with Store.open(tmp_path / "new.db") as store:
        prompt = store.add_prompt([Message("user", "?")])
        ids = tuple(store.add_response(prompt, [Message("assistant", name)], model=name) for name in "xy")
        store.vote(Ballot("ranking", prompt, ids, "ann", ranks=(0, 1), seconds=10))
        edit = store.vote(Ballot("edit", prompt, ids, "ann", value="better", seconds=10))
        back = Ballot("skip", prompt, ids, "ann", value="taken back", seconds=90, details={"withdraws": "edit"})
        store.vote(back, replaces=edit)
        store.vote(Ballot("skip", prompt, ids, "bob"))
        found = feedback_statistics(store, num_resamples=10)
    assert found["kinds"] == {"ranking": 1, "skip": 1}
    assert (found["counts"]["ballots"], found["counts"]["ballots_of_source"]) == (2, 2)
    assert [(row["name"], row["ballots"], row["median_seconds"]) for row in found["annotators"]] == [
        ("ann", 1, 10),
        ("bob", 1, None),
    ]


def test_two_answers_of_each_model_are_one_bet(tmp_path: Path) -> None:
    """Four comparisons of the models in one ballot; a second item of the prompt changes nothing that was bet."""
    with Store.open(tmp_path / "new.db") as store:
        prompt = store.add_prompt([Message("user", "?")])
        ids = [store.add_response(prompt, [Message("assistant", f"{n}")], model="xxyyy"[n]) for n in range(5)]
        rates = []
        for shown, ranks in ((ids[:4], (0, 3, 1, 2)), (ids[3:], (0, 1)), ([ids[0], ids[4]], (1, 0))):
            item = store.add_item(prompt, shown)
            store.vote(Ballot("ranking", prompt, tuple(shown), "ann", item_id=item, ranks=ranks))
            found = feedback_statistics(store, num_resamples=10)["stopping"]["neighbours"][0]
            rates.append((found["items"], found["win_rate"]))
    assert rates == [(1, 0.5)] * 3  # of x0 > y1, x0 > y2, y1 > x3, y2 > x3 either wins half


def test_ratings_and_labels_have_an_alpha(tmp_path: Path) -> None:
    with Store.open(tmp_path / "new.db") as store:
        said = ((1, "good", 2), (1, "good", 2), (2, ["a", "b"], 3), (5, ["b", "a"], 3), (4, "bad", 1), (4, "good", 1))
        prompts = [store.add_prompt([Message("user", str(i))]) for i in range(3)]
        for place, (number, label, _) in enumerate(said):
            response = store.add_response(prompts[place // 2], [Message("assistant", "x")])
            for kind, value in (("rating", number), ("label", label)):
                store.vote(Ballot(kind, prompts[place // 2], (response,), "pq"[place % 2], value=value))
        found = feedback_statistics(store)["agreement"]
    # Labels: three units, one of them apart; values good 3, bad 1, {a, b} 2: 1 - 5 * 2 / (6 * 6 - 9 - 1 - 4).
    assert found["alpha_of_labels"]["value"] == pytest.approx(1 - 5 * 2 / 22)
    # Ratings 1 1, 2 5, 4 4: observed 2 * 9 / 6; expected over all 15 pairs: mean of squared differences.
    values = [1, 1, 2, 5, 4, 4]
    expected = np.mean([(a - b) ** 2 for i, a in enumerate(values) for b in values[:i]])
    assert found["alpha_of_ratings"]["value"] == pytest.approx(1 - 18 / 6 / expected)


def test_the_report_fits_eighty_columns(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["feedback", "report", str(filled)]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    for words in ("361 (360 ranking, 1 skip)", "120 of 120 done", "Krippendorff's alpha", "no better than chance"):
        assert words in printed
    assert "medium [bf16]" in printed  # markup in a name stays text
    assert "may stop" in printed or "Not settled yet." in printed


def test_the_report_for_programs(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["feedback", "report", "--store", str(filled), "--json", "--source", "all"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["source"] == "all"
    assert found["counts"]["ballots_of_source"] == 362
    assert all(math.isfinite(row["strength"]) for row in found["models"])


def test_the_report_on_a_few_items_gives_no_certainty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three items, on each of which two people half agree: no figure has an interval without width."""
    path = tmp_path / "new.db"
    with Store.open(path) as store:
        for number in range(3):
            prompt = store.add_prompt([Message("user", f"{number}")])
            ids = tuple(store.add_response(prompt, [Message("assistant", name)], model=name) for name in "xy")
            for name, ranks in (("ann", (0, 1)), ("bob", (0, 0))):
                store.vote(Ballot("ranking", prompt, ids, name, ranks=ranks))
        found = feedback_statistics(store)["agreement"]
    assert found["pairwise"]["low"] < 0.2 < 0.5 < 0.8 < found["pairwise"]["high"]
    assert found["alpha"]["value"] is not None
    assert (found["alpha"]["low"], found["alpha"]["high"]) == (None, None)
    assert main(["feedback", "report", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "50.0% to 50.0%" not in printed
    assert "too few or too alike" in printed


def test_an_empty_store_and_a_missing_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new.db"
    Store.open(path).close()
    assert main(["feedback", "report", str(path)]) == 0
    assert "ballots      0 (none)" in capsys.readouterr().out
    assert main(["feedback", "report", str(tmp_path / "none.db")]) == 2
    assert "there is no such store" in capsys.readouterr().err
    assert not (tmp_path / "none.db").exists()
