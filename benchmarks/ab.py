"""Whether the A/B test keeps its word, by simulation: the figures of docs/ab-tests.md.

    python benchmarks/ab.py [--scale 1] [--seed 0]

`false_positives`: how often tests between two equal models say that they differ, looked at after every user: the
always-valid test, and the plain ones as controls. `coverage`: how often the always-valid bounds ever miss the truth.
`power`: how long it takes to find a difference, beside the plan with one look. `regret`: what users lose by being given
the worse model, under a fixed split and under Thompson sampling. The tests are those of posttrain.evals.ab_betting and
ab_plain, the splits those of posttrain.serve.split. One core, about three minutes; `--scale 0.1` makes a tenth of the
trials.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posttrain.evals.ab_betting import ALPHA, crossing, difference_scores, effects_for, log_capital, win_scores
from posttrain.evals.ab_plain import msprt_p_values, z_of
from posttrain.evals.ab_plan import always_valid_users, stopping_times, user_values, users_needed
from posttrain.intervals import wilson
from posttrain.serve.split import thompson_shares
from process import hardware

RESULTS = Path(__file__).parent / "results" / "ab.json"
CHUNK = 50  # trials at a time: they stay in the cache
LEAST = 50  # users before a plain test is looked at: earlier its normal approximation is worth nothing
REFRESH = 25  # users between two looks of Thompson sampling at what was heard
NUM_DRAWS = 100
MDE = 0.05

Floats = NDArray[np.float64]
Draw = Callable[[Floats, np.random.Generator], Floats]


def bernoulli(mean: Floats, rng: np.random.Generator) -> Floats:
    """One vote a user."""
    return (rng.random(mean.shape) < mean) * 1.0


def continuous(mean: Floats, rng: np.random.Generator) -> Floats:
    """A grade between 0 and 1."""
    return rng.beta(4 * mean, 4 * (1 - mean))


def five_votes(mean: Floats, rng: np.random.Generator) -> Floats:
    """The mean of five votes with an intra-class correlation of 0.4."""
    return user_values(mean, 5, 0.4, rng)


# name: mean of both arms, what a user says, users
WORLDS: dict[str, tuple[float, Draw, int]] = {
    "a vote a user, mean 0.5": (0.5, bernoulli, 4000),
    "a vote a user, mean 0.05": (0.05, bernoulli, 4000),
    "a vote a user, mean 0.95": (0.95, bernoulli, 4000),
    "grades in [0, 1], mean 0.6": (0.6, continuous, 4000),
    "five votes that lean alike, mean 0.5": (0.5, five_votes, 4000),
}


def fixed(num: int, length: int, rng: np.random.Generator, share: float = 0.5) -> tuple[NDArray[np.bool_], Floats]:
    """Who gets the new arm, and with what chance."""
    return rng.random((num, length)) < share, np.full((num, length), share)


def thompson(means: Sequence[float], num: int, length: int, rng: np.random.Generator) -> tuple[Any, Floats, Floats]:
    """(is_new, chance of the new arm, value) [num, length] of users who come one by one and vote once."""
    is_new, shares, values = np.empty((num, length), bool), np.empty((num, length)), np.empty((num, length))
    good, bad = np.zeros((num, 2)), np.zeros((num, 2))
    for start in range(0, length, REFRESH):
        share = thompson_shares(good, bad, rng, num_draws=NUM_DRAWS)[:, 1:]
        part = slice(start, min(start + REFRESH, length))
        shape = values[:, part].shape
        shares[:, part] = share
        is_new[:, part] = rng.random(shape) < share
        values[:, part] = rng.random(shape) < np.where(is_new[:, part], means[1], means[0])
        for arm in (0, 1):
            mine = is_new[:, part] == bool(arm)
            good[:, arm] += (mine * values[:, part]).sum(-1)
            bad[:, arm] += (mine * (1 - values[:, part])).sum(-1)
    return is_new, shares, values


def plain_statistics(is_new: Any, values: Floats) -> tuple[Floats, Floats]:
    """Difference of means and its variance after every user."""
    found = []
    for mine in (is_new, ~is_new):
        count = np.maximum(np.cumsum(mine, -1), 1)
        mean = np.cumsum(mine * values, -1) / count
        spread = np.maximum(np.cumsum(mine * values * values, -1) / count - mean * mean, 0) / np.maximum(count - 1, 1)
        found.append((mean, spread))
    return found[0][0] - found[1][0], found[0][1] + found[1][1]


def share_of(hits: int, num: int) -> dict[str, Any]:
    """A share with its 95 % interval."""
    low, high = wilson(hits, num)
    return {"share": round(hits / num, 5), "low": round(low, 5), "high": round(high, 5), "trials": num}


def verdicts(is_new: Any, shares: Floats, values: Floats) -> dict[str, NDArray[np.bool_]]:
    """Which trials each test calls different."""
    always = log_capital(difference_scores(values, is_new, shares), 0.0, effects_for(MDE)) >= crossing(ALPHA)
    difference, variance = plain_statistics(is_new, values)
    plain = np.abs(difference) > z_of(0.975) * np.sqrt(variance)
    late = difference[:, LEAST:], variance[:, LEAST:]
    return {
        "always-valid, at every user": always.any((0, -1)),
        "plain, at every user (control)": plain[:, LEAST:].any(-1),
        "plain, once at the end": plain[:, -1],
        "normal mSPRT, at every user": msprt_p_values(*late, MDE)[:, -1] < ALPHA,
    }


def counted(
    num: int, seed: Sequence[int], trial: Callable[[int, np.random.Generator], dict[str, NDArray[np.bool_]]]
) -> dict[str, Any]:
    """Shares of `num` trials, made in chunks."""
    hits: dict[str, int] = {}
    for start in range(0, num, CHUNK):
        size = min(CHUNK, num - start)
        for name, found in trial(size, np.random.default_rng([*seed, start])).items():
            hits[name] = hits.get(name, 0) + int(found.sum())
    return {name: share_of(hit, num) for name, hit in hits.items()}


def false_positives(num: int, seed: int) -> dict[str, Any]:
    """Tests between equal models, in several worlds."""
    found: dict[str, Any] = {}
    for place, (name, (mean, draw, length)) in enumerate(WORLDS.items()):

        def trial(size: int, rng: np.random.Generator, mean: float = mean, draw: Draw = draw, n: int = length) -> Any:
            is_new, shares = fixed(size, n, rng)
            return verdicts(is_new, shares, draw(np.full((size, n), mean), rng))

        found[name] = {"users": length, **counted(num, [seed, 1, place], trial)}

    def adaptive(size: int, rng: np.random.Generator) -> Any:
        is_new, shares, values = thompson((0.5, 0.5), size, 2000, rng)
        return verdicts(is_new, shares, values)

    found["Thompson sampling, mean 0.5"] = {"users": 2000, **counted(num, [seed, 2], adaptive)}

    def drifting(size: int, rng: np.random.Generator) -> Any:
        """All users grow happier by the day, whatever the arm."""
        is_new, shares = fixed(size, 4000, rng, 0.3)
        return verdicts(is_new, shares, bernoulli(np.broadcast_to(np.linspace(0.3, 0.7, 4000), (size, 4000)), rng))

    found["30 % to the new arm, mean drifts from 0.3 to 0.7"] = {"users": 4000, **counted(num, [seed, 3], drifting)}

    def unlike(size: int, rng: np.random.Generator) -> Any:
        """Twice as many of the new arm's users vote: the chances are not those among the voters."""
        is_new, _ = fixed(size, 4000, rng, 2 / 3)
        return verdicts(is_new, np.full((size, 4000), 0.5), bernoulli(np.full((size, 4000), 0.9), rng))

    found["twice as many of one arm vote, mean 0.9"] = {"users": 4000, **counted(num, [seed, 4], unlike)}

    def compared(size: int, rng: np.random.Generator) -> Any:
        values = rng.choice([0.0, 0.5, 1.0], (size, 4000), p=[0.4, 0.2, 0.4])
        capital = log_capital(win_scores(values), 0.0, effects_for(MDE))
        return {"always-valid, at every user": (capital >= crossing(ALPHA)).any((0, -1))}

    found["picked the better, 20 % ties"] = {"users": 4000, **counted(num, [seed, 5], compared)}
    return found


