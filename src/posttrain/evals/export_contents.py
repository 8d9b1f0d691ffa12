"""What an exported file holds, laid beside the model itself: every row of every weight, every word of the vocabulary.

Answers show what the prompts touch. That the row of a seldom token is another's, that a layer is 5 % too loud, or that
a merge is gone which no probe text needs, shows here alone.
"""

import math
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from posttrain.models.load import Policy
from posttrain.models.logprobs import causal_lm

QUIET = 0.05
"""A row that is shorter than this share of the weight's mean row is measured by that: rounding may swallow it."""
MOST_ADDED = 50
"""Words that users added which are probed in the midst of others."""


@dataclass(frozen=True)
class Contents:
    """`row`: the worst relative error of a row, |w - w'| / |w|. `scale`: the weight whose size is furthest off,
    |<w, w'> / <w, w> - 1|. Both are 0 for an adapter apart from its base, which is copied. `words`: of the vocabulary's
    `num_words` those that are cut otherwise."""

    row: float
    row_of: str
    scale: float
    scale_of: str
    missing: tuple[str, ...]
    words: tuple[str, ...]
    num_words: int

    def told(self) -> dict[str, Any]:
        """As JSON holds it; what is not a number is null."""
        sizes = {
            name: size if math.isfinite(size) else None for name, size in vars(self).items() if isinstance(size, float)
        }
        found = vars(self) | sizes | {"missing": list(self.missing), "words": list(self.words[:20])}
        return found | {"num_words_unequal": len(self.words)}


def contents(ours: Policy, theirs: Policy) -> Contents:
    """The model beside what was read of its file, both in one piece."""
    row, scale = (0.0, ""), (0.0, "")
    missing: list[str] = []
    if causal_lm(theirs.model) is theirs.model:
        held = theirs.model.state_dict()
        for name, weight in ours.model.state_dict().items():
            if name not in held or held[name].shape != weight.shape:
                missing.append(name)
                continue
            worst, place, off = _apart(weight.detach(), held[name].detach())
            row, scale = max(row, (worst, f"row {place} of {name}")), max(scale, (off, name))
    words = list(_words(ours.tokenizer))
    cut = [each.tokenizer.backend_tokenizer.encode_batch(words, add_special_tokens=False) for each in (ours, theirs)]
    unlike = tuple(word for word, one, other in zip(words, *cut, strict=True) if one.ids != other.ids)
    return Contents(*row, *scale, tuple(missing), unlike, len(words))


def contents_faults(found: Contents, most_row: float, most_scale: float) -> list[str]:
    """What is not the model's, a sentence each."""
    faults = []
    if found.missing:
        faults.append(f"{len(found.missing)} weights are missing or of another shape, as {found.missing[0]}")
    if not found.row <= most_row:
        faults.append(
            f"{found.row_of} is off by {100 * found.row:.3g} % of its length, at most {100 * most_row:g} % may be"
        )
    if not found.scale <= most_scale:
        faults.append(
            f"{found.scale_of} is {100 * found.scale:.3g} % too large or too small, at most {100 * most_scale:g} %"
        )
    if found.words:
        some = ", ".join(map(repr, found.words[:3]))
        faults.append(f"{len(found.words)} of {found.num_words} words become other tokens, as {some}")
    return faults


def _apart(ours: Tensor, theirs: Tensor) -> tuple[float, int, float]:
    """The worst row's error, its number, and how far the whole is from its size. What has one dimension is one row."""
    ours = (ours if ours.ndim > 1 else ours.unsqueeze(0)).flatten(1).float()
    theirs = theirs.to(ours.device).reshape(ours.shape).float()
    error, length = (theirs - ours).norm(dim=1), ours.norm(dim=1)
    if not bool(error.isfinite().all()):
        return float("inf"), int((~error.isfinite()).float().argmax()), float("inf")
    length = length.clamp(min=QUIET * float(length.square().mean().sqrt()))
    share = (error / length).nan_to_num(nan=0.0)  # 0 of 0 is right
    place = int(share.argmax())
    whole = float(ours.double().square().sum())
    off = abs(float((ours.double() * theirs.double()).sum()) / whole - 1) if whole else 0.0
    return float(share[place]), place, off


def _words(tokenizer: Any) -> Iterator[str]:
    """The text of every token that is a text by itself; what users added also in the midst of others."""
    backend, added = tokenizer.backend_tokenizer, tokenizer.added_tokens_decoder
    normalizer = backend.normalizer
    for number in range(len(tokenizer)):
        if number in added:
            continue
        text = backend.decode([number], skip_special_tokens=False)
        # Of half a character nothing is known; a tokenizer that composes letters first is not followed there.
        if text and "\ufffd" not in text and (normalizer is None or unicodedata.is_normalized("NFC", text)):
            yield text
    yield from added_texts(tokenizer)


def added_texts(tokenizer: Any) -> list[str]:
    """Texts around words that users added, which other programs may look for otherwise (inside words, at spaces)."""
    words = [token.content for token in tokenizer.added_tokens_decoder.values() if not token.special]
    return [text for word in words[:MOST_ADDED] for text in (word, f"a{word}b", f"a {word} b", f"{word}{word}")]
