"""Who is dealt to which arm."""

import errno
import json
import os
import threading
from collections import Counter

import numpy as np
import pytest
from scipy import integrate, stats

from posttrain.errors import ConfigError, DataError, StoreError
from posttrain.serve.assignments import read_assignments
from posttrain.serve.doors import Outcome
from posttrain.serve.split import FixedSplit, ThompsonSplit, place_of, thompson_shares

USERS = [f"user {i}" for i in range(4000)]


def vote(user, arm, value=1.0, versus=""):
    return Outcome(user, arm, value, "better" if versus else "up", versus)


def test_a_user_keeps_the_arm_in_every_process_and_users_are_spread_as_the_shares_say():
    one, other = (FixedSplit(["A", "B", "C"], [1, 1, 2]) for _ in range(2))
    arms = [one.arm(user) for user in USERS]
    assert arms == [other.arm(user) for user in reversed(USERS)][::-1]
    counts = Counter(arms)
    assert stats.chisquare([counts[arm] for arm in "ABC"], [1000, 1000, 2000]).pvalue > 0.001
    assert one.state()["users"] == dict(counts)
    assert one.state()["expected"] == pytest.approx({"A": 1000, "B": 1000, "C": 2000})


def test_places_are_uniform():
    places = [place_of(user, b"salt") for user in USERS]
    assert stats.kstest(places, "uniform").pvalue > 0.001
    assert 0 <= min(places) < max(places) < 1


@pytest.mark.parametrize("other", [{"seed": 1}, {"name": "next"}, {"arms": ["A", "C"]}])
def test_tests_are_independent(other):
    one = FixedSplit(["A", "B"])
    two = FixedSplit(**({"arms": ["A", "B"]} | other))
    table = np.zeros((2, 2))
    for user in USERS:
        table[one.arms.index(one.arm(user)), two.arms.index(two.arm(user))] += 1
    assert stats.chi2_contingency(table).pvalue > 0.001


def test_growing_the_share_of_the_new_arm_moves_nobody_back():
    small, large = FixedSplit(["A", "B"], [9, 1]), FixedSplit(["A", "B"], [5, 5])
    assert all(large.arm(user) == "B" for user in USERS[:1000] if small.arm(user) == "B")


def test_with_a_file_nobody_changes_arms_when_shares_do(tmp_path):
    path = tmp_path / "split.jsonl"
    small = FixedSplit(["A", "B"], [9, 1], path=path)
    before = [small.arm(user) for user in USERS[:200]]
    small.close()
    large = FixedSplit(["A", "B"], [1, 9], path=path)
    assert [large.arm(user) for user in USERS[:200]] == before
    assert Counter(large.arm(user) for user in USERS[200:])["B"] > 3000
    large.close()
    (test,) = read_assignments(path)
    users = test.users
    assert test.arms == ("A", "B")
    assert users[USERS[0]].shares == (0.9, 0.1)
    assert users[USERS[-1]].shares == (0.1, 0.9)


def test_shares_of_thompson_are_the_chances_of_being_best():
    good, bad = np.array([30, 36]), np.array([30, 24])
    first, second = (stats.beta(1 + good[arm], 1 + bad[arm]) for arm in (0, 1))
    best = integrate.quad(lambda x: second.pdf(x) * first.cdf(x), 0, 1)[0]
    found = thompson_shares(good, bad, np.random.default_rng(0), floor=0.05, num_draws=40_000)
    assert found == pytest.approx([0.05 + 0.9 * (1 - best), 0.05 + 0.9 * best], abs=0.01)
    many = thompson_shares(np.tile(good, (3, 1)), np.tile(bad, (3, 1)), np.random.default_rng(0), num_draws=500)
    assert many.shape == (3, 2)
    assert many.sum(-1) == pytest.approx([1, 1, 1])


def play(split, users, means, seed=0):
    rng = np.random.default_rng(seed)
    for user in users:
        arm = split.arm(user)
        split.heard([vote(user, arm, float(rng.random() < means[arm]))])


def test_thompson_follows_the_votes_down_to_the_floor():
    split = ThompsonSplit(["A", "B", "C"], floor=0.05, num_draws=200)
    play(split, USERS[:600], {"A": 0.3, "B": 0.9, "C": 0.3})
    assert split.state()["shares"] == pytest.approx({"A": 0.05, "B": 0.9, "C": 0.05}, abs=0.01)
    users = split.state()["users"]
    assert users["B"] > 3 * max(users["A"], users["C"]) > 30


def test_one_user_cannot_swing_it():
    split = ThompsonSplit(["A", "B"], per_user=1.0)
    loud = next(user for user in USERS if split.arm(user) == "B")
    before = split.state()["shares"]
    split.heard([vote(loud, "B")] * 500)
    assert split.state()["shares"]["B"] < 0.75
    assert before == pytest.approx({"A": 0.5, "B": 0.5}, abs=0.06)
    free = ThompsonSplit(["A", "B"], per_user=500)
    free.heard([vote(loud, "B")] * 500)
    assert free.state()["shares"]["B"] > 0.9


