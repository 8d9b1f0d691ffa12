"""Micro-batches of one step, shared out over processes: as many each, with about as many tokens."""

from collections.abc import Sequence


def shares(sizes: Sequence[int], world: int) -> list[list[int]]:
    """For each of `world` processes the numbers of its micro-batches, given all their sizes in tokens. Every process
    gets as many, up to one; the largest go first, each to the one that has the fewest tokens (Graham, 1969). A number
    is in one share only. One process keeps them in order."""
    if world == 1:
        return [list(range(len(sizes)))]
    most = -(-len(sizes) // world)
    found: list[list[int]] = [[] for _ in range(world)]
    loads = [0] * world
    for number in sorted(range(len(sizes)), key=lambda number: -sizes[number]):
        place = min((p for p in range(world) if len(found[p]) < most), key=lambda p: (loads[p], p))
        found[place].append(number)
        loads[place] += sizes[number]
    return [sorted(share) for share in found]