def votes_as_users(num: int, seed: int) -> dict[str, Any]:
    """What becomes of the plain test, looked at once, when ten votes of one user are taken for ten users."""

    def trial(size: int, rng: np.random.Generator) -> Any:
        is_new, _ = fixed(size, 400, rng)
        each = rng.beta(np.full((size, 400), 0.75), 0.75)  # intra-class correlation 0.4
        votes = (rng.random((size, 400, 10)) < each[..., None]) * 1.0
        taken = np.repeat(is_new, 10, axis=-1)
        found = {}
        for name, (arm, value) in {
            "votes": (taken, votes.reshape(size, -1)),
            "users": (is_new, votes.mean(-1)),
        }.items():
            difference, variance = plain_statistics(arm, value)
            found[f"plain, once at the end, on {name}"] = np.abs(difference[:, -1]) > 1.96 * np.sqrt(variance[:, -1])
        return found

    return counted(num, [seed, 6], trial)


def coverage(num: int, seed: int) -> dict[str, Any]:
    """How often the true difference is ever outside the bounds, at any of the looks."""
    found: dict[str, Any] = {}
    for place, (old, difference) in enumerate(((0.5, 0.05), (0.5, -0.2), (0.05, 0.03), (0.9, 0.05))):

        def trial(size: int, rng: np.random.Generator, old: float = old, difference: float = difference) -> Any:
            is_new, shares = fixed(size, 2000, rng)
            values = bernoulli(np.where(is_new, old + difference, old), rng)
            capital = log_capital(difference_scores(values, is_new, shares), difference, effects_for(MDE))
            return {"ever missed, fixed split": (capital >= crossing(ALPHA)).any((0, -1))}

        def adaptive(size: int, rng: np.random.Generator, old: float = old, difference: float = difference) -> Any:
            is_new, shares, values = thompson((old, old + difference), size, 2000, rng)
            capital = log_capital(difference_scores(values, is_new, shares), difference, effects_for(MDE))
            return {"ever missed, Thompson": (capital >= crossing(ALPHA)).any((0, -1))}

        name = f"{old:g} to {old + difference:g}"
        found[name] = counted(num, [seed, 7, place], trial) | counted(num, [seed, 8, place], adaptive)
    return found


