"""Single tokens as text and bytes: joined they are the text, for byte-level and for sentence-piece vocabularies."""

from types import ModuleType

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from posttrain.serve.spelling import spelling

TEXTS = ("The capital of France is Paris.", "  two  spaces\n", "é€ 😀 ñandú", "")


def pieces() -> PreTrainedTokenizerFast:
    """Sentence-piece as Llama 2 has it: a mark for a space, bytes for what is unknown."""
    words = ["<unk>", "a", "▁a", "▁day", "▁", *(f"<0x{byte:02X}>" for byte in range(256))]
    inner = Tokenizer(
        models.BPE({word: id for id, word in enumerate(words)}, [], unk_token="<unk>", byte_fallback=True)
    )
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")


@pytest.mark.parametrize("text", TEXTS)
def test_bytes_of_tokens_joined_are_the_text(tiny: ModuleType, text: str) -> None:
    tokenizer = tiny.tokenizer()
    spelt = spelling(tokenizer)
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert bytes(byte for id in ids for byte in spelt.bytes(id)).decode() == text
    assert "".join(spelt.text(id) for id in ids) == text or not text.isascii()


def test_sentence_pieces_keep_their_space() -> None:
    tokenizer = pieces()
    spelt, ids = spelling(tokenizer), tokenizer.convert_tokens_to_ids
    assert [spelt.text(ids(word)) for word in ("▁day", "▁a", "a")] == [" day", " a", "a"]
    assert [spelt.bytes(ids(f"<0x{byte:02X}>")) for byte in "é".encode()] == [[0xC3], [0xA9]]


def test_special_and_unknown_ids(tiny: ModuleType) -> None:
    tokenizer = tiny.tokenizer()
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert spelling(tokenizer).text(end) == "<|im_end|>"
    assert spelling(tokenizer).text(99_999) == ""
