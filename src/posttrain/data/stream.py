"""Samples to training steps. A step is a pure function of its number, so the data cursor is the step itself."""

import bisect
import math
import random
from collections.abc import Sequence
from functools import lru_cache

from posttrain.data.batch import pack
from posttrain.data.packing import plan_rows
from posttrain.errors import DataError
from posttrain.types import Batch, Sample


class Stream:
    """Seeded epochs over samples, cut into steps of `accumulation` packed batches of `batch_size` rows each.

    With `packing` a row holds as many samples as fit into `max_length`; without it, one. Neither has padding. The
    last step of an epoch may have fewer batches than the others; none spans two epochs.
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
    ) -> None:
        if not samples:
            raise DataError("no sample to train on.")
        self.samples = samples
        self.max_length, self.batch_size, self.accumulation = max_length, batch_size, accumulation
        self.packing, self.seed = packing, seed
        self.lengths = [sample.num_tokens for sample in samples]
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
        return epoch + (within + 1) / len(self._plan(epoch))

    def step(self, step: int) -> list[Batch]:
        """The packed batches of one optimiser step."""
        epoch, within = self._locate(step)
        return [
            pack([self.samples[i] for row in batch for i in row])
            for batch in self._plan(epoch)[within]
            if any(self.samples[i].num_trained for row in batch for i in row)
        ]

    def _locate(self, step: int) -> tuple[int, int]:
        while not self._ends or self._ends[-1] <= step:
            self._end(len(self._ends))
        epoch = bisect.bisect_right(self._ends, step)
        return epoch, step - (self._ends[epoch - 1] if epoch else 0)

    def _end(self, epoch: int) -> int:
        while len(self._ends) <= epoch:
            before = self._ends[-1] if self._ends else 0
            self._ends.append(before + len(self._plan(len(self._ends))))
        return self._ends[epoch]

    def _plan_epoch(self, epoch: int) -> list[list[list[list[int]]]]:
        """steps -> batches -> rows -> sample indices."""
        seed = self.seed * 1_000_003 + epoch
        if self.packing:
            rows = plan_rows(self.lengths, self.max_length, seed=seed)
        else:
            rows = [[i] for i in range(len(self.samples))]
            random.Random(seed).shuffle(rows)
        batches = [rows[i : i + self.batch_size] for i in range(0, len(rows), self.batch_size)]
        return [batches[i : i + self.accumulation] for i in range(0, len(batches), self.accumulation)]
