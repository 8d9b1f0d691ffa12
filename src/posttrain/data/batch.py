"""Samples in, one flat packed Batch out."""

from collections.abc import Sequence

import torch

from posttrain.types import Batch, Judged, Sample, Span


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
        judged=_judged(samples, spans, held_by) if samples[0].pairs or samples[0].scores else None,
    )


def _judged(samples: Sequence[Sample], spans: Sequence[Span], held_by: Sequence[int]) -> Judged:
    """What is known of the answers: every span but the first of a tree is one."""
    answers: dict[int, int] = {}  # span: answer
    columns: list[tuple[float, ...]] = []
    scores: list[float] = []
    span = 0
    for sample in samples:
        first = len(answers)
        for place in range(1, len(sample.segments)):
            answers[span + place] = first + place - 1
        columns += [(first + p.better, first + p.worse, p.label, p.margin, p.weight) for p in sample.pairs]
        scores += sample.scores
        span += len(sample.segments)
    better, worse, label, margin, weight = zip(*columns, strict=True) if columns else [()] * 5
    reference = [logp for sample in samples for logp in sample.reference_logps]
    return Judged(
        answer_N=torch.tensor([answers[place] for place in held_by], dtype=torch.int64),
        last_A=torch.tensor([spans[place].stop - 1 for place in answers], dtype=torch.int64),
        better_M=torch.tensor(better, dtype=torch.int64),
        worse_M=torch.tensor(worse, dtype=torch.int64),
        label_M=torch.tensor(label, dtype=torch.float32),
        margin_M=torch.tensor(margin, dtype=torch.float32),
        weight_M=torch.tensor(weight, dtype=torch.float32),
        score_A=torch.tensor(scores, dtype=torch.float32),
        reference_N=torch.tensor(reference, dtype=torch.float32) if reference else None,
    )
