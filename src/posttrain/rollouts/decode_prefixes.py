"""Keys and values of sequences that are over, for those that begin alike: a chat's next turn, a system prompt."""

from collections import OrderedDict
from collections.abc import Sequence

import torch

from posttrain.models.decoding_pages import PAGE, Pages, copy_pages

Key = tuple[int, tuple[int, ...]]
"""The serial of the page before (0: none), and the tokens of this one: equal keys, equal tokens from the start."""


class Prefixes:
    """Whole pages, found again by all tokens up to their end; those that were not used for longest go first. They lie
    in a pool of their own, for a step computes over all of the running one: pages are copied in and out."""

    def __init__(self, most: int, nobody: int, device: torch.device) -> None:
        """`most`: pages; 0 keeps none."""
        self.most, self.pages = most, Pages(1, nobody, device, most=most)
        self.kept: OrderedDict[Key, tuple[int, int]] = OrderedDict()  # to (serial, page), longest unused first
        self.serial = 0

    def find(self, ids: Sequence[int]) -> list[int]:
        """The pages that hold the beginning of `ids`, as much as is there, but not the last token: the next one is
        drawn behind what it gives."""
        keys = self._known(ids, (len(ids) - 1) // PAGE)
        return [self.kept[key][1] for key in keys]

    def keep(self, ids: Sequence[int], source: Pages, pages: Sequence[int]) -> None:
        """Remember the pages of `ids`, all of whose positions are in them."""
        count = min(len(ids) // PAGE, self.most)
        keys = self._known(ids, count)
        parent = self.kept[keys[-1]][0] if keys else 0
        places: list[int] = []
        for number in range(len(keys), count):
            if not self.pages.room:
                _, (_, page) = self.kept.popitem(last=False)
                self.pages.give_back([page])
            self.serial += 1
            places.append(self.pages.take(number * PAGE))
            keys.append((parent, _tokens(ids, number)))
            self.kept[keys[-1]] = (self.serial, places[-1])
            parent = self.serial
        copy_pages(source, pages[count - len(places) : count], self.pages, places)
        self._touch(keys)

    def _known(self, ids: Sequence[int], most: int) -> list[Key]:
        keys: list[Key] = []
        parent = 0
        for number in range(most):
            key = (parent, _tokens(ids, number))
            if key not in self.kept:
                break
            keys.append(key)
            parent = self.kept[key][0]
        self._touch(keys)
        return keys

    def _touch(self, keys: Sequence[Key]) -> None:
        """The first page is the last to go: without it those behind it cannot be found."""
        for key in reversed(keys):
            self.kept.move_to_end(key)


def _tokens(ids: Sequence[int], number: int) -> tuple[int, ...]:
    return tuple(ids[number * PAGE : (number + 1) * PAGE])
