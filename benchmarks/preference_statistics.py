"""Whether the statistics of preferences keep their word, by simulation: the figures of docs/preferences-from-people.md.

    python benchmarks/preference_statistics.py [--scale 1] [--seed 0]

`coverage`: how often a 95 % interval of Bradley-Terry holds the truth. `false_stops`: how often the stopping rule
refutes a win rate that is true, at any of 2,000 looks, and that of a fixed 95 % interval; `votes_to_decide`: the median
until it tells two models apart. `selection`: of the ballots at random, the share that choosing by information needs.
One core, less than four minutes where nothing else runs; `--scale 0.5` makes half of the repeats.
"""

import argparse
import json
import math
import time
from collections.abc import Sequence
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posttrain.feedback.bradley_terry import fit, sigmoid
from posttrain.feedback.comparisons import Comparison
from posttrain.feedback.selection import Candidate, expected
from posttrain.feedback.stopping import STAKES
from posttrain.feedback.stopping import log_capital as library_capital
from posttrain.intervals import wilson
from process import hardware

RESULTS = Path(__file__).parent / "results" / "preference_statistics.json"
FIVE = np.array([-1.0, -0.5, 0.0, 0.3, 1.2])  # strengths, in log-odds
INTERVALS: dict[str, dict[str, Any]] = {
    "inverse Hessian": {"cluster": None},
    "by item": {"cluster": "item"},
    "by annotator": {"cluster": "annotator"},
    "Davidson with ties, by item": {"cluster": "item", "ties": "davidson"},
}
CASES = {"1/2": (0.5, 0.0, 0.5), "1/2, 40 % ties": (0.3, 0.4, 0.3), "1/4": (0.25, 0.0, 0.75)}  # win, tie, loss
WORLDS = {"8 models, evenly over 6": np.linspace(0, 6, 8), "6 models, over 3.3": np.array([0, 0.4, 1.1, 1.6, 2.6, 3.3])}
WAYS = {"at random": 1.0, "at random, anew": 1.0, "chosen": 0.0, "chosen, 10 % at random": 0.1}
"""Share of ballots on a random pair. The second is the control: other draws of the first, which needs all its ballots.
"""
BALLOTS, FIT_EVERY, NUM_DRAWS = (100, 200, 300), 5, 60


def share(count: int, num: int) -> dict[str, float]:
    """A share with its own 95 % interval (Wilson): that of the simulation."""
    low, high = wilson(count, num)
    return {"share": count / num, "low": low, "high": high, "runs": num}


def votes(num: int, rng: np.random.Generator, *, nu: float = 0.0, copies: int = 1) -> list[Comparison]:
    """One vote an item by one of 40 people, on two of five models; ties by Davidson's nu; every vote `copies` times."""
    found = []
    for item in range(num):
        a, b = (int(model) for model in rng.choice(len(FIVE), 2, replace=False))
        half = (FIVE[a] - FIVE[b]) / 2
        weights = np.array([math.exp(half), nu, math.exp(-half)])
        outcome = (1.0, 0.5, 0.0)[rng.choice(3, p=weights / weights.sum())]
        found += [Comparison(item, a, b, outcome, f"{item % 40}-{copy}") for copy in range(copies)]
    return found


def coverage(num_runs: int, seed: int) -> dict[str, Any]:
    """How often the interval of P(model 3 beats model 1) holds the truth, by kind of interval and number of votes."""
    truth = sigmoid(float(FIVE[3] - FIVE[1]))
    found = {}
    for copies, num in ((1, 100), (1, 400), (4, 100)):
        for name, how in INTERVALS.items():
            if copies > 1 and name not in ("inverse Hessian", "by item"):
                continue
            rng = np.random.default_rng([seed, num, copies])  # the same votes for every kind of interval
            runs = num_runs if num == 100 else num_runs // 2
            held = 0
            for _ in range(runs):
                drawn = votes(num, rng, nu=0.6 if "ties" in how else 0.0, copies=copies)
                _, low, high = fit(drawn, **how).win_probability(3, 1)
                held += low <= truth <= high
            found[f"{name}, {num} votes{'' if copies == 1 else f', each {copies} times'}"] = share(held, runs)
    return found


def log_capital(counts: NDArray[np.float64], mean: float) -> NDArray[np.float64]:
    """As `stopping.log_capital`, of votes 1, 1/2 and 0 counted in [runs, 3], for all runs at once."""
    bets = np.concatenate([STAKES / mean, -STAKES / (1 - mean)])
    growth = np.log1p(bets[:, None] * (np.array([1.0, 0.5, 0.0]) - mean))
    found: NDArray[np.float64] = np.logaddexp.reduce(counts @ growth.T, axis=1) - math.log(len(bets))
    return found


