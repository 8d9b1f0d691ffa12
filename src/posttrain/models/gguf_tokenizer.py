"""A tokenizer as llama.cpp reads it: tokens with their types, merges, the pre-tokenizer's name, special tokens, and the
chat template."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.errors import ModelError
from posttrain.models.gguf_pieces import is_sentence_pieces, piece_fields
from posttrain.models.gguf_splits import splits_name

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""llama.cpp's types of tokens."""
STOPS = ("eos_token_id", "eot_token_id", "eom_token_id")
"""Fields of tokens that end an answer, after `tokenizer.ggml.`."""
NO_BOS = "{%- set bos_token = none -%}"
"""Stands before a template that asks for a first token where the tokenizer has none: llama.cpp would give token 11."""


def tokenizer_fields(tokenizer: Any, num_rows: int, stop_ids: Sequence[int]) -> tuple[dict[str, Any], list[str]]:
    """All fields of a tokenizer, and what should be told. `num_rows`: of the model's embedding, padded with tokens that
    nothing says. `stop_ids`: what ends an answer. ModelError for a tokenizer that llama.cpp cannot be made to follow.
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    told: list[str] = []
    if is_sentence_pieces(state):
        words = piece_fields(tokenizer, state, token_lists(tokenizer, num_rows), told)
    else:
        words = _byte_level_fields(tokenizer, state, num_rows, told)
    fields = {f"tokenizer.ggml.{key}": value for key, value in words.items()}
    fields |= {f"tokenizer.ggml.{key}": value for key, value in _special_fields(tokenizer, stop_ids).items()}
    template = tokenizer.chat_template
    if template is not None:
        if not isinstance(template, str):
            raise ModelError("the tokenizer has several chat templates; a GGUF file holds one: keep the one to use.")
        if tokenizer.bos_token_id is None and "bos_token" in template:
            template = NO_BOS + template
        fields["tokenizer.chat_template"] = template
    return fields, told


def _byte_level_fields(tokenizer: Any, state: Mapping[str, Any], num_rows: int, told: list[str]) -> dict[str, Any]:
    model, normalizer = state["model"], state["normalizer"]
    if model["type"] != "BPE" or model.get("byte_fallback") or model.get("continuing_subword_prefix"):
        raise ModelError(
            f"the tokenizer is a {model['type']} that is neither byte-level BPE nor Llama's SentencePiece BPE, "
            "which are the two that can be written as GGUF here."
        )
    if normalizer is not None and normalizer.get("type") != "NFC":
        raise ModelError(f"llama.cpp changes no text before it cuts it, this tokenizer does: {json.dumps(normalizer)}")
    if normalizer is not None:
        told.append("the tokenizer brings text into NFC first and llama.cpp does not: decomposed letters differ")
    return {
        "model": "gpt2",
        "pre": splits_name(tokenizer.backend_tokenizer),
        **token_lists(tokenizer, num_rows),
        "merges": [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]],
    }


def token_lists(tokenizer: Any, num_rows: int) -> dict[str, list[Any]]:
    """`tokens` and `token_type`, a row of the embedding each. ModelError where tokens have no row."""
    known: dict[str, int] = tokenizer.get_vocab()
    added = tokenizer.added_tokens_decoder
    if max(known.values()) >= num_rows:
        raise ModelError(f"token {max(known.values())} of the tokenizer has no row: the embedding has {num_rows:,}.")
    tokens = [f"[PAD{number}]" for number in range(num_rows)]
    types = [UNUSED] * num_rows
    for text, number in known.items():
        tokens[number], types[number] = text, NORMAL
    for number, token in added.items():
        tokens[number], types[number] = token.content, CONTROL if token.special else USER_DEFINED
    if len(set(tokens)) < len(tokens):
        raise ModelError("two tokens of the tokenizer have one text, which llama.cpp cannot tell apart.")
    return {"tokens": tokens, "token_type": types}


def _special_fields(tokenizer: Any, stop_ids: Sequence[int]) -> dict[str, Any]:
    """Special tokens by id. The tokenizer's own end of text stays `eos`, as templates may write it; other stop tokens
    are the end of a turn, then of a message."""
    eos = tokenizer.eos_token_id
    stops = list(dict.fromkeys([*([] if eos is None else [eos]), *stop_ids]))
    if not stops:
        raise ModelError(
            "nothing ends an answer: the tokenizer has no end-of-text token, and llama.cpp would take one."
        )
    if len(stops) > len(STOPS):
        raise ModelError(f"{len(stops)} tokens end an answer and a GGUF file names {len(STOPS)}: {stops}.")
    found: dict[str, Any] = dict(zip(STOPS, map(int, stops), strict=False))
    if tokenizer.bos_token_id is not None:
        found["bos_token_id"] = int(tokenizer.bos_token_id)
    if tokenizer.pad_token_id is not None:
        found["padding_token_id"] = int(tokenizer.pad_token_id)
    if tokenizer.unk_token_id is not None:
        found["unknown_token_id"] = int(tokenizer.unk_token_id)
    return found | {"add_bos_token": _begins(tokenizer), "add_eos_token": False}


def _begins(tokenizer: Any) -> bool:
    """Whether a prompt begins with the tokenizer's first token: as its template renders one, else as it has one.
    llama.cpp puts it there itself, and takes away the template's own."""
    if tokenizer.bos_token_id is None:
        return False
    if tokenizer.chat_template is None:
        return True
    asked = [{"role": "user", "content": "a"}]
    text: str = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    return text.startswith(tokenizer.bos_token)
