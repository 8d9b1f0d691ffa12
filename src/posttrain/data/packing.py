"""Which samples share a row. Plans are made from lengths alone, so an epoch can be planned before any tensor exists."""

import bisect
import random
from collections.abc import Sequence

LARGE = 4  # a sample over a quarter of a row is large: it leaves holes that small ones fill
WINDOW = 1024  # samples considered together: large enough to fill rows, small enough to keep the shuffle a shuffle


def plan_rows(lengths: Sequence[int], capacity: int, *, seed: int, window: int = WINDOW) -> list[list[int]]:
    """Rows of sample indices whose lengths sum to at most `capacity`, in a seeded random order.

    Samples are shuffled, cut into windows, and packed best-fit inside each window (Johnson, 1974): each goes into the
    row with the least room that still holds it, large ones first and by size. Small ones come in random order: sorted,
    they would meet their like, and a row of one kind of sample is no random batch. Every index appears exactly once.

    Raises ValueError where a length is over the capacity.
    """
    rng = random.Random(seed)
    order = list(range(len(lengths)))
    rng.shuffle(order)
    rows: list[list[int]] = []
    for start in range(0, len(order), window):
        rows.extend(_best_fit(order[start : start + window], lengths, capacity))
    rng.shuffle(rows)
    return rows


def _best_fit(indices: list[int], lengths: Sequence[int], capacity: int) -> list[list[int]]:
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free positions, row), sorted
    large = [index for index in indices if lengths[index] > capacity // LARGE]
    small = [index for index in indices if lengths[index] <= capacity // LARGE]
    for index in sorted(large, key=lambda i: -lengths[i]) + small:
        length = lengths[index]
        if length > capacity:
            raise ValueError(f"sample {index} has {length} tokens, over the row's {capacity}")
        at = bisect.bisect_left(room, (length, -1))
        if at == len(room):
            rows.append([index])
            bisect.insort(room, (capacity - length, len(rows) - 1))
        else:
            free, row = room.pop(at)
            rows[row].append(index)
            bisect.insort(room, (free - length, row))
    return rows
