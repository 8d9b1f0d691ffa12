"""Token rows that share their beginnings become one tree, and a tree is made to fit a row."""

from collections.abc import Sequence

from posttrain.data.encode import Tokens
from posttrain.types import Sample, Segment


def branch(rows: Sequence[Tokens]) -> tuple[Segment, ...]:
    """The segments of a tree that holds every row from root to leaf; what rows share, weights included, stands once."""
    if len(rows) == 1:
        ids, weights = rows[0]
        return (Segment(tuple(ids), tuple(weights)),)
    segments: list[Segment] = []
    _grow([list(zip(*row, strict=True)) for row in rows], -1, segments)
    return tuple(segments)


def _grow(rows: list[list[tuple[int, float]]], parent: int, segments: list[Segment]) -> None:
    alike: dict[tuple[int, float], list[list[tuple[int, float]]]] = {}
    for row in filter(None, rows):
        alike.setdefault(row[0], []).append(row)
    for group in alike.values():
        shortest = min(map(len, group))
        shared = next((i for i in range(shortest) if any(row[i] != group[0][i] for row in group)), shortest)
        common = group[0][:shared]
        segments.append(Segment(tuple(token for token, _ in common), tuple(weight for _, weight in common), parent))
        _grow([row[shared:] for row in group], len(segments) - 1, segments)


def fit(sample: Sample, max_length: int) -> list[Sample]:
    """What of a sample can be trained in rows of `max_length` positions: each path from the root is cut there, and a
    tree that is wider than a row comes as its paths, every token trained once. Empty where nothing trained is left."""
    if sample.num_tokens <= max_length:
        return [sample] if sample.num_trained else []
    cut = limit_paths(sample, max_length)
    if cut is None:
        return []
    samples = [cut] if cut.num_tokens <= max_length else _paths(cut)
    return [sample for sample in samples if sample.num_trained]


def chunk(sample: Sample, max_length: int) -> list[Sample]:
    """A long document in windows of `max_length` tokens. Each begins with the last token of the one before, which
    predicts the first that is new, so that every token but the first is trained exactly once."""
    (segment,) = sample.segments
    windows = []
    for start in range(0, max(1, len(segment.token_ids) - 1), max_length - 1):
        ids, weights = segment.token_ids[start : start + max_length], segment.weights[start : start + max_length]
        windows.append(Sample((Segment(ids, (0.0, *weights[1:])),), sample.source))
    return windows


def limit_paths(sample: Sample, max_length: int) -> Sample | None:
    """Every path cut after `max_length` tokens; None where that leaves nothing to train."""
    kept: list[Segment] = []
    ends: list[int] = []
    places: list[int] = []  # where each segment went; -1: cut away
    for segment in sample.segments:
        start = 0 if segment.parent < 0 else ends[segment.parent]
        room = max_length - start
        ends.append(start + len(segment.token_ids))
        if room <= 0:
            places.append(-1)
            continue
        parent = segment.parent if segment.parent < 0 else places[segment.parent]
        kept.append(Segment(segment.token_ids[:room], segment.weights[:room], parent))
        places.append(len(kept) - 1)
    cut = Sample(tuple(kept), sample.source)
    return cut if cut.num_trained else None


def _paths(sample: Sample) -> list[Sample]:
    """Every root-to-leaf path as a sample of its own; a shared token is trained in the first only."""
    inner = {segment.parent for segment in sample.segments}
    told: set[int] = set()
    samples = []
    for leaf in (index for index in range(len(sample.segments)) if index not in inner):
        line = [leaf]
        while sample.segments[line[0]].parent >= 0:
            line.insert(0, sample.segments[line[0]].parent)
        ids: list[int] = []
        weights: list[float] = []
        for index in line:
            segment = sample.segments[index]
            ids += segment.token_ids
            weights += [0.0] * len(segment.weights) if index in told else segment.weights
            told.add(index)
        samples.append(Sample((Segment(tuple(ids), tuple(weights)),), sample.source))
    return samples
