"""Samples to training steps. A step is a pure function of its number, so the data cursor is the step itself."""

import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from posttrain.data.batch import pack
from posttrain.data.mixture import Amount, Part, amounts, epoch_order, rates
from posttrain.data.packing import Rows, ordered_rows, shuffled_rows
from posttrain.errors import DataError
from posttrain.types import Batch, Sample


class Stream:
    """Seeded epochs over samples, cut into steps of `accumulation` packed batches of `batch_size` rows each.

    With `packing` a row holds as many samples as fit into `max_length`; without it, one. Neither has padding. The
    last step of an epoch may have fewer batches than the others; none spans two epochs.

    Without `parts` an epoch is every sample once; with them it is what `mixture.epoch_order` says, and the samples of
    a part keep the order of its walk, up to the window that rows are packed from. Samples that know their lengths
    (`length_S`) and trained tokens (`trained_S`) as arrays are planned without being read. `collate` makes the batch
    of the samples of these numbers, where it is to hold more than `pack` puts into it. With `may_exceed` a sample over
    `max_length` has a row of its own: a tree of many answers cannot be cut in two. `deal`: of the batches of one step,
    given their sizes in tokens, the numbers of those that are to be made here, and whether each is a filler.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        *,
        max_length: int,
        batch_size: int = 1,
        accumulation: int = 1,
        packing: bool = True,
        seed: int = 0,
        parts: Sequence[Part] | None = None,
        temperature: float = 1.0,
        collate: Callable[[list[int]], Batch] | None = None,
        may_exceed: bool = False,
        deal: Callable[[list[int]], list[tuple[int, bool]]] | None = None,
    ) -> None:
        if not len(samples):
            raise DataError("no sample to train on.")
        self.samples = samples
        self.max_length, self.batch_size, self.accumulation = max_length, batch_size, accumulation
        self.packing, self.seed, self.deal = packing, seed, deal or _everything
        self.parts, self.temperature = parts, temperature
        self.collate = collate or (lambda indices: pack([samples[i] for i in indices]))
        lengths = _lengths(samples)
        self.length_S = np.minimum(lengths, max_length) if may_exceed else lengths
        if parts is not None:
            rates(parts, temperature)  # what does not go together is refused now, not at the first step
        for part in parts or ():
            if part.indices.max() >= len(samples):
                raise ValueError(f"{part.title}: index {part.indices.max()} of {len(samples)} samples")
        self._ends: list[int] = []  # steps up to and including each epoch planned so far
        self._plan = lru_cache(maxsize=2)(self._plan_epoch)

    def num_steps(self, num_epochs: float) -> int:
        """Steps in so many epochs; a fraction of an epoch is rounded up to a whole step."""
        whole = math.floor(num_epochs)
        steps = self._end(whole - 1) if whole else 0
        if num_epochs > whole:
            steps += math.ceil((num_epochs - whole) * (self._end(whole) - steps))
        return max(1, steps)

    def epoch_of(self, step: int) -> float:
        """How many epochs are done after `step` steps."""
        if step == 0:
            return 0.0
        epoch, within = self._locate(step - 1)
        return epoch + (within + 1) / (self._end(epoch) - (step - 1 - within))

    def step(self, step: int) -> list[Batch]:
        """The packed batches of one optimiser step that are dealt to this process."""
        epoch, within = self._locate(step)
        rows, per_step = self._plan(epoch), self.batch_size * self.accumulation
        stop = min(len(rows), (within + 1) * per_step)
        batches = (
            rows.span(row, min(stop, row + self.batch_size)) for row in range(within * per_step, stop, self.batch_size)
        )
        trained = [batch for batch in batches if self._is_trained(batch)]
        dealt = self.deal([int(self.length_S[batch].sum()) for batch in trained])
        made = [(self.collate(trained[number]), is_filler) for number, is_filler in dealt]
        return [replace(batch, is_filler=True) if is_filler else batch for batch, is_filler in made]

    def mixture(self, num_epochs: float = 1.0) -> list[Amount]:
        """What each part gives in so many epochs (`mixture.describe` says it in words); empty without parts."""
        if self.parts is None:
            return []
        return amounts(self.parts, num_epochs, seed=self.seed, length_S=self.length_S, temperature=self.temperature)

    def _is_trained(self, batch: list[int]) -> bool:
        """Whether anything of it is: with packing off, a sample whose answer was cut off stands alone."""
        trained_S = getattr(self.samples, "trained_S", None)
        if trained_S is not None:
            return bool(trained_S[batch].any())
        return any(self.samples[i].num_trained for i in batch)

    def _locate(self, step: int) -> tuple[int, int]:
        while not self._ends or self._ends[-1] <= step:
            self._end(len(self._ends))
        epoch = bisect.bisect_right(self._ends, step)
        return epoch, step - (self._ends[epoch - 1] if epoch else 0)

    def _end(self, epoch: int) -> int:
        while len(self._ends) <= epoch:
            before = self._ends[-1] if self._ends else 0
            rows = self._plan(len(self._ends))
            self._ends.append(before + math.ceil(len(rows) / (self.batch_size * self.accumulation)))
        return self._ends[epoch]

    def _plan_epoch(self, epoch: int) -> Rows:
        seed, capacity = self.seed * 1_000_003 + epoch, self.max_length if self.packing else None
        if self.parts is None:
            return shuffled_rows(self.length_S, capacity, seed=seed)
        order_S = epoch_order(self.parts, epoch, seed=self.seed, temperature=self.temperature, length_S=self.length_S)
        return ordered_rows(order_S, self.length_S, capacity, seed=seed)


def _everything(sizes: list[int]) -> list[tuple[int, bool]]:
    return [(number, False) for number in range(len(sizes))]


def _lengths(samples: Sequence[Sample]) -> np.ndarray:
    length_S = getattr(samples, "length_S", None)
    if length_S is not None:
        return length_S
    return np.fromiter((sample.num_tokens for sample in samples), np.int64, len(samples))
