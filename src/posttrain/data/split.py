"""Train and held-out rows that share no prompt: whole groups go to one side, in a seeded order of their hashes."""

import hashlib

import numpy as np

from posttrain.errors import DataError
from posttrain.types import Conversation, Document, Message, Preference, Prompt, Ranking, Rating

_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def group_key(record: Conversation | Document | Prompt | Preference | Rating | Ranking) -> int:
    """An unsigned 64-bit number that is equal for equal prompts: rows that share it belong on one side of a split.

    Of a conversation, everything up to the first assistant turn that answers somebody, roles included; of a document,
    its text. Case and the amount of white space do not count. The number depends on nothing but the text.
    """
    if isinstance(record, Document):
        lines = ["document", _plain(record.text)]
    else:
        messages = record.messages if isinstance(record, Conversation | Prompt) else record.prompt
        # No line break is left in a plain text, so two different prompts cannot become the same lines.
        lines = [line for message in _opening(messages) for line in (message.role, _plain(message.content))]
    text = "\n".join(lines).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def split_groups(group_S: np.ndarray, share: float, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices to train on and indices to hold out, both rising; no group is on both sides, and neither is empty.

    group_S: unsigned 64-bit keys, one a row. Groups are held out in the order of a seeded hash of their key until
    `share` of the rows is reached, so rows that join later move only the groups near that mark. A group that does not
    fit any more is passed over; at the end one more is taken where that comes nearer to the share.

    Raises ValueError for a share outside (0, 1), DataError where all rows are of one group.
    """
    if not 0 < share < 1:
        raise ValueError(f"the held-out share is {share}, expected a number between 0 and 1")
    key_G, group_of_S, size_G = np.unique(np.asarray(group_S, np.uint64), return_inverse=True, return_counts=True)
    if len(key_G) < 2:
        raise DataError(
            f"all {len(group_S):,} rows have the same prompt or are of one document, so none can be held out without "
            "its twins being trained; give held-out data of its own."
            if len(group_S)
            else "there is no row to hold out."
        )
    order_G = np.argsort(scramble(key_G, seed_key(seed, "split")))
    held_G = np.zeros(len(key_G), bool)
    held_G[order_G[_fitting(size_G[order_G], share * len(group_S))]] = True
    is_held_S = held_G[group_of_S]
    return np.flatnonzero(~is_held_S), np.flatnonzero(is_held_S)


def _fitting(size_G: np.ndarray, target: float) -> list[int]:
    """Places in `size_G` whose sizes sum to about `target`: at least one place, and not all."""
    taken, gap, smallest = [], target, int(size_G.min())
    for place, size in enumerate(size_G.tolist()):
        if size <= gap:
            taken.append(place)
            gap -= size
        if gap < smallest:
            break
    is_left = np.ones(len(size_G), bool)
    is_left[taken] = False
    left = np.flatnonzero(is_left)
    nearest = int(left[np.argmin(size_G[left])])
    if not taken or (len(left) > 1 and size_G[nearest] < 2 * gap):
        taken.append(nearest)
    return taken


def _opening(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """A greeting from the assistant answers nobody: a prompt without a question would be the same one everywhere."""
    asked = False
    for place, message in enumerate(messages):
        if message.role == "assistant" and asked:
            return messages[:place]
        asked = asked or message.role in ("user", "tool")
    return messages


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def seed_key(*parts: int | str) -> np.uint64:
    """A 64-bit key for one purpose of a seed."""
    return np.uint64(int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little"))


def scramble(value_S: np.ndarray, key: np.uint64 | np.ndarray) -> np.ndarray:
    """Distinct 64-bit numbers to distinct ones without visible order; sorting by them shuffles (Steele, Lea and Flood,
    2014: how SplitMix64 ends). numpy's own generators may draw otherwise in another release; this cannot."""
    mixed = value_S.astype(np.uint64) ^ key
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _FIRST
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _SECOND
    return mixed ^ (mixed >> np.uint64(31))
