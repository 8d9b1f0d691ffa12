"""Rendered text to token ids and loss weights. Text is cut only where a token would straddle the start of an answer:
the model is given the prompt alone when it is asked, so it must meet the same prompt tokens in training."""

import bisect
from collections.abc import Sequence
from typing import Any

Span = tuple[int, int, float]  # characters [start, end) of what an assistant says, and its weight
Tokens = tuple[list[int], list[float]]  # ids and weights


def plain_backend(tokenizer: Any) -> Any:
    """The tokenizer's own engine without what it would add or trim: no special tokens around the text, no truncation,
    and a place in the text for every character."""
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.post_processor = None
    backend.no_truncation()
    backend.no_padding()
    return backend


def weigh(encoding: Any, text: str, spans: Sequence[Span], cuts: Sequence[int], prompt_weight: float) -> Tokens | None:
    """Ids and weights of a text without marks; None where a token straddles a cut or the end of a span."""
    ids: list[int] = encoding.ids
    weights = [prompt_weight] * len(ids)
    for cut in cuts:
        token = _token_at(encoding, cut, len(text))
        if token < len(ids) and encoding.token_to_chars(token)[0] < cut:
            return None
    for start, end, weight in spans:
        first, last = _token_at(encoding, start, end), _token_at(encoding, end - 1, end)
        if last < len(ids) and encoding.token_to_chars(last)[1] > end:
            return None
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
    backend: Any, text: str, spans: Sequence[Span], cuts: Sequence[int], prompt_weight: float, mark: str
) -> Tokens:
    """The same for any text: cut where a token straddles, without the tokens of the mark."""
    ids, places = _pieces(backend, text, sorted(cuts), mark)
    weights = [prompt_weight] * len(ids)
    starts = [start for start, _ in places]
    for start, end, weight in spans:
        for token in range(bisect.bisect_left(starts, start), len(ids)):
            if starts[token] >= end:
                break
            if places[token][1] <= end:
                weights[token] = weight
    return ids, weights


def _pieces(backend: Any, text: str, cuts: Sequence[int], mark: str) -> tuple[list[int], list[tuple[int, int]]]:
    encoding = backend.encode(text, add_special_tokens=False)
    offsets: list[tuple[int, int]] = encoding.offsets
    marks = [place for place, character in enumerate(text) if character == mark] if mark else []
    # A token must not reach over a mark either: what it says there would stay.
    walls = [*cuts, *(edge for place in marks for edge in (place, place + 1))]
    starts = [start for start, _ in offsets]
    for wall in walls:
        before = bisect.bisect_left(starts, wall) - 1
        if before >= 0 and offsets[before][1] > wall:
            head, head_places = _pieces(backend, text[:wall], [c for c in cuts if c < wall], mark)
            tail, tail_places = _pieces(backend, text[wall:], [c - wall for c in cuts if c > wall], mark)
            return head + tail, head_places + [(start + wall, end + wall) for start, end in tail_places]
    hidden = {(place, place + 1) for place in marks}
    kept = [(token, place) for token, place in zip(encoding.ids, offsets, strict=True) if place not in hidden]
    return [token for token, _ in kept], [place for _, place in kept]
