"""Samples in, one flat packed Batch out."""

from collections.abc import Sequence

import torch

from posttrain.types import Batch, Sample, Span


def pack(samples: Sequence[Sample]) -> Batch:
    """Lay trees one after another in a single row: no padding, each shared prompt once.

    Tokens of weight 0 get no logits. Raises ValueError where nothing is left to train.
    """
    ids: list[int] = []
    positions: list[int] = []
    spans: list[Span] = []
    targets: list[int] = []
    sources: list[int] = []
    weights: list[float] = []
    held_by: list[int] = []
    for sample in samples:
        base = len(spans)
        depths: list[int] = []  # position that follows each segment of this tree
        for segment in sample.segments:
            start, first = len(ids), 0 if segment.parent < 0 else depths[segment.parent]
            before = -1 if segment.parent < 0 else spans[base + segment.parent].stop - 1
            for offset, weight in enumerate(segment.weights):
                if weight:
                    targets.append(segment.token_ids[offset])
                    sources.append(start + offset - 1 if offset else before)
                    weights.append(weight)
                    held_by.append(len(spans))
            ids.extend(segment.token_ids)
            positions.extend(range(first, first + len(segment.token_ids)))
            depths.append(first + len(segment.token_ids))
            spans.append(Span(start, len(ids), -1 if segment.parent < 0 else base + segment.parent))
    if not targets:
        raise ValueError("a batch needs at least one token to train")
    return Batch(
        input_ids_T=torch.tensor(ids, dtype=torch.int64),
        position_ids_T=torch.tensor(positions, dtype=torch.int64),
        spans=tuple(spans),
        target_ids_N=torch.tensor(targets, dtype=torch.int64),
        source_N=torch.tensor(sources, dtype=torch.int64),
        weight_N=torch.tensor(weights, dtype=torch.float32),
        span_N=torch.tensor(held_by, dtype=torch.int64),
        sources=tuple(sample.source for sample in samples),
    )
