"""The figures of examples/preferences/study.py against brute force."""

import importlib.util
import random
import statistics
from itertools import combinations
from pathlib import Path
from types import ModuleType

import pytest

FIGURES = Path(__file__).parents[2] / "examples" / "preferences" / "figures.py"


@pytest.fixture(scope="module")
def figures() -> ModuleType:
    spec = importlib.util.spec_from_file_location("figures", FIGURES)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_best_of_n_is_the_mean_over_all_choices(figures: ModuleType) -> None:
    rng = random.Random(0)
    golds = [[rng.choice((0.0, 0.5, 1.0)) for _ in range(8)] for _ in range(5)]
    proxies = [[score + rng.gauss(0, 0.4) for score in row] for row in golds]
    curve = figures.best_of_n(proxies, golds)
    assert [point["n"] for point in curve] == [1, 2, 4, 8]
    for point in curve:
        best = [
            (gold[max(chosen, key=ours.__getitem__)], max(gold[i] for i in chosen))
            for ours, gold in zip(proxies, golds, strict=True)
            for chosen in combinations(range(8), point["n"])
        ]
        assert point["gold"] == pytest.approx(statistics.fmean(gold for gold, _ in best))
        assert point["oracle"] == pytest.approx(statistics.fmean(gold for _, gold in best))
    assert curve[0]["proxy"] == pytest.approx(0)
    assert curve[0]["kl"] == 0
    assert curve[1]["kl"] == pytest.approx(0.19314718)


def test_an_interval_widens_by_clusters(figures: ModuleType) -> None:
    values = [0.0, 1.0, 1.0, 0.5, 0.0, 1.0, 0.5, 0.0, 1.0, 1.0]
    alone = figures.clustered(values, [str(i) for i in range(10)])
    half = 1.959964 * statistics.stdev(values) / 10**0.5
    assert alone["high"] - alone["mean"] == pytest.approx(half)
    assert alone["mean"] == 0.6
    twice = figures.clustered(values * 2, [str(i % 10) for i in range(20)])
    assert twice["high"] == pytest.approx(alone["high"]), "saying everything twice tells nothing new"
    assert (twice["count"], twice["clusters"]) == (20, 10)


def test_spread_over_seeds(figures: ModuleType) -> None:
    found = figures.over_seeds([0.7, 0.8, 0.9])
    assert found["mean"] == pytest.approx(0.8)
    assert found["sd"] == pytest.approx(0.1)
    assert found["high"] - found["mean"] == pytest.approx(4.303 * 0.1 / 3**0.5)
    assert figures.over_seeds([0.7])["sd"] is None
