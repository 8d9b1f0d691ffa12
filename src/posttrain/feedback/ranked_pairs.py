"""Ranked pairs: one order out of many ballots, which need not list the same answers and may tie.

Tideman (1987, *Independence of clones as a criterion for voting rules*): majorities are locked in from the largest to
the smallest, leaving out what would close a circle. Majorities of one size are looked at together: one that lies on a
circle of what is locked and its equals is left out. So neither the order of the ballots nor the names decide a tie: it
stays one.
"""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np
from numpy.typing import NDArray

from posttrain.feedback.comparisons import Comparison, connected, order_of

SAME_SIZE = 1e-9  # margins that differ by less are of one size: they are sums of weights in floating point


@dataclass(frozen=True, slots=True)
class RankedPairs:
    """`tiers`: from the best to the worst; those within a tier are tied. `groups`: the parts between which nothing was
    compared; the place of two names of different groups says nothing. `left_out`: majorities (winner, loser, margin)
    that lie on a circle."""

    tiers: tuple[tuple[Hashable, ...], ...]
    groups: tuple[tuple[Hashable, ...], ...]
    left_out: tuple[tuple[Hashable, Hashable, float], ...] = ()

    @property
    def order(self) -> list[Hashable]:
        """All names in one line, tied ones by name."""
        return [name for tier in self.tiers for name in tier]

    def rank(self, name: Hashable) -> int:
        """The place of a name, 0 the best, the same for all of a tier."""
        return next(place for place, tier in enumerate(self.tiers) if name in tier)


def margins(comparisons: Iterable[Comparison], names: Sequence[Hashable]) -> NDArray[np.float64]:
    """[M, M] by how much weight more people put the row over the column than the column over the row."""
    place = {name: index for index, name in enumerate(names)}
    found = np.zeros((len(names), len(names)))
    for c in comparisons:
        found[place[c.first], place[c.second]] += c.weight * (2 * c.outcome - 1)
    return found - found.T


def ranked_pairs(comparisons: Sequence[Comparison], names: Iterable[Hashable] = ()) -> RankedPairs:
    """The order of all that is compared, and of `names`.

    A name stands above another where the locked majorities lead from it to the other. What they leave open is ordered
    by how many a name stands above less how many stand above it, and is tied where that is equal: turning every ballot
    round turns the order round.
    """
    found = {name for c in comparisons for name in (c.first, c.second)} | set(names)
    listed = sorted(found, key=order_of)  # type: ignore[arg-type]
    above, left_out = lock(margins(comparisons, listed))
    score = above.sum(axis=1) - above.sum(axis=0)
    tiers = [tuple(listed[i] for i in np.flatnonzero(score == value)) for value in np.unique(score)[::-1]]
    groups = connected(listed, [(c.first, c.second) for c in comparisons])
    return RankedPairs(tuple(tiers), tuple(groups), tuple((listed[a], listed[b], m) for a, b, m in left_out))


def lock(margin: NDArray[np.float64]) -> tuple[NDArray[np.int64], list[tuple[int, int, float]]]:
    """Reachability [M, M] by locked majorities, and the majorities left out. O(M^4) at worst, in M^2 vector steps."""
    reach = np.zeros(margin.shape, dtype=bool)
    left_out: list[tuple[int, int, float]] = []
    pairs = [(int(a), int(b)) for a, b in np.argwhere(margin > SAME_SIZE)]
    pairs.sort(key=lambda pair: -margin[pair])
    size = np.cumsum([0, *(margin[p] - margin[q] > SAME_SIZE for p, q in pairwise(pairs))])
    for _, members in groupby(zip(pairs, size, strict=False), key=lambda entry: entry[1]):
        equals = [pair for pair, _ in members]
        ahead = reach.copy()
        for a, b in equals:
            _join(ahead, a, b)
        for a, b in equals:
            if ahead[b, a]:
                left_out.append((a, b, float(margin[a, b])))
            else:
                _join(reach, a, b)
    return reach.astype(np.int64), left_out


def _join(reach: NDArray[np.bool_], a: int, b: int) -> None:
    """Add a -> b: whatever reaches a (and a) now reaches b and all that b reaches."""
    if not reach[a, b]:
        sources, targets = reach[:, a].copy(), reach[b].copy()
        sources[a] = targets[b] = True
        reach |= sources[:, None] & targets
