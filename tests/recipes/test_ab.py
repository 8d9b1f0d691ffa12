"""`posttrain ab plan` and `posttrain ab report`, from keys and a store to terminal, JSON and page."""

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import pytest
from fastapi import FastAPI
from rich.console import Console

from posttrain.errors import ConfigError, StoreError
from posttrain.feedback.served import ServedStore
from posttrain.feedback.store import Store
from posttrain.recipes import ab_plan, ab_report
from posttrain.recipes.ab_plan_config import AbPlanConfig
from posttrain.recipes.ab_report_config import AbReportConfig
from posttrain.recipes.ab_state import assignments_of, live_state, stored_state
from posttrain.recipes.config import load
from posttrain.recipes.serve_config import ServeConfig
from posttrain.recipes.serve_setup import pages_of
from posttrain.serve.doors import Exchange, Outcome, Vote
from posttrain.serve.split import FixedSplit, ThompsonSplit
from posttrain.types import Message

START = datetime(2026, 1, 1, tzinfo=UTC)


def outcomes(split, num=400, means=(0.3, 0.7), seed=0):
    rng = np.random.default_rng(seed)
    found = []
    for i in range(num):
        arm = split.arm(f"u{i}")
        value = float(rng.random() < means[split.arms.index(arm)])
        found.append(Outcome(f"u{i}", arm, value, "up" if value else "down", "", START + timedelta(minutes=i)))
        split.heard(found[-1:])
    return found


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Sixty users who each have voted once, and whom the server has dealt to arms."""
    place = str(tmp_path_factory.mktemp("store") / "votes.db")
    split = FixedSplit(["<i>old", "new"], path=assignments_of(place))
    with Store.open(place) as opened:
        keeper = ServedStore(opened, outcome=Outcome)
        for i in range(60):
            user = f"u{i}"
            arm = split.arm(user)
            messages, answers = (Message("user", "hi"),), (Message("assistant", "yes"),)
            keeper.keep(Exchange(f"e{i}", user, messages, answers, arm, arm))
            keeper.vote(Vote(f"k{i}", user, "up" if arm == "new" or i % 3 == 0 else "down", f"e{i}"))
    split.close()
    return place


def test_plan_as_people_and_programs_read_it(capsys):
    ab_plan.run(AbPlanConfig(difference=0.2, users_per_day=50))
    told = capsys.readouterr().out
    assert "plain test, one look at the end" in told
    assert "182" in told
    assert max(map(len, told.splitlines())) <= 80
    ab_plan.run(AbPlanConfig(difference=0.2, users_per_day=50, json=True))
    found = json.loads(capsys.readouterr().out)
    assert found["plain"]["total"] == 182
    assert found["days"]["plain"] == 4
    assert found["always_valid"]["for_power"] > found["plain"]["total"]


def test_plan_of_comparisons(capsys):
    ab_plan.run(AbPlanConfig(win_rate=0.6, json=True))
    found = json.loads(capsys.readouterr().out)
    assert (found["unit"], found["plain"]["total"]) == ("comparisons", 197)
    ab_plan.run(AbPlanConfig(win_rate=0.6))
    assert "a win rate of 0.6" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags",
    [
        {"difference": "0"},
        {"baseline": "0.9", "difference": "0.2"},
        {"win_rate": "0.5"},
        {"win_rate": "0.9", "ties": "0.5"},
    ],
)
def test_plans_that_cannot_be(flags):
    with pytest.raises(ConfigError):
        load(AbPlanConfig, None, flags)


def test_report_from_a_store(store, tmp_path, capsys):
    ab_report.run(AbReportConfig(store=store, window_hours=0, output_dir=str(tmp_path)))
    told = capsys.readouterr().out
    assert "Stop: new is better than <i>old" in told
    assert max(len(line) for line in told.splitlines() if not line.startswith("report")) <= 80
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "&lt;i&gt;old" in page
    assert "<i>old" not in page
    assert "posttrain ab report" in page
    kept = json.loads((tmp_path / "ab.json").read_text(encoding="utf-8"))
    ab_report.run(AbReportConfig(store=store, window_hours=0, json=True))
    found = json.loads(capsys.readouterr().out)
    assert found["arms"] == ["<i>old", "new"]
    assert found["sample_ratio"]["of"] == "users drawn"
    assert kept["comparisons"] == found["comparisons"]
    assert found["users"] == 60


def test_votes_of_today_wait_for_their_window(store, capsys):
    ab_report.run(AbReportConfig(store=store))
    assert "(60 more within their first 24 hours)" in capsys.readouterr().out


def test_guards_of_the_command_line(store, capsys):
    flags = {"store": store, "window_hours": "0", "guards": ["down:0.02", "regenerated:0.1"]}
    ab_report.run(load(AbReportConfig, None, {**flags, "json": "true"}))
    guards = json.loads(capsys.readouterr().out)["comparisons"][0]["guards"]
    assert [(guard["kind"], guard["most"]) for guard in guards] == [("down", 0.02), ("regenerated", 0.1)]
    for wrong in ("regenerated", "regenerated:much", ":0.1", "regenerated:2"):
        with pytest.raises(ConfigError, match="KIND:SHARE"):
            load(AbReportConfig, None, {"store": store, "guards": [wrong]})


def test_report_without_what_it_needs(store, tmp_path):
    with pytest.raises(StoreError, match="no such store"):
        ab_report.run(AbReportConfig(store=str(tmp_path / "none.db")))
    with pytest.raises(ConfigError, match="no such test"):
        ab_report.run(AbReportConfig(store=store, arms=["new", "<i>old"]))
    with pytest.raises(ConfigError, match="nothing to compare"):
        stored_state([])
    with pytest.raises(ConfigError, match="shares"):
        stored_state([], arms=["A", "B"], shares=[1, 1, 1])


def test_arms_and_shares_without_assignments():
    split = FixedSplit(["A", "B"], [3, 1])
    rows = outcomes(split)
    wrong = stored_state(rows, window_hours=0)
    assert wrong["recommendation"]["verdict"] == "broken"
    right = stored_state(rows, shares=[3, 1], window_hours=0)
    assert right["recommendation"]["verdict"] == "better"


@pytest.mark.parametrize("kind", [FixedSplit, ThompsonSplit])
def test_state_while_it_runs(kind):
    split = kind(["A", "B"])
    rows = outcomes(split, 500)
    found = live_state(split, lambda: rows, mde=0.1)()
    assert found["recommendation"]["verdict"] == "better"
    assert found["traffic"]["users"] == found["sample_ratio"]["users"]
    assert found["comparisons"][0]["is_adaptive"] == (kind is ThompsonSplit)
    assert found["pending"] == 0  # all of them voted long ago
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("wrong", [{"shares": [0, 1]}, {"shares": [-1, 2]}, {"arms": ["A", "A"]}, {"arms": ["A", ""]}])
def test_arms_and_shares_that_cannot_be(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        load(AbReportConfig, None, wrong)


def test_a_user_who_came_while_the_page_was_made_is_known():
    split = ThompsonSplit(["old", "new"])

    def read():
        return outcomes(split, 40)

    assert live_state(split, read, window_hours=0)()["without_chances"] == 0


def test_names_are_never_markup(capsys):
    odd = "\\[/x] [bold]"
    rows = [Outcome(f"u{i}", (odd, "new")[i % 2], i % 3 / 2, "up", "", START) for i in range(60)]
    ab_report.show(stored_state(rows, arms=[odd, "new"], window_hours=0), Console(width=80))
    assert odd in capsys.readouterr().out


def test_the_servers_page_is_asked_as_its_keys_say():
    service = SimpleNamespace(split=FixedSplit(["old", "new"]), keeper=SimpleNamespace(outcomes=lambda: []), keys=None)
    seen = {}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("posttrain.recipes.ab_state.add_ab_routes", lambda *found: seen.update(found[-1]()))
        for add in pages_of(ServeConfig(page=False, split="fixed", mde=0.02, window_hours=3)):
            add(FastAPI(), service)
    assert (seen["mde"], seen["window_hours"]) == (0.02, 3)


def test_what_is_taken_back_is_told_with_its_time(tmp_path):
    with Store.open(str(tmp_path / "votes.db")) as opened:
        keeper = ServedStore(opened, outcome=Outcome)
        keeper.keep(Exchange("e", "u", (Message("user", "hi"),), (Message("assistant", "yes"),), "A", "A"))
        for key, kind in (("1", "up"), ("2", "down"), ("3", "up")):
            keeper.vote(Vote(key, "u", kind, "e"))
        told = keeper.outcomes(taken_back=True)
        assert [one.kind for one in told] == ["up", "down", "up"]
        assert [one.replaced for one in told] == [told[1].created, told[2].created, None]
        assert [one.created for one in keeper.outcomes()] == [told[2].created]
