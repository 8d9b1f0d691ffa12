"""What each source gives to an epoch, and in which order: a pure function of the epoch's number.

A part is walked through one seeded permutation of its samples after another, on and on across epochs, so none comes
again before all of its part came once. Where a walk stands follows from the epoch alone; nothing is stored.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from posttrain.data.split import scramble, seed_key
from posttrain.errors import DataError


@dataclass(frozen=True, eq=False)
class Part:
    """The samples of one source, by index, and at most one wish about them:

    `weight`: its share of an epoch's samples, relative to the other parts' weights (every part then needs one).
    `epochs`: how often each sample comes in one epoch; fractions go on where the last epoch stopped. Default 1.
    `cap`: an epoch takes no more samples than this; the others wait for the next epoch.
    `replay`: its share of an epoch's tokens, between 0 and 1, on top of what the other parts give.

    `name` says in errors and reports which source this is. Raises DataError for a wish that cannot be met.
    """

    indices: np.ndarray
    weight: float | None = None
    epochs: float | None = None
    cap: int | None = None
    replay: float | None = None
    name: str = ""

    def __post_init__(self) -> None:
        indices = np.asarray(self.indices)
        object.__setattr__(self, "indices", indices)
        if not indices.size:
            raise self.error("no sample is left of it; leave it out of the mixture.")
        if indices.ndim != 1 or not np.issubdtype(indices.dtype, np.integer) or indices.min() < 0:
            raise ValueError(
                f"{self.title}: indices are {indices.dtype} of shape {indices.shape}, expected row numbers"
            )
        if np.unique(indices).size < indices.size:
            raise ValueError(f"{self.title}: an index is listed twice; epochs=2 says that samples come twice")
        wishes = {name: getattr(self, name) for name in ("weight", "epochs", "cap", "replay")}
        said = [name for name, value in wishes.items() if value is not None]
        if len(said) > 1:
            raise self.error(f"{' and '.join(said)} cannot both say how much of it comes; keep one of them.", said[0])
        for name in said:
            top = 1.0 if name == "replay" else math.inf
            if not 0 < wishes[name] < top:
                wanted = "between 0 and 1" if name == "replay" else "over 0; leave the source out if it is not wanted"
                raise self.error(f"{name} is {wishes[name]}, expected a number {wanted}.", name)
        if self.cap is not None and self.cap != int(self.cap):
            raise self.error(f"cap is {self.cap}, expected a whole number of samples.", "cap")

    @property
    def title(self) -> str:
        return self.name or "a part of the mixture"

    def error(self, message: str, field: str = "") -> DataError:
        return DataError(message, file=self.title, field=field)

    @property
    def num_counted(self) -> int:
        """Samples that count as its size: min(size, cap)."""
        return len(self.indices) if self.cap is None else min(len(self.indices), int(self.cap))


@dataclass(frozen=True)
class Amount:
    """What a part gives in some epochs of the mixture; `num_passes`: how often it was walked from end to end."""

    name: str
    num_samples: int
    num_tokens: int
    num_passes: float


def rates(parts: Sequence[Part], temperature: float = 1.0) -> list[float]:
    """Samples an epoch takes of each part: fractions, and 0 for what is replayed, which goes by tokens.

    Raises DataError naming the part whose wish does not go together with the others.
    """
    main = [part for part in parts if part.replay is None]
    if not main or sum(part.replay or 0.0 for part in parts) >= 1:
        replayed = next((part for part in parts if part.replay is not None), None)
        if replayed is None:
            raise ValueError("a mixture needs at least one part")
        raise replayed.error("the shares of replay leave no room for anything else; lower them.", "replay")
    _check_together(main, temperature)
    if main[0].weight is None and temperature == 1:
        return [(part.epochs or 1.0) * part.num_counted if part.replay is None else 0.0 for part in parts]
    claims = [(part.weight or part.num_counted ** (1 / temperature)) if part.replay is None else 0.0 for part in parts]
    num_samples = sum(part.num_counted for part in main)
    return [num_samples * claim / sum(claims) for claim in claims]


def epoch_order(
    parts: Sequence[Part],
    epoch: int,
    *,
    seed: int,
    temperature: float = 1.0,
    length_S: np.ndarray | None = None,
) -> np.ndarray:
    """The sample indices of one epoch (counted from 0), the parts mingled at random, each in the order of its walk.

    Without weights an epoch takes min(size, cap) * epochs samples of a part. With weights, or a `temperature` T over
    1, it has as many samples as the parts hold, sum of min(size, cap), and a part's share is proportional to its
    weight, or to min(size, cap) ** (1 / T) (Raffel et al., 2020, section 3.5.2; Wei et al., 2022, use T = 1 with a
    cap). Counts are rounded over all epochs so far: after any epoch a part is within half a sample of its due.
    `replay` parts come on top, walked until they have their share of the tokens so far, to half a sample; these alone
    need `length_S`, the tokens of every sample.

    The work is O(n log n) in the samples of the parts and of the epoch. Raises DataError naming a part.
    """
    walks = _walks(parts, seed, length_S)
    starts = _positions(walks, epoch, temperature)
    stops = _positions(walks, epoch + 1, temperature)
    taken = [walk.indices(start, stop) for walk, start, stop in zip(walks, starts, stops, strict=True)]
    part_S = np.repeat(np.arange(len(parts)), [len(indices) for indices in taken])
    mingled = np.argsort(scramble(np.arange(len(part_S)), seed_key(seed, "epoch", epoch)))
    # The places of a part, rising, get its samples in the order of its walk.
    order = np.empty(len(part_S), np.int64)
    order[np.argsort(part_S[mingled], kind="stable")] = np.concatenate(taken)
    return order


def amounts(
    parts: Sequence[Part],
    num_epochs: float,
    *,
    seed: int,
    length_S: np.ndarray,
    temperature: float = 1.0,
) -> list[Amount]:
    """What each part gives in the first `num_epochs`; of a fraction of an epoch, what is due by then."""
    walks = _walks(parts, seed, length_S)
    return [
        Amount(walk.part.title, position, walk.tokens(position), position / walk.size)
        for walk, position in zip(walks, _positions(walks, num_epochs, temperature), strict=True)
    ]


def describe(given: Sequence[Amount]) -> Iterator[str]:
    """One line a part, the largest first."""
    num_samples = max(1, sum(part.num_samples for part in given))
    num_tokens = max(1, sum(part.num_tokens for part in given))
    for part in sorted(given, key=lambda part: -part.num_samples):
        of_samples, of_tokens = part.num_samples / num_samples, part.num_tokens / num_tokens
        yield (
            f"{of_samples:.1%} of the samples and {of_tokens:.1%} of the tokens from {part.name}: "
            f"{part.num_samples:,} samples, {part.num_tokens:,} tokens, {part.num_passes:,.2f} epochs of it"
        )


class _Walk:
    """One part's endless walk: pass after pass through its samples, each pass in its own order."""

    def __init__(self, part: Part, key: np.uint64, length_S: np.ndarray | None) -> None:
        self.part, self.key, self.length_S, self.size = part, key, length_S, len(part.indices)

    def indices(self, start: int, stop: int) -> np.ndarray:
        """The samples at the positions [start, stop) of the walk."""
        first, last = start // self.size, -(-stop // self.size)
        pass_P = scramble(np.arange(first, last), self.key)
        order_PS = np.argsort(scramble(np.arange(self.size)[None], pass_P[:, None]), axis=1)
        return self.part.indices[order_PS.ravel()[start - first * self.size : stop - first * self.size]]

    def tokens(self, position: int) -> int:
        """Tokens of the walk before a position."""
        num_passes, rest = divmod(position, self.size)
        return num_passes * self._pass_tokens() + int(self._lengths(self.indices(position - rest, position)).sum())

    def position(self, num_tokens: float) -> int:
        """The position before which the walk has most nearly so many tokens."""
        num_passes = int(num_tokens // self._pass_tokens())
        start, rest = num_passes * self.size, num_tokens - num_passes * self._pass_tokens()
        ends = np.cumsum(self._lengths(self.indices(start, start + self.size)), dtype=np.int64)
        return start + int(np.searchsorted((ends + np.concatenate(([0], ends[:-1]))) / 2, rest, side="right"))

    def _pass_tokens(self) -> int:
        return int(self._lengths(self.part.indices).sum())

    def _lengths(self, indices: np.ndarray) -> np.ndarray:
        if self.length_S is None:
            raise ValueError(f"{self.part.title}: a share of the tokens (replay) needs the length of every sample")
        return self.length_S[indices].astype(np.int64)


def _walks(parts: Sequence[Part], seed: int, length_S: np.ndarray | None) -> list[_Walk]:
    return [_Walk(part, seed_key(seed, "part", number), length_S) for number, part in enumerate(parts)]


def _positions(walks: Sequence[_Walk], num_epochs: float, temperature: float) -> list[int]:
    """How far each walk has come after so many epochs."""
    positions = [math.floor(num_epochs * rate + 0.5) for rate in rates([walk.part for walk in walks], temperature)]
    replayed = sum(walk.part.replay or 0.0 for walk in walks)
    if replayed:
        others = sum(walk.tokens(at) for walk, at in zip(walks, positions, strict=True) if walk.part.replay is None)
        for number, walk in enumerate(walks):
            if walk.part.replay is not None:
                positions[number] = walk.position(others * walk.part.replay / (1 - replayed))
    return positions


def _check_together(main: Sequence[Part], temperature: float) -> None:
    if not temperature >= 1:
        raise DataError(
            f"the temperature is {temperature}, expected at least 1: 1 keeps the parts' sizes, more evens them out.",
            field="temperature",
        )
    for part in main:
        if part.weight is None and any(other.weight is not None for other in main):
            raise part.error("it has no weight, but another part has one; give one to all or to none.", "weight")
        for name in ("weight", "epochs"):
            if temperature != 1 and getattr(part, name) is not None:
                raise part.error(f"{name} and a temperature both say how much of it comes; keep one of them.", name)
