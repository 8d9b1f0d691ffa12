import re
import time

import pytest

from posttrain.serve.guard_automaton import Automaton
from posttrain.serve.guard_regex import MAX_STEPS, of_phrases, one_of, read_regex
from posttrain.serve.guard_text import fold


@pytest.mark.parametrize(
    ("regex", "said"),
    [
        ("a+", "without an end"),
        ("a*", "without an end"),
        ("(?:a{0,9}){0,9}b", "steps"),
        ("(?:a|aa){1,40}b", "steps"),
        (r"(?:\w{1,20}\s?){1,20}x", "steps"),
        (r"(a)\1", "matched before"),
        ("a?", "nothing at all"),
        (r"\b", "nothing at all"),
        ("(", "no regular expression"),
        ("(?m)^a", "flag"),
        ("(?<=a|bc)d", "look-behind"),
        ("[\U0001f130-é]x", "bad character range|range"),
        (".{5000}", "span"),
        ("[ßx]", "write it apart"),
    ],
)
def test_refused(regex: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_regex(regex)


@pytest.mark.parametrize(
    ("regex", "holds", "text", "match"),
    [
        (r"\bkill\b", None, "Don't KILL it", "kill"),
        (r"Straße \d{1,3}", None, "STRASSE  12", "strasse 12"),
        ("[ÉÜ]x", None, "éX", "ex"),
        ("[А-Яё]{3}", None, "Ёлка", "елк"),
        (r"foo.*bar", 5, "foo12345bar foobar", "foo12345bar"),
        (r"foo.*bar", 4, "foo12345bar foobar", "foobar"),
        (r"a\nb", None, "a\r\nb", "a b"),
        ("(?:un)?lock(?!ed)", None, "locked unlock", "unlock"),
        ("(?>a|ab)c", None, "abc ac", "ac"),
        (r"(?i:A)(?s:.)b", None, "axb", "axb"),
        ("^ab$", None, "AB", "ab"),
    ],
)
def test_matches_in_folded_text(regex: str, holds: int | None, text: str, match: str) -> None:
    found = read_regex(regex, holds=holds)
    got = re.search(found.text, fold(text), re.IGNORECASE)
    assert got is not None
    assert got.group() == match
    assert found.least <= len(match) <= found.width


@pytest.mark.parametrize(
    ("regex", "width", "ahead"),
    [("abc", 3, 0), (r"a{2,5}\b", 5, 1), ("ab(?!cde)", 2, 3), ("a|bcd", 3, 0), ("a$", 1, 1)],
)
def test_widths(regex: str, width: int, ahead: int) -> None:
    found = read_regex(regex)
    assert (found.width, found.ahead) == (width, ahead)


@pytest.mark.parametrize("regex", [r"(?:\w{1,20} ){0,5}bomb", r"\w{1,64}@\w{1,64}\.com", "a{0,40}a{0,40}b"])
def test_what_is_taken_is_fast_on_hostile_text(regex: str) -> None:
    found = re.compile(read_regex(regex).text, re.IGNORECASE)
    assert read_regex(regex).steps <= MAX_STEPS
    began = time.thread_time()
    for text in ("a" * 1500, "a " * 750, "aaa@" * 375):
        assert found.search(text) is None
    assert time.thread_time() - began < 2  # the bound allows 20,000 steps at each of 4,500 places


def test_phrases() -> None:
    found = re.compile(of_phrases([fold(text) for text in ("make a bomb", "bomb", "<|im_start|>", "爆弾")]).text)
    assert found.search("a bombast") is None
    assert found.search("do make a bomb").group() == "make a bomb"  # type: ignore[union-attr]
    assert found.search("x<|im_start|>y") is not None
    assert found.search(fold("この爆弾は")) is not None
    assert re.search(of_phrases(["bomb"], borders=False).text, "bombast") is not None


def test_one_of_is_as_wide_as_the_widest() -> None:
    found = one_of([read_regex("abc"), of_phrases(["xy"])])
    assert (found.width, found.ahead, found.behind) == (3, 1, 1)
    assert re.search(found.text, "xyz xy").start() == 4  # type: ignore[union-attr]


def test_a_long_expression_and_a_deep_one() -> None:
    Automaton([read_regex("a" * 3000).tree])
    with pytest.raises(ValueError, match=r"no regular expression|nothing at all"):
        read_regex("(?:" * 900 + ")" * 900)