def test_a_server_that_was_killed_goes_on_as_one_that_was_not(tmp_path):
    outcomes = []

    def go_on(split, users):
        rng = np.random.default_rng(len(outcomes))
        for user in users:
            arm = split.arm(user)
            if rng.random() < 0.5:  # the others have not voted yet
                outcomes.append(vote(user, arm, float(rng.random() < {"A": 0.4, "B": 0.6}[arm])))
                split.heard(outcomes[-1:])

    whole = ThompsonSplit(["A", "B"], path=tmp_path / "whole.jsonl", num_draws=100)
    go_on(whole, USERS[:150])
    kept, outcomes = outcomes, []
    first = ThompsonSplit(["A", "B"], path=tmp_path / "cut.jsonl", num_draws=100)
    go_on(first, USERS[:150])
    assert outcomes == kept
    first.close()
    with (tmp_path / "cut.jsonl").open("ab") as file:
        file.write(b'{"user": "user 150", "ar')  # the power went
    second = ThompsonSplit(["A", "B"], path=tmp_path / "cut.jsonl", num_draws=100)
    second.heard(outcomes)
    assert second.state()["shares"] == whole.state()["shares"]
    assert [second.arm(user) for user in USERS[:300]] == [whole.arm(user) for user in USERS[:300]]
    assert second.state() == whole.state()


def test_without_a_file_those_who_voted_stay_with_their_arm_and_their_chances_are_unknown():
    split = ThompsonSplit(["A", "B"])
    split.heard([vote(user, "B", 0.0) for user in USERS[:50]])
    assert all(split.arm(user) == "B" for user in USERS[:50])
    assert split.test().users[USERS[0]].shares == (0.0, 1.0)
    fixed = FixedSplit(["A", "B"])
    fixed.heard([vote(user, FixedSplit(["A", "B"]).arm(user)) for user in USERS[:50]])
    assert {one.shares for one in fixed.test().users.values()} == {(0.5, 0.5)}


def test_comparisons_count_for_both_and_foreign_arms_for_none():
    split = ThompsonSplit(["A", "B"])
    split.heard([vote(user, "B", 1.0, versus="A") for user in USERS[:60]] + [vote("x", "C")])
    state = split.state()
    assert state["shares"]["B"] > 0.9
    assert (state["votes"], state["others"]) == ({"A": 60, "B": 60}, 1)
    assert state["mean"] == {"A": 0.0, "B": 1.0}
    assert state["users"] == {"A": 0, "B": 0}
    json.dumps(state, allow_nan=False)


def test_the_keepers_names_are_used_throughout():
    split = FixedSplit(["A", "B"], name_of=lambda user: f"kept {user}")
    arm = split.arm("u")
    split.heard([vote("kept u", arm)])
    assert list(split.test().users) == ["kept u"]


def test_a_file_holds_one_test_after_the_other(tmp_path):
    path = tmp_path / "split.jsonl"
    first = ThompsonSplit(["A", "B"], path=path)
    arms = [first.arm(user) for user in USERS[:40]]
    first.close()
    old = [Outcome(user, arm, 1.0, "up", "", first.test().began) for user, arm in zip(USERS, arms, strict=False)]
    second = ThompsonSplit(["A", "B"], name="next", path=path)
    second.heard(old)  # what was said in the first test pins nobody in the second
    assert second.state()["others"] == 40
    again = [second.arm(user) for user in USERS[:40]]
    second.close()
    assert again != arms
    assert [test.name for test in read_assignments(path)] == ["", "next"]
    resumed = ThompsonSplit(["A", "B"], path=path)
    assert [resumed.arm(user) for user in USERS[:40]] == arms
    resumed.arm("somebody else")
    resumed.close()
    tests = read_assignments(path)
    assert [(test.name, len(test.users)) for test in tests] == [("next", 40), ("", 41)]
    assert tests[1].began == first.test().began


def test_threads():
    split = ThompsonSplit(["A", "B"], num_draws=50)
    told = [[] for _ in range(8)]

    def work(mine):
        for user in USERS[:100]:
            mine.append(split.arm(user))
            split.heard([vote(user, mine[-1])])

    threads = [threading.Thread(target=work, args=(mine,)) for mine in told]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(mine == told[0] for mine in told)
    assert sum(split.state()["users"].values()) == 100
    assert sum(split.state()["votes"].values()) == 800


def test_what_cannot_be_is_refused(tmp_path):
    for arguments in ((["A"],), (["A", "A"],), (["A", "B"], [1]), (["A", "B"], [1, 0])):
        with pytest.raises(ConfigError):
            FixedSplit(*arguments)
    with pytest.raises(ConfigError, match="floor"):
        ThompsonSplit(["A", "B"], floor=0.6)
    with pytest.raises(ConfigError, match="prior"):
        ThompsonSplit(["A", "B"], prior=(0, 1))
    path = tmp_path / "split.jsonl"
    FixedSplit(["A", "B"], path=path).close()
    path.write_text(path.read_text() + '{"user": "u", "arm": "C", "shares": [1, 0]}\n')
    with pytest.raises(DataError, match="line 2"):
        FixedSplit(["A", "B"], path=path)
    with pytest.raises(DataError, match="cannot be read"):
        read_assignments(tmp_path / "none.jsonl")


def test_a_full_disk_gives_nobody_an_arm_and_leaves_the_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "split.jsonl"
    split = ThompsonSplit(["A", "B"], path=path)
    split.arm("u")
    room, write = [30], os.write

    def full(file, data):
        if room[0] <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        done = write(file, data[: room[0]])  # as a disk does that fills up: a part of it, then none
        room[0] -= done
        return done

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(StoreError, match="No space left"):
            split.arm("v")
    assert split.state()["users"]["A"] + split.state()["users"]["B"] == 1
    arms = [split.arm(user) for user in ("u", "v", "w")]
    split.close()
    again = ThompsonSplit(["A", "B"], path=path)
    assert [again.arm(user) for user in ("u", "v", "w")] == arms
    again.close()


def test_one_server_at_a_time_deals(tmp_path):
    path = tmp_path / "split.jsonl"
    first = ThompsonSplit(["A", "B"], path=path)
    with pytest.raises(StoreError, match="another"):
        ThompsonSplit(["A", "B"], seed=1, path=path)
    first.close()
    ThompsonSplit(["A", "B"], path=path).close()
