"""Bradley-Terry: strengths from comparisons, with their doubt.

P(i beats j) = sigmoid(s_i - s_j) (Bradley and Terry, 1952, *Rank analysis of incomplete block designs*). Ties count as
half a win for each side, or have a probability of their own (Davidson, 1970, *On extending the Bradley-Terry model to
accommodate ties*). Strengths are in natural log-odds. numpy alone.
"""

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from posttrain.feedback.comparisons import Comparison, connected, order_of

Z95 = 1.959964
PRIOR_SD = 5.0
"""Standard deviation of the normal prior on every strength (and on Davidson's log tie rate), in log-odds: it keeps a
model that never lost finite, and moves one with 20 comparisons by less than a tenth of its standard error."""
TOLERANCE, MAX_STEPS = 1e-10, 100


class Estimate(NamedTuple):
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, eq=False)
class BradleyTerry:
    """A fit. `strength[i]` belongs to `names[i]`; within each group of `groups` the strengths have mean 0.

    `covariance` [M, M] is that of the strengths under the prior, not centred. `groups`: the parts of the graph of
    comparisons. Strengths of different groups cannot be compared, since nothing was compared across.
    `bounded_by_prior`: some model beat (or lost to) all it met, directly or in effect, so that its strength would be
    infinite without the prior.
    `log_tie`: Davidson's log nu, None where ties are half wins.
    """

    names: tuple[Hashable, ...]
    strength: NDArray[np.float64]
    covariance: NDArray[np.float64]
    groups: tuple[tuple[Hashable, ...], ...]
    num_comparisons: int
    num_clusters: int
    bounded_by_prior: bool
    log_tie: float | None = None
    prior_sd: float = PRIOR_SD

    def group(self, name: Hashable) -> int:
        """Which of `groups` a name is in."""
        return next(place for place, group in enumerate(self.groups) if name in group)

    def estimate(self, name: Hashable) -> Estimate:
        """Strength over the mean of its group, with its 95 % interval."""
        members = self._places(name)
        contrast = np.zeros(len(self.names))
        contrast[members] = -1 / len(members)
        place = self.names.index(name)
        contrast[place] += 1
        half = Z95 * math.sqrt(max(float(contrast @ self.covariance @ contrast), 0.0))
        value = float(self.strength[place])
        return Estimate(value, value - half, value + half)

    def win_probability(self, first: Hashable, second: Hashable) -> Estimate:
        """P(`first` beats `second`) with its 95 % interval: a tie counts as half a win, or (Davidson) where there is
        none. ValueError where no comparison joins the two."""
        if self.group(first) != self.group(second):
            raise ValueError(f"{first!r} and {second!r} were never compared, not even through others")
        a, b = self.names.index(first), self.names.index(second)
        gap = float(self.strength[a] - self.strength[b])
        variance = self.covariance[a, a] + self.covariance[b, b] - 2 * self.covariance[a, b]
        half = Z95 * math.sqrt(max(float(variance), 0.0))
        return Estimate(*(sigmoid(value) for value in (gap, gap - half, gap + half)))

    def tie_probability(self, first: Hashable, second: Hashable) -> float:
        """Davidson's probability that the two are found equally good; 0 where ties are half wins."""
        if self.log_tie is None:
            return 0.0
        gap = float(self.strength[self.names.index(first)] - self.strength[self.names.index(second)])
        return math.exp(self.log_tie) / (2 * math.cosh(gap / 2) + math.exp(self.log_tie))

    def ranking(self) -> list[Hashable]:
        """Names from the strongest to the weakest, group after group."""
        return [
            name for group in self.groups for name in sorted(group, key=lambda n: -self.strength[self.names.index(n)])
        ]

    def draws(self, num_draws: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """[draws, M] strengths from the normal approximation of the posterior; groups shift against each other as
        freely as the prior allows."""
        values, vectors = np.linalg.eigh(self.covariance)
        noise = rng.standard_normal((num_draws, len(self.names)))
        found: NDArray[np.float64] = self.strength + (noise * np.sqrt(np.clip(values, 0, None))) @ vectors.T
        return found

    def _places(self, name: Hashable) -> list[int]:
        return [self.names.index(other) for other in self.groups[self.group(name)]]


def sigmoid(value: float) -> float:
    """1 / (1 + exp(-value)) without overflow."""
    return 0.5 * (1 + math.tanh(value / 2))


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """Comparisons as columns [C]."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    outcome: NDArray[np.float64]
    weight: NDArray[np.float64]
    num_names: int

    def per_name(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Each comparison's figure added to its first and taken from its second."""
        size = self.num_names
        found: NDArray[np.float64] = np.zeros(size)
        np.add.at(found, self.first, values)
        np.subtract.at(found, self.second, values)
        return found

    def laplacian(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """[M, M] sum of values times (e_first - e_second)(e_first - e_second)^T."""
        found = np.zeros((self.num_names, self.num_names))
        np.add.at(found, (self.first, self.second), -values)
        found = found + found.T
        np.fill_diagonal(found, -found.sum(axis=1))
        return found


class _Derivatives(NamedTuple):
    """Of the log-likelihood: its value, each comparison's slope [C, 1 or 2] by (gap, log tie) and its curvature."""

    value: float
    by_gap: NDArray[np.float64]
    by_tie: NDArray[np.float64] | None
    gap_gap: NDArray[np.float64]
    gap_tie: NDArray[np.float64] | None
    tie_tie: NDArray[np.float64] | None


def _half(table: _Table, point: NDArray[np.float64]) -> _Derivatives:
    """Ties as half a win: a logistic regression with outcomes in [0, 1]."""
    gap = point[table.first] - point[table.second]
    win = 0.5 * (1 + np.tanh(gap / 2))
    value = table.outcome * gap - np.logaddexp(0, gap)
    return _Derivatives(
        float(table.weight @ value),
        table.weight * (table.outcome - win),
        None,
        table.weight * win * (1 - win),
        None,
        None,
    )


def _davidson(table: _Table, point: NDArray[np.float64]) -> _Derivatives:
    """Davidson: weights exp(gap/2), nu, exp(-gap/2) for win, tie, loss. A concave exponential family, so that the
    curvature is the covariance of (side, tie), where side is +1/2, 0 or -1/2."""
    gap, log_tie = point[table.first] - point[table.second], point[-1]
    is_tie = table.outcome == 0.5
    logits = np.stack([gap / 2, np.full_like(gap, log_tie), -gap / 2])
    total = np.logaddexp.reduce(logits)
    win, tie, loss = np.exp(logits - total)
    side, mean = table.outcome - 0.5, (win - loss) / 2
    return _Derivatives(
        float(table.weight @ (side * gap + is_tie * log_tie - total)),
        table.weight * (side - mean),
        table.weight * (is_tie - tie),
        table.weight * ((win + loss) / 4 - mean**2),
        table.weight * -mean * tie,
        table.weight * tie * (1 - tie),
    )


def fit(
    comparisons: Sequence[Comparison],
    *,
    names: Iterable[Hashable] = (),
    ties: str = "half",
    cluster: str | None = "item",
    prior_sd: float = PRIOR_SD,
) -> BradleyTerry:
    """The most probable strengths under a normal prior, with their covariance.

    `names`: more names that nothing compares yet. `ties`: "half" or "davidson". `cluster`: what makes comparisons
    depend on each other, "item", "annotator" or "both" (sandwich covariance), or None (inverse Hessian: all are
    independent).
    """
    if ties not in ("half", "davidson"):
        raise ValueError(f"ties is {ties!r}, expected half or davidson")
    if cluster not in (None, "item", "annotator", "both"):
        raise ValueError(f"cluster is {cluster!r}, expected item, annotator, both or None")
    found = {name for c in comparisons for name in (c.first, c.second)} | set(names)
    listed = tuple(sorted(found, key=order_of))  # type: ignore[arg-type]
    place = {name: index for index, name in enumerate(listed)}
    table = _Table(
        np.array([place[c.first] for c in comparisons], np.int64),
        np.array([place[c.second] for c in comparisons], np.int64),
        np.array([c.outcome for c in comparisons], np.float64),
        np.array([c.weight for c in comparisons], np.float64),
        len(listed),
    )
    likelihood = _half if ties == "half" else _davidson
    point, information, slopes = _climb(table, likelihood, prior_sd)
    groups = connected(listed, [(c.first, c.second) for c in comparisons])
    bounded = _is_bounded_by_prior(table, [[place[name] for name in group] for group in groups])
    covariance = np.asarray(np.linalg.inv(information), np.float64)
    num_clusters = len(comparisons)
    if cluster is not None:
        meat, num_clusters = _meat(slopes, comparisons, cluster)
        # The prior is one more observation: in a direction that no comparison fixes, the doubt is the prior's.
        meat += np.eye(len(meat)) * prior_sd**-2
        if num_clusters > 1:
            covariance = _sandwich(covariance, meat, floor=bounded)
    strength = point[: len(listed)].copy()
    for group in groups:
        members = [place[name] for name in group]
        strength[members] -= strength[members].mean()
    return BradleyTerry(
        listed,
        strength,
        covariance[: len(listed), : len(listed)],
        tuple(groups),
        len(comparisons),
        num_clusters,
        bounded,
        float(point[-1]) if ties == "davidson" else None,
        prior_sd,
    )


def _climb(
    table: _Table, likelihood: Callable[[_Table, NDArray[np.float64]], _Derivatives], prior_sd: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Newton's method with halved steps. Returns the point, the information there, and each comparison's slope."""
    size = table.num_names + (likelihood is _davidson)
    point, prior = np.zeros(size), np.full(size, prior_sd**-2)
    found = likelihood(table, point)
    height = found.value
    for _ in range(MAX_STEPS):
        slope, information = _assemble(table, found, size)
        step = np.linalg.solve(information + np.diag(prior), slope - prior * point)
        scale = 1.0
        while scale > 1e-6:
            ahead = point + scale * step
            tried = likelihood(table, ahead)
            reached = tried.value - 0.5 * float(prior @ ahead**2)
            if reached >= height - TOLERANCE * abs(height):
                break
            scale /= 2
        point, found, height = ahead, tried, reached
        if np.abs(scale * step).max(initial=0.0) < TOLERANCE:
            break
    _, information = _assemble(table, found, size)
    slopes = np.zeros((len(table.weight), size))
    rows = np.arange(len(table.weight))
    slopes[rows, table.first] += found.by_gap
    slopes[rows, table.second] -= found.by_gap
    if found.by_tie is not None:
        slopes[:, -1] = found.by_tie
    return point, information + np.diag(prior), slopes


def _assemble(table: _Table, found: _Derivatives, size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Slope [size] and information [size, size] of the log-likelihood."""
    slope, information = np.zeros(size), np.zeros((size, size))
    slope[: table.num_names] = table.per_name(found.by_gap)
    information[: table.num_names, : table.num_names] = table.laplacian(found.gap_gap)
    if found.by_tie is not None and found.gap_tie is not None and found.tie_tie is not None:
        slope[-1] = found.by_tie.sum()
        information[-1, :-1] = information[:-1, -1] = table.per_name(found.gap_tie)
        information[-1, -1] = found.tie_tie.sum()
    return slope, information


def _meat(
    slopes: NDArray[np.float64], comparisons: Sequence[Comparison], cluster: str
) -> tuple[NDArray[np.float64], int]:
    """The spread of the clusters' slopes (Liang and Zeger, 1986), and the number of clusters. "both" adds two ways and
    takes off what is then counted twice (Cameron, Gelbach and Miller, 2011)."""
    items, annotators = [c.item for c in comparisons], [c.annotator for c in comparisons]
    keys: list[list[Hashable]] = [[*items]] if cluster == "item" else [[*annotators]]
    if cluster == "both":
        keys = [[*items], [*annotators]]
    meat = np.sum([_spread(slopes, key) for key in keys], axis=0)
    if cluster == "both":
        meat = meat - _spread(slopes, list(zip(items, annotators, strict=True)))
        values, vectors = np.linalg.eigh(meat)  # a difference need not be a covariance: what is below 0 is cut
        meat = (vectors * np.clip(values, 0, None)) @ vectors.T
    return meat, min(len(set(key)) for key in keys)


def _spread(slopes: NDArray[np.float64], keys: Sequence[Hashable]) -> NDArray[np.float64]:
    place = {key: index for index, key in enumerate(dict.fromkeys(keys))}
    sums = np.zeros((len(place), slopes.shape[1]))
    np.add.at(sums, [place[key] for key in keys], slopes)
    found: NDArray[np.float64] = sums.T @ sums * (len(place) / max(len(place) - 1, 1))
    return found


def _sandwich(inverse: NDArray[np.float64], meat: NDArray[np.float64], *, floor: bool) -> NDArray[np.float64]:
    """inverse @ meat @ inverse. `floor`: in no direction less than `inverse`; where one side always won, the slopes
    nearly vanish, and their spread would pass for certainty."""
    if not floor:
        found: NDArray[np.float64] = inverse @ meat @ inverse
        return found
    root = np.linalg.cholesky(inverse)
    values, vectors = np.linalg.eigh(root.T @ meat @ root)
    side = root @ vectors
    return (side * np.maximum(values, 1.0)) @ side.T


def _is_bounded_by_prior(table: _Table, groups: Sequence[Sequence[int]]) -> bool:
    """Whether some part of a group never lost to the rest of it: then no finite maximum exists (Ford, 1957)."""
    beats = np.eye(table.num_names, dtype=bool)
    beats[table.first[table.outcome > 0], table.second[table.outcome > 0]] = True
    beats[table.second[table.outcome < 1], table.first[table.outcome < 1]] = True
    for middle in range(table.num_names):
        beats |= beats[:, middle, None] & beats[None, middle]
    return not all(beats[np.ix_(group, group)].all() for group in groups)