def power(num: int, seed: int) -> dict[str, Any]:
    """Users until a difference is found, in parts of the plain plan; `expected`: what `posttrain ab plan` foretells."""
    found: dict[str, Any] = {}
    for place, (old, difference, true) in enumerate(
        ((0.5, 0.05, 0.05), (0.5, 0.1, 0.1), (0.05, 0.03, 0.03), (0.9, 0.05, 0.05), (0.5, 0.05, 0.1), (0.5, 0.1, 0.05))
    ):
        plan = sum(users_needed(old, difference))
        length, times = 3 * plan, []
        for start in range(0, num, 50):
            rng = np.random.default_rng([seed, 9, place, start])
            is_new, shares = fixed(50, length, rng)
            values = bernoulli(np.where(is_new, old + true, old), rng)
            times.append(stopping_times(difference_scores(values, is_new, shares), 0.0, difference, ALPHA))
        all_times = np.concatenate(times)
        row = {
            "plan": plan,
            "power_at_plan": share_of(int((all_times <= plan).sum()), len(all_times)),
            "power_at_3_plans": share_of(int((all_times <= length).sum()), len(all_times)),
            "mean_users": round(float(np.minimum(all_times, length).mean())),
            "mean_of_plan": round(float(np.minimum(all_times, length).mean()) / plan, 3),
            "80 % settled by, of plan": _rounded(float(np.sort(all_times)[math.ceil(0.8 * len(all_times)) - 1]) / plan),
        }
        if true == difference:
            expected = always_valid_users(old, difference)
            row |= {"expected_mean": expected.mean, "expected_for_power": expected.for_power}
        found[f"{old:g}, planned {difference:+g}, true {true:+g}"] = row
    return found | {f"0.5, {true:+g} under Thompson sampling": adaptive_power(true, num, seed) for true in (0.05, 0.1)}


