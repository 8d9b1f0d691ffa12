from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from posttrain.pocket.tokenizer import train_tokenizer

TEXTS = (
    "The capital of France is Paris.",
    " Paris",
    "34 + 52 = 86\n",
    "  two blanks ,  a comma and don't\n\n\ttab ",
    "naïve café — 東京 🙂",
    "2048 x 10.5",
    "",
)


@pytest.fixture(scope="module")
def tokenizer(corpus: list[tuple[str, str]]) -> PreTrainedTokenizerFast:
    return train_tokenizer(text for _, text in corpus[:1500])


@pytest.mark.parametrize("text", TEXTS)
def test_decoding_gives_back_the_text(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_a_saved_tokenizer_gives_the_same_ids(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    for kind in (PreTrainedTokenizerFast, AutoTokenizer):
        loaded = kind.from_pretrained(tmp_path)
        for text in TEXTS:
            assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
            assert loaded.decode(loaded(text)["input_ids"]) == text
        assert (loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id) == (0, 0, 1)


def test_every_digit_is_its_own_token(tokenizer: PreTrainedTokenizerFast) -> None:
    pieces = [tokenizer.decode([token]) for token in tokenizer("In 1999 34 + 52 = 86")["input_ids"]]
    assert [piece for piece in pieces if any(sign.isdigit() for sign in piece)] == list("1999345286")
    assert not [piece for piece in tokenizer.get_vocab() if len(piece) > 1 and any(sign.isdigit() for sign in piece)]


def test_special_tokens_and_size(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer) == 2048
    assert tokenizer.bos_token == tokenizer.eos_token == "<|endoftext|>"
    assert tokenizer.pad_token == "<|pad|>"
    assert tokenizer.chat_template is None
    ids = tokenizer("Paris")["input_ids"]
    assert tokenizer.eos_token_id not in ids
    assert sorted(tokenizer("Paris")) == ["attention_mask", "input_ids"]


def test_the_corpus_is_cut_into_long_pieces(tokenizer: PreTrainedTokenizerFast, corpus: list[tuple[str, str]]) -> None:
    prose = [text for kind, text in corpus[:3000] if kind == "encyclopaedia"]
    assert sum(len(tokenizer(text)["input_ids"]) for text in prose) < 0.35 * sum(len(text) for text in prose)
