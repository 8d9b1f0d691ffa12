"""Rendered text to token ids and loss weights. Text is cut at the start of an answer only where the tokens before it
would else be others: the model is given the prompt alone when it is asked, so it must meet the same in training."""

import bisect
import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

from posttrain.data.controls import MARKS

Span = tuple[int, int, float]  # characters [start, end) of what an assistant says, and its weight
Tokens = tuple[list[int], list[float]]  # ids and weights
CUTTABLE = {"ByteLevel", "Split", "Digits"}  # pre-tokenisers that do not look back


def plain_backend(tokenizer: Any) -> Any:
    """The tokenizer's own engine without what it would add or trim: no special tokens around the text, no truncation,
    and a place in the text for every character."""
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.post_processor = None
    backend.no_truncation()
    backend.no_padding()
    return backend


class Engine:
    """The backend of a tokenizer, and what it makes of a prompt that stands alone."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self.may_cut = _may_cut(backend)
        self._added = frozenset(backend.get_added_tokens_decoder())
        self._alone: Callable[[str], list[int]] = lru_cache(maxsize=4096)(self._encode)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.backend.encode(text, add_special_tokens=False).ids
        return ids

    def stands_alone(self, ids: Sequence[int], token: int, start_of: Callable[[int], int], text: str, cut: int) -> bool:
        """Whether the tokens before a cut are those of the text before it alone. A pre-tokeniser may look ahead:
        GPT-2's takes two newlines apart before a word, and leaves them together at the end of a text.

        `token`: the first one at or behind the cut. Added tokens split a text before anything else does, so that only
        what stands behind the last of them has to be looked at.
        """
        first = token
        while first > 0:
            first -= 1
            if ids[first] in self._added:
                break
        start = start_of(first) if first else 0
        return list(ids[first:token]) == self._alone(text[start:cut])


def _may_cut(backend: Any) -> bool:
    """Whether a text that is cut at the start or the end of an answer has the tokens that it must have: those behind
    the cut are what they would be in one piece. So it is in byte-level BPE, whose patterns look ahead but never back.
    """
    parts = json.loads(backend.to_str())
    added = (token[key] for token in parts["added_tokens"] for key in ("lstrip", "rstrip", "single_word"))
    steps = parts["pre_tokenizer"] or {}
    steps = steps.get("pretokenizers", [steps])
    return (
        (parts["normalizer"] is None or parts["normalizer"]["type"] == "NFC")
        and parts["model"]["type"] == "BPE"
        and any(step.get("type") == "ByteLevel" for step in steps)
        and all(step.get("type") in CUTTABLE and not step.get("add_prefix_space") for step in steps)
        and not any(added)
    )


def cut_up(text: str, spans: Sequence[Span], cuts: Sequence[int], prompt_weight: float) -> list[tuple[str, float]]:
    """A text in pieces with one weight each: cut at the start and the end of every answer."""
    weight_of = {start: weight for start, _, weight in spans}
    edges = sorted({0, *cuts, *weight_of, *(end for _, end, _ in spans)})
    return [
        (text[start:stop], weight_of.get(start, prompt_weight))
        for start, stop in pairwise([*edges, len(text)])
        if start < stop
    ]


def weigh(
    engine: Engine, encoding: Any, text: str, spans: Sequence[Span], cuts: Sequence[int], prompt_weight: float
) -> Tokens | None:
    """Ids and weights of a text without marks; None where the text has to be cut."""
    ids: list[int] = encoding.ids
    weights = [prompt_weight] * len(ids)
    for cut in cuts:
        token = _token_at(encoding, cut, len(text))
        if token < len(ids) and encoding.token_to_chars(token)[0] < cut:
            return None
        if not engine.stands_alone(ids, token, lambda at: int(encoding.token_to_chars(at)[0]), text, cut):
            return None
    for start, end, weight in spans:
        first, last = _token_at(encoding, start, end), _token_at(encoding, end - 1, end)
        if last < len(ids) and text[end : encoding.token_to_chars(last)[1]].strip():
            return None  # more than the white space that a stop token may swallow
        weights[first : last + 1] = [weight] * (last + 1 - first)
    return ids, weights


def _token_at(encoding: Any, char: int, end: int) -> int:
    """The first token at or after a character; the number of tokens where there is none before `end`."""
    for place in range(char, end):
        token = encoding.char_to_token(place)
        if token is not None:
            return int(token)
    return len(encoding.ids)


def weigh_in_pieces(
    engine: Engine, text: str, spans: Sequence[Span], cuts: Sequence[int], prompt_weight: float, mark: str
) -> Tokens:
    """The same for any text: cut where a token straddles, without the tokens of the mark."""
    pieces = _pieces(engine, text, sorted(cuts), mark)
    weights = [prompt_weight] * len(pieces)
    starts = [start for _, (start, _) in pieces]
    for start, end, weight in spans:
        for token in range(bisect.bisect_left(starts, start), len(pieces)):
            if starts[token] >= end:
                break
            if not text[end : pieces[token][1][1]].strip():  # a stop token may swallow the white space behind it
                weights[token] = weight
    return [token for token, _ in pieces], weights


Piece = tuple[int, tuple[int, int]]  # a token and its characters


def _pieces(engine: Engine, text: str, cuts: Sequence[int], mark: str, guard: str = "") -> list[Piece]:
    """`guard`: a character in front, which holds off the space that some tokenizers put at the start of a text."""
    encoding = engine.backend.encode(guard + text, add_special_tokens=False)
    front = len(guard)
    found = [(t, (s - front, e - front)) for t, (s, e) in zip(encoding.ids, encoding.offsets, strict=True)]
    found = [piece for piece in found if piece[1][1] > 0 or not guard]
    marks = [place for place, character in enumerate(text) if character == mark] if mark else []
    walls = _walls(engine, text, cuts, marks, found)
    if walls:
        hold = next((free for free in MARKS if free not in text), "")
        pieces: list[Piece] = []
        for start, stop in pairwise([0, *walls, len(text)]):
            within = [cut - start for cut in cuts if start < cut < stop]
            inner = _pieces(engine, text[start:stop], within, mark, hold if start else guard)
            pieces += [(token, (first + start, last + start)) for token, (first, last) in inner]
        return pieces
    hidden = {(place, place + 1) for place in marks}
    return [piece for piece in found if piece[1] not in hidden]


def _walls(engine: Engine, text: str, cuts: Sequence[int], marks: Sequence[int], found: Sequence[Piece]) -> list[int]:
    """The places where the text has to be cut: a token reaches over the start of an answer, or is another because of
    it, or reaches over a mark, so that what it says there would stay."""
    ids, places = [token for token, _ in found], [place for _, place in found]
    starts = [start for start, _ in places]
    walls = set()
    for wall in (*cuts, *(edge for place in marks for edge in (place, place + 1))):
        behind = bisect.bisect_left(starts, wall)
        straddled = behind > 0 and places[behind - 1][1] > wall
        if 0 < wall < len(text) and (
            straddled or (wall in cuts and not engine.stands_alone(ids, behind, starts.__getitem__, text, wall))
        ):
            walls.add(wall)
    return sorted(walls)