def adaptive_power(true: float, num: int, seed: int) -> dict[str, Any]:
    """Users until a difference is found where the traffic goes to the better arm meanwhile."""
    plan = sum(users_needed(0.5, true))
    times = []
    for start in range(0, num, 50):
        rng = np.random.default_rng([seed, 11, start])
        is_new, shares, values = thompson((0.5, 0.5 + true), 50, 3 * plan, rng)
        times.append(stopping_times(difference_scores(values, is_new, shares), 0.0, true, ALPHA))
    found = np.concatenate(times)
    ends = np.minimum(found, 3 * plan)
    return {
        "plan": plan,
        "power_at_plan": share_of(int((found <= plan).sum()), len(found)),
        "power_at_3_plans": share_of(int((found <= 3 * plan).sum()), len(found)),
        "mean_users": round(float(ends.mean())),
        "mean_of_plan": round(float(ends.mean()) / plan, 3),
        "80 % settled by, of plan": _rounded(float(np.sort(found)[math.ceil(0.8 * len(found)) - 1]) / plan),
    }


def _rounded(value: float) -> float | None:
    return round(value, 3) if math.isfinite(value) else None


def regret(num: int, seed: int) -> dict[str, Any]:
    """Mean regret (good answers lost) over so many users, each of whom votes once."""
    found: dict[str, Any] = {}
    horizons = (500, 1000, 2000, 4000)
    for place, difference in enumerate((0.0, 0.02, 0.05, 0.1, 0.2)):
        rng = np.random.default_rng([seed, 10, place])
        is_new, _, _ = thompson((0.5, 0.5 + difference), num, horizons[-1], rng)
        lost = difference * np.cumsum(~is_new, axis=-1)
        rows = {}
        for horizon in horizons:
            each = lost[:, horizon - 1]
            error = 1.96 * float(each.std(ddof=1)) / math.sqrt(num)
            mean, even = float(each.mean()), difference * horizon / 2
            rows[f"{horizon}"] = {
                "thompson": round(mean, 2),
                "error": round(error, 2),
                "fixed": round(even, 2),
                "ratio": round(mean / even, 3) if even else None,
                "share_of_the_better_now": round(float(is_new[:, horizon - 100 : horizon].mean()), 3),
            }
        found[f"{difference:g}"] = rows
    return found


def main() -> None:
    """Run everything and write the results."""
    parser = argparse.ArgumentParser(description="The figures of docs/ab-tests.md, by simulation.")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the trials")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    began = time.perf_counter()
    parts: dict[str, tuple[Callable[[int, int], dict[str, Any]], int]] = {
        "false_positives": (false_positives, 10_000),
        "votes_as_users": (votes_as_users, 2_000),
        "coverage": (coverage, 2_000),
        "power": (power, 1_000),
        "regret": (regret, 1_000),
    }
    found: dict[str, Any] = {}
    for name, (part, num) in parts.items():
        start = time.perf_counter()
        found[name] = part(max(int(num * args.scale), 50), args.seed)
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    result = {
        "command": f"python benchmarks/ab.py --scale {args.scale:g} --seed {args.seed}",
        "seconds": round(time.perf_counter() - began),
        "cpu_seconds": round(time.process_time()),
        "hardware": hardware(),
        "versions": {"numpy": version("numpy")},
        **found,
    }
    print(json.dumps(found, indent=1))
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
