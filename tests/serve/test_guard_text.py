import itertools
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.serve.guard_text import Folder, fold

LETTERS = st.text(st.sampled_from("aAbß ﬁÉe\u0301\u200b\u00adＢ\n\tİが①क्षि한"), max_size=30)


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("Ｂｏｍｂ", "bomb"),
        ("b\u200bo\u00adm\ufe0fb", "bomb"),
        ("bo\u0308mb", "bomb"),
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
        ("a \n\t\u3000 b", "a b"),
        ("ﬁre ①", "fire 1"),
        ("\U000e0062x", "x"),
    ],
)
def test_fold(text: str, folded: str) -> None:
    assert fold(text) == folded


@given(LETTERS, st.lists(st.integers(0, 30), max_size=5))
@settings(max_examples=60, deadline=None)
def test_however_it_is_cut(text: str, cuts: list[int]) -> None:
    whole, folder = Folder(), Folder()
    whole.add(text)
    ends = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    for begin, end in itertools.pairwise(ends):
        folder.add(text[begin:end])
    assert (folder.text, folder.places) == (whole.text, whole.places)
    assert len(whole.text) == len(whole.places)
    assert whole.places == sorted(whole.places)


@given(LETTERS)
@settings(max_examples=60, deadline=None)
def test_equal_under_nfkc_folds_alike(text: str) -> None:
    assert fold(unicodedata.normalize("NFKC", text)) == fold(text)
