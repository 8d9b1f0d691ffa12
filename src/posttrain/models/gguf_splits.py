"""Which of llama.cpp's pre-tokenizers cuts text as a tokenizer does.

llama.cpp knows pre-tokenizers by name only (`tokenizer.ggml.pre`): a file with the wrong name is read without a word
and answers gibberish on digits or in other scripts. So a name is taken only if it cuts thousands of probe texts into
the very same pieces; where none does the export is refused. So are those that llama.cpp itself only approximates
(tekken and gpt-4o take capital letters beyond ASCII for small ones).
"""

import json
import random
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any

from tokenizers import Regex, pre_tokenizers

from posttrain.errors import ModelError

_TAIL = r"|\s+(?!\S)|\s+"
_ENDINGS = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_WORDS = r"|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+" + _TAIL


@dataclass(frozen=True)
class Splits:
    """llama.cpp's expressions, applied one after the other, each to the pieces that the last one left (src/
    llama-vocab.cpp). `whole`: a piece that is a token of its own is taken without merges."""

    expressions: tuple[str, ...]
    whole: bool = False

    def build(self) -> Any:
        """The same as a pre-tokenizer of the library `tokenizers`."""
        parts = [pre_tokenizers.Split(Regex(each), "isolated") for each in self.expressions]
        return pre_tokenizers.Sequence([*parts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


SPLITS: dict[str, Splits] = {
    "gpt-2": Splits((_GPT2,)),
    "smollm": Splits((r"\p{N}", _GPT2)),
    "qwen2": Splits((_ENDINGS + _WORDS + r"|\p{N}" + _REST,)),
    "llama-bpe": Splits((_ENDINGS + _WORDS + r"|\p{N}{1,3}" + _REST,), whole=True),
    "dbrx": Splits((_ENDINGS + _WORDS + r"|\p{N}{1,3}" + _REST,)),
}
_ALPHABETS = (
    "abcdefghijklmnopqrstuvwxyz", "ABCXYZ", "0123456789", "²½Ⅷ٣७", "    ", "\n\n\r\t \u3000\u2028",
    ".,;:!?-_/\\()[]{}<>|&%$#@*+=~^`\"", "''''", "äöüßéñçøłşı", "мирздПРИВЕТ", "αβγΩ", "中文字符日本語", "한국어",
    "العربية", "नमस्ते", "😀🎉👍🏽", "\u0301\u200d\u00ad",
)  # fmt: skip
_WRITTEN = (
    "Hello, world!",
    "I'm sure you'll say it's 12345.67 or '99; WE'LL see, SHE'S right, they'VE gone.", "a  b   c\n\n\nd",
    "  two spaces first", "ends in a space ", "tab\tand\r\nCRLF\r\n\r\n  indented", "def f(x):\n    return x**2  # 3\n",
    "https://example.org/a/b?c=1&d=%20", "CamelCaseWords and snake_case_words and ALLCAPS",
    "12 345 6789 0.001 1,000,000",
    "naïve café Zürich", "Привет, мир! 2024 год.", "你好，世界！2024年", "한국어 텍스트", "مرحبا بالعالم ١٢٣",
    "👩‍👩‍👧 family 👍🏽",
    "\n", " ", "\n ", " \n", "'", "''s", "…", "don’t",
)  # fmt: skip


@cache
def probe_texts(num: int = 2000, seed: int = 0) -> tuple[str, ...]:
    """Texts that tell pre-tokenizers apart: written ones, and mixtures of scripts, digits, spaces and apostrophes."""
    rng = random.Random(f"probe:{seed}")
    drawn = []
    for _ in range(num):
        chosen = rng.sample(_ALPHABETS, rng.randint(1, 4))
        drawn.append("".join(rng.choice(rng.choice(chosen)) for _ in range(rng.randint(1, 14))))
    return (*_WRITTEN, *drawn)


def comparable_texts(backend: Any, num: int) -> list[str]:
    """The first probe texts on which a tokenizer can be followed at all: one that brings text into NFC first (Qwen's)
    is not followed there on decomposed letters, which is told when the file is written."""
    normalizer = json.loads(backend.to_str())["normalizer"]
    is_nfc = bool(normalizer) and normalizer["type"] == "NFC"
    texts = (text for text in probe_texts() if not is_nfc or unicodedata.is_normalized("NFC", text))
    return list(islice(texts, num))


def splits_name(backend: Any) -> str:
    """llama.cpp's name for what cuts text as this tokenizer (of the library `tokenizers`) does, shown on probe texts.
    ModelError where it knows none."""
    state = json.loads(backend.to_str())
    whole = bool(state["model"].get("ignore_merges"))
    ours = backend.pre_tokenizer
    wanted = [] if ours is None else [_pieces(ours, text) for text in probe_texts()]
    for name, splits in SPLITS.items():
        if wanted and splits.whole == whole and _same(splits.build(), wanted):
            return name
    raise ModelError(
        "llama.cpp has no pre-tokenizer that cuts text as this tokenizer does (tried on "
        f"{len(probe_texts()):,} probe texts: {', '.join(SPLITS)}), so the file would read other words than the model "
        f"learned; it is not written. The tokenizer's own: {json.dumps(state['pre_tokenizer'])[:300]}"
    )


def _same(theirs: Any, wanted: Sequence[list[str]]) -> bool:
    return all(_pieces(theirs, text) == pieces for text, pieces in zip(probe_texts(), wanted, strict=True))


def _pieces(splitter: Any, text: str) -> list[str]:
    return [piece for piece, _ in splitter.pre_tokenize_str(text)]
