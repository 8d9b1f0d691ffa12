"""Real samples in pieces that people can read: each token with its text, its weight, and whether it is cut."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from posttrain.data.template import control_tokens
from posttrain.types import Sample, Segment

LONGEST_RUN = 600  # tokens of one weight in a row; nobody reads more of a page
GAP = -1  # in the place of an id
LOST = "\ufffd"  # what decoding shows while the bytes of a character are not complete


@dataclass(frozen=True, slots=True)
class Piece:
    """One token. `text` is empty where it holds only a part of a character; the token that ends it has it whole."""

    text: str
    token_id: int
    weight: float
    is_control: bool
    is_cut: bool


@dataclass(frozen=True, slots=True)
class Branch:
    """One segment of a sample: how many segments lie before it on its path, the branch it continues (-1: none), and
    its tokens."""

    depth: int
    parent: int
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class View:
    """One sample, with how many of its tokens are trained and how many lie beyond max_length."""

    source: str
    branches: tuple[Branch, ...]
    num_tokens: int
    num_trained: int
    num_cut: int


def view(sample: Sample, tokenizer: Any, max_length: int) -> View:
    """A sample in pieces; what lies more than `max_length` tokens from the root is marked as cut."""
    controls = set(tokenizer.convert_tokens_to_ids(list(control_tokens(tokenizer))))
    branches: list[Branch] = []
    ends: list[int] = []
    num_cut = 0
    for segment in sample.segments:
        start = ends[segment.parent] if segment.parent >= 0 else 0
        depth = branches[segment.parent].depth + 1 if segment.parent >= 0 else 0
        ends.append(start + len(segment.token_ids))
        num_cut += max(0, min(ends[-1] - max_length, len(segment.token_ids)))
        pieces = _pieces(segment, max_length - start, tokenizer, controls)
        branches.append(Branch(depth, segment.parent, tuple(pieces)))
    return View(sample.source, tuple(branches), sample.num_tokens, sample.num_trained, num_cut)


def _pieces(segment: Segment, room: int, tokenizer: Any, controls: set[int]) -> Iterator[Piece]:
    """The tokens of a segment, with a gap where a long run of one weight is left out; after `room` tokens is cut."""
    done = 0
    for first, last in _ranges(segment.weights):
        if first > done:
            yield Piece(f" … {first - done:,} tokens … ", GAP, segment.weights[done], False, done >= room)
        for at, text in enumerate(spell(segment.token_ids[first:last], tokenizer), first):
            token = segment.token_ids[at]
            yield Piece(text, token, segment.weights[at], token in controls, at >= room)
        done = last


def _ranges(weights: Sequence[float]) -> Iterator[tuple[int, int]]:
    """[start, end) of what is shown: all of a short run of one weight, both ends of a long one."""
    start = 0
    for _, run in groupby(weights):
        end = start + sum(1 for _ in run)
        if end - start <= LONGEST_RUN:
            yield start, end
        else:
            yield start, start + LONGEST_RUN // 2
            yield end - LONGEST_RUN // 2, end
        start = end


def spell(ids: Sequence[int], tokenizer: Any) -> list[str]:
    """The text that each token adds to the text of those before it; joined, the text of all."""
    texts: list[str] = []
    first = done = 0  # a token is decoded behind the one before, since many decoders drop a leading space
    for place in range(len(ids)):
        before = _decode(tokenizer, ids[first:done])
        whole = _decode(tokenizer, ids[first : place + 1])
        if whole.endswith(LOST) and place + 1 < len(ids) and not before.endswith(LOST):
            texts.append("")
            continue
        texts.append(whole[len(before) :])
        first, done = done, place + 1
    return texts


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text
