"""Small tokenizers with the real control tokens of public model families (families.toml)."""

import json
import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from posttrain.data.template import install_template

TEXT = "The capital of France is Paris.\n\nuser assistant system\n\n\nHow many hours has a day? It has 24 hours.\n\n"
SPACE = "\u2581"
NEWLINES_TOGETHER = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def families() -> dict[str, dict[str, Any]]:
    return tomllib.loads(Path(__file__).with_name("families.toml").read_text(encoding="utf-8"))


@cache
def _trained(kind: str) -> str:
    """A BPE of a few hundred tokens without any control token, as JSON."""
    inner = tokenizers.Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(vocab_size=400, show_progress=False)
    if kind in ("byte", "gpt2"):
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        if kind == "byte":
            cut = pre_tokenizers.Split(tokenizers.Regex(NEWLINES_TOGETHER), "isolated")
            inner.pre_tokenizer = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(False, use_regex=False)])
        inner.decoder = decoders.ByteLevel()
        trainer.initial_alphabet = pre_tokenizers.ByteLevel.alphabet()
        inner.train_from_iterator([TEXT] * 20, trainer)
        return str(inner.to_str())
    replace = normalizers.Replace(" ", SPACE)
    inner.normalizer = replace if kind == "replaced" else normalizers.Sequence([normalizers.Prepend(SPACE), replace])
    trainer.initial_alphabet = [*map(chr, range(33, 127)), SPACE, "\n"]
    inner.train_from_iterator([TEXT] * 20, trainer)
    model = json.loads(inner.to_str())["model"]
    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    inner.model = models.BPE(
        vocab={piece: number for number, piece in enumerate([*model["vocab"], *pieces])},
        merges=[tuple(merge) for merge in model["merges"]],
        byte_fallback=True,
    )
    back = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    inner.decoder = decoders.Sequence(back if kind == "replaced" else [*back, decoders.Strip(" ", 1, 0)])
    return str(inner.to_str())


def _build(family: str) -> PreTrainedTokenizerFast:
    told = families()[family]
    inner = tokenizers.Tokenizer.from_str(_trained(told["kind"]))
    if "normalizer" in told:
        inner.normalizer = getattr(normalizers, told["normalizer"])()
    special = told["special"]
    inner.add_tokens(
        [
            tokenizers.AddedToken(
                text,
                special=text in special,
                normalized=text in told.get("normalized", ()),
                lstrip=text in told.get("lstrip", ()),
                rstrip=text in told.get("rstrip", ()),
            )
            for text in (*special, *told.get("plain", ()))
        ]
    )
    made = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=told.get("bos"), eos_token=told["eos"])
    if "shipped" in told:
        install_template(made, told["shipped"])
    return made


@pytest.fixture(scope="session")
def family_tokenizer() -> Callable[[str], PreTrainedTokenizerFast]:
    """A fresh tokenizer of a family of families.toml; it has a chat template only where that names a shipped one."""
    return _build