def false_stops(num_runs: int, seed: int, num_votes: int = 2000) -> dict[str, Any]:
    """How often a true win rate is refuted at any of 2,000 looks; and how often a fixed 95 % interval (normal, from 20
    votes on) leaves it out at any."""
    values, found = np.array([1.0, 0.5, 0.0]), {}
    for name, p in CASES.items():
        mean = float(np.dot(p, values))
        drawn = np.random.default_rng([seed, 1]).choice(3, p=p, size=(num_runs, num_votes))
        counts, refuted, naive = np.zeros((num_runs, 3)), np.zeros(num_runs, bool), np.zeros(num_runs, bool)
        for vote in range(num_votes):
            counts[np.arange(num_runs), drawn[:, vote]] += 1
            refuted |= log_capital(counts, mean) >= math.log(20)
            if vote >= 19:
                rate = counts @ values / (vote + 1)
                variance = np.maximum(counts @ values**2 / (vote + 1) - rate**2, 1e-9)
                naive |= np.abs(rate - mean) > 1.96 * np.sqrt(variance / (vote + 1))
        if not np.allclose(log_capital(counts[:5], mean), [library_capital(values, row, mean) for row in counts[:5]]):
            raise SystemExit("error: the capital simulated here is not that of posttrain.feedback.stopping")
        found[f"win rate {name}"] = {
            **share(int(refuted.sum()), num_runs),
            "fixed_interval": share(int(naive.sum()), num_runs),
        }
    return found


def votes_to_decide(num_runs: int, seed: int, num_votes: int = 4000) -> dict[str, Any]:
    """The median number of votes until 1/2 is refuted at alpha 0.05, by true win rate; None where most run out."""
    found: dict[str, Any] = {}
    for rate in (0.7, 0.6, 0.55):
        wins = (np.random.default_rng([seed, 2]).random((num_runs, num_votes)) < rate).cumsum(axis=1)
        first = np.full(num_runs, np.inf)
        for seen in range(1, num_votes + 1):
            won = wins[:, seen - 1].astype(np.float64)
            told = log_capital(np.stack([won, np.zeros(num_runs), seen - won], axis=1), 0.5) >= math.log(20)
            first = np.where(told & np.isinf(first), seen, first)
            if not np.isinf(first).any():
                break
        median = float(np.median(first))
        found[f"win rate {rate}"] = {"median": median if math.isfinite(median) else None, "runs": num_runs}
    return found


def errors(strength: NDArray[np.float64], num: int, random_share: float, seed: Sequence[int]) -> NDArray[np.float64]:
    """The share of pairs of models in the wrong order after every FIT_EVERY ballots, each on two models."""
    rng = np.random.default_rng(seed)
    names = list(range(len(strength)))
    pairs = list(combinations(names, 2))
    candidates = [Candidate(place, (str(a), str(b))) for place, (a, b) in enumerate(pairs)]
    cast: list[Comparison] = []
    wrong = []
    posterior = fit(cast, names=[str(name) for name in names])
    for ballot in range(num):
        if rng.random() < random_share:
            place = int(rng.integers(len(pairs)))
        else:
            told = expected(candidates, posterior=posterior, rng=rng, num_draws=NUM_DRAWS)
            place = int(rng.choice(np.flatnonzero(told >= told.max() - 1e-12)))
        a, b = pairs[place]
        cast.append(Comparison(ballot, str(a), str(b), float(rng.random() < sigmoid(float(strength[a] - strength[b])))))
        if ballot % FIT_EVERY == FIT_EVERY - 1:
            posterior = fit(cast, names=[str(name) for name in names], cluster=None)
            of = [posterior.strength[posterior.names.index(str(name))] for name in names]
            wrong.append(np.mean([of[i] > of[j] for i, j in pairs]))
    return np.array(wrong)


def selection(num_runs: int, seed: int) -> dict[str, Any]:
    """The ballots after which each way has as few pairs in the wrong order as so many ballots at random, by world.

    Both sides are smoothed: the goal is the mean over 7 fits around `num`, reached by the mean over 3.
    """
    found: dict[str, Any] = {}
    most = BALLOTS[-1] + 3 * FIT_EVERY
    for world, strength in WORLDS.items():
        mean = {
            way: np.mean([errors(strength, most, part, [seed, 3 + number, run]) for run in range(num_runs)], axis=0)
            for number, (way, part) in enumerate(WAYS.items())
        }
        table = {}
        for num in BALLOTS:
            place = num // FIT_EVERY - 1
            goal = mean["at random"][place - 3 : place + 4].mean()
            needed = {}
            for way in list(WAYS)[1:]:
                reached = np.flatnonzero(np.convolve(mean[way], np.full(3, 1 / 3), "same")[1:-1] <= goal)
                ballots = int((reached[0] + 2) * FIT_EVERY) if len(reached) else None
                needed[way] = {"ballots": ballots, "share": None if ballots is None else ballots / num}
            table[str(num)] = {"wrong_pairs": float(goal), **needed}
        found[world] = {"runs": num_runs, "at_random": table}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="The figures of docs/preferences-from-people.md, by simulation.")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the repeats")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    began = time.perf_counter()

    def repeats(num: int) -> int:
        return max(int(num * args.scale), 4)

    found = {
        "coverage": coverage(repeats(1200), args.seed),
        "false_stops": false_stops(repeats(4000), args.seed),
        "votes_to_decide": votes_to_decide(repeats(2000), args.seed),
        "selection": selection(repeats(120), args.seed),
    }
    result = {
        "command": f"python benchmarks/preference_statistics.py --scale {args.scale:g} --seed {args.seed}",
        "seconds": round(time.perf_counter() - began),
        "hardware": hardware(),
        "versions": {"numpy": version("numpy")},
        **found,
    }
    print(json.dumps(found, indent=1))
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
