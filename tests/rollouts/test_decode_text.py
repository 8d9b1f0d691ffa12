"""Text that is said piece by piece, against the text of the whole answer."""

from types import ModuleType
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from posttrain.rollouts.decode_stops import Answer
from posttrain.rollouts.decode_text import WINDOW, Speech, Vocabulary
from posttrain.rollouts.sampling import Decoding

WORDS = ["▁the", "▁ca", "t", "▁", "▁▁", "s", "▁sat", ".", "é", "漢"]


def sentencepiece() -> Any:
    """Llama 2's way: blanks as ▁, one dropped in front, unknown characters as single bytes."""
    singles = [f"<0x{byte:02X}>" for byte in range(256)]
    vocabulary = {token: number for number, token in enumerate(["<unk>", "</s>", *singles, *WORDS])}
    inner = tokenizers.Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    inner.normalizer = normalizers.Replace(" ", "▁")
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    inner.decoder = decoders.Sequence(steps)
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", unk_token="<unk>")


@pytest.fixture(scope="module")
def tokenizers_both(tiny: ModuleType) -> list[tuple[Any, Vocabulary]]:
    both = [tiny.tokenizer(), sentencepiece()]
    return [(each, Vocabulary.of(each)) for each in both]


def spoken(answer: Answer, vocabulary: Vocabulary, ids: list[int]) -> list[str]:
    speech, pieces = Speech(answer, vocabulary), []
    for token in ids:
        is_over = answer.add(token, 0.0)
        pieces.append(speech.more())
        if is_over:
            break
    return pieces


@settings(max_examples=400)
@given(data=st.data())
def test_pieces_joined_are_the_text(tokenizers_both: list[tuple[Any, Vocabulary]], data: st.DataObject) -> None:
    """Any tokens, broken characters among them; stop strings cut out of what is said, whatever tokens they straddle."""
    tokenizer, vocabulary = tokenizers_both[data.draw(st.integers(0, 1))]
    if data.draw(st.booleans()):
        ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), min_size=1, max_size=2 * WINDOW))
    else:
        words = st.sampled_from([" the cat sat", "😀", "é漢字", "  ", "hours.\n", "aaab", "👩‍👩‍👧", "\ufffd"])
        text = "".join(data.draw(st.lists(words, min_size=1, max_size=9)))
        ids = tokenizer.encode(text, add_special_tokens=False)
    said = tokenizer.decode(ids, skip_special_tokens=True)
    stops = []
    for _ in range(data.draw(st.integers(0, 2)) if said else 0):
        first = data.draw(st.integers(0, len(said) - 1))
        stops.append(said[first : first + data.draw(st.integers(1, 6))])
    min_tokens = data.draw(st.sampled_from([0, 0, 3, 9]))
    decoding = Decoding(999, stop_strings=tuple(stops), stop_token_ids=(data.draw(st.integers(0, 300)),))
    answer = Answer(decoding, len(ids), tokenizer, min_tokens=min_tokens)
    pieces = spoken(answer, vocabulary, ids)
    assert "".join(pieces) == answer.completion().text


def test_a_character_is_said_whole_and_at_once(tiny: ModuleType) -> None:
    tokenizer = tiny.tokenizer()
    ids = tokenizer.encode("a😀b", add_special_tokens=False)
    assert len(ids) == 6, "each byte of the face is a token"
    answer = Answer(Decoding(99), 7, tokenizer)
    assert spoken(answer, Vocabulary.of(tokenizer), ids) == ["a", "", "", "", "😀", "b"]


def test_single_bytes_wait_for_their_end_and_blanks_stay() -> None:
    """A byte that fits nowhere makes marks of all bytes before it, so a run of them is not said before it is over."""
    tokenizer = sentencepiece()
    first = tokenizer.convert_tokens_to_ids
    ids = [first("▁the"), first("<0xC3>"), first("<0xA9>"), first("▁ca"), first("t")]
    answer = Answer(Decoding(99), 9, tokenizer)
    assert spoken(answer, Vocabulary.of(tokenizer), ids) == ["the", "", "", "é ca", "t"]


def test_what_may_become_a_stop_string_waits(tiny: ModuleType) -> None:
    tokenizer = tiny.tokenizer()
    letters = [tokenizer.encode(letter, add_special_tokens=False)[0] for letter in "xENxENDy"]
    answer = Answer(Decoding(99, stop_strings=("END",)), 99, tokenizer)
    assert spoken(answer, Vocabulary.of(tokenizer), letters) == ["x", "", "", "ENx", "", "", ""]
    assert answer.finish == "stop"
    late = Answer(Decoding(99, stop_strings=("END",)), 8, tokenizer, min_tokens=8)
    assert "".join(spoken(late, Vocabulary.of(tokenizer), letters)) == "xENxENDy"
    assert late.finish == "length", "a stop string before min_tokens is text"


def test_long_answers_are_not_read_again_and_again(tiny: ModuleType) -> None:
    """Tokens that go through the tokenizer for each new one stay bounded, also of bytes that never become text."""
    read = []

    class Counted:
        all_special_ids = ()

        def decode(self, ids: list[int], **kwargs: Any) -> str:
            read.append(len(ids))
            return str(tokenizer.decode(ids, **kwargs))

    tokenizer = tiny.tokenizer()
    half = tokenizer.encode("😀", add_special_tokens=False)[1]
    for token in (half, tokenizer.encode("a", add_special_tokens=False)[0]):
        read.clear()
        spoken(Answer(Decoding(999), 999, Counted()), Vocabulary.of(tokenizer), [token] * 500)
        assert max(read) <= WINDOW + 1
        assert sum(read) < 500 * (WINDOW + 8)
