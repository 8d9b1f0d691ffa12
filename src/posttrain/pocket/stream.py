"""Pre-training steps from the world's documents, made on the way and never stored."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any

from posttrain.data.branches import fit
from posttrain.data.stream import Stream
from posttrain.data.template import render_document
from posttrain.pocket.corpus import PHASES, documents
from posttrain.pocket.world import World
from posttrain.types import Batch, Document, Sample

STEPS_PER_SHARD = 64  # steps planned together; a shard is remade from its number alone, so nothing is stored


class WorldStream:
    """Endless pre-training steps: shard k is the documents of seed k, packed; each document is met once.

    A shard follows the mixture of the phase in which it begins; `phase_steps` are the steps of each phase.
    """

    def __init__(
        self,
        world: World,
        tokenizer: Any,
        *,
        row_tokens: int,
        rows_per_step: int,
        phase_steps: Sequence[int],
        seed: int,
    ) -> None:
        self.world, self.tokenizer, self.seed = world, tokenizer, seed
        self.ends = list(accumulate(phase_steps))
        self.row_tokens, self.rows_per_step = row_tokens, rows_per_step
        self._shard = lru_cache(maxsize=2)(self._make_shard)

    def step(self, step: int) -> list[Batch]:
        shard, within = divmod(step, STEPS_PER_SHARD)
        return self._shard(shard).step(within)

    def epoch_of(self, step: int) -> float:
        """Every document is new, so an epoch is never over: shards done."""
        return step / STEPS_PER_SHARD

    def _make_shard(self, shard: int) -> Stream:
        need = int(STEPS_PER_SHARD * self.rows_per_step * self.row_tokens * 1.03)  # some rows stay a little short
        samples, size = [], 0
        for sample in self._samples(shard):
            samples.append(sample)
            size += sample.num_tokens
            if size >= need:
                break
        return Stream(samples, max_length=self.row_tokens, batch_size=self.rows_per_step, seed=self.seed + shard)

    def _samples(self, shard: int) -> Iterator[Sample]:
        phase = min(bisect_right(self.ends, shard * STEPS_PER_SHARD), len(PHASES) - 1)
        for kind, text in documents(self.world, self.seed * 100_000 + shard + 1, PHASES[phase].mixture):
            yield from fit(render_document(Document(text, kind), self.tokenizer), self.row_tokens)
