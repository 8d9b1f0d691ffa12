import itertools
import random
import re
import threading

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from posttrain.serve import guard_automaton
from posttrain.serve.guard_patterns import AT_ONCE, PatternRule, Patterns
from posttrain.serve.guard_regex import of_phrases, read_regex
from posttrain.serve.guard_text import Folder, fold

PHRASES = ("ab", "abc", "b c", "a b", "ca", "c", "bb", "ass", "fi")
REGEXES = (r"\bab\b", r"a.{0,5}c", r"(?:a|b){2,20}c", r"\bb+ c", r"a(?!b)", r"(?<=a)c", r"c$", "^a", r"[^a-b ]{2,3}",
           r"\bc", r"a?b?c", r"fi\B", r"(?:ab){1,3}? c", r"a.{15}c")  # fmt: skip
TEXTS = st.text(st.sampled_from("abc  \u200bAB\u0301ﬁß\n."), max_size=60)
SOME = st.lists(st.sampled_from(PHRASES), min_size=1, max_size=2)
RULES = st.lists(
    st.tuples(
        st.one_of(
            st.lists(st.sampled_from(PHRASES), min_size=1, max_size=2).map(of_phrases),
            st.lists(st.sampled_from(PHRASES), min_size=1, max_size=2).map(
                lambda each: of_phrases(each, borders=False)
            ),
            st.sampled_from(REGEXES).map(lambda regex: read_regex(regex, holds=4)),
        ),
        st.sampled_from([None, None, "#", ""]),
    ),
    min_size=1,
    max_size=3,
).map(lambda rows: [PatternRule(name=f"{n}", expression=e, replacement=put) for n, (e, put) in enumerate(rows)])


def streamed(rules: list[PatternRule], pieces: list[str]) -> tuple[str, list[tuple[str, str, int]]]:
    stage = Patterns(rules).stage()
    text = "".join(map(stage.feed, pieces))
    return text + stage.end(), [(found.rule, found.action, found.place) for found in stage.found]


def expected(rules: list[PatternRule], text: str) -> tuple[str, bool]:
    """By `re` over the whole folded text; and whether anything matched."""
    folder = Folder()
    folder.add(text)
    together = "|".join(f"(?P<r{number}>{rule.expression.text})" for number, rule in enumerate(rules))
    out, sent, any_match = "", 0, False
    for match in re.finditer(together, folder.text, re.IGNORECASE):
        any_match = True
        begin, end = folder.places[match.start()], folder.places[match.end() - 1] + 1
        out, sent = out + text[sent:begin], max(sent, begin)
        replacement = rules[int(str(match.lastgroup)[1:])].replacement
        if replacement is None:
            return out, True
        if end > sent:
            out, sent = out + replacement, end
    return out + text[sent:], any_match


def cut(text: str, places: list[int]) -> list[str]:
    ends = [0, *sorted(min(place, len(text)) for place in places), len(text)]
    return [text[begin:end] for begin, end in itertools.pairwise(ends)]


@given(RULES, TEXTS, st.lists(st.integers(0, 60), max_size=12))
@settings(max_examples=250, deadline=None)
def test_any_pieces_give_what_the_whole_text_gives(rules: list[PatternRule], text: str, places: list[int]) -> None:
    whole, any_match = expected(rules, text)
    found = streamed(rules, cut(text, places))
    assert found[0] == whole
    assert found == streamed(rules, list(text)) == streamed(rules, [text])
    if not any_match:
        assert found == (text, [])


@given(st.text(max_size=80), st.lists(st.integers(0, 80), max_size=8))
@example("kill him", [2])
@settings(max_examples=60, deadline=None)
def test_no_phrase_goes_out(text: str, places: list[int]) -> None:
    phrases = ["kill him", "e", "0"]
    rule = PatternRule(name="words", expression=of_phrases(phrases, borders=False))
    out, found = streamed([rule], cut(text, places))
    assert text.startswith(out)
    assert not any(phrase in fold(out) for phrase in phrases)
    assert bool(found) == any(phrase in fold(text) for phrase in phrases)
    assert found or out == text


def test_harmless_text_is_not_held_back() -> None:
    rule = PatternRule(name="r", expression=read_regex(r"\bmake (?:\w{1,20} ){0,5}bomb"))
    stage = Patterns([rule]).stage()
    assert "".join(map(stage.feed, "The weather is fine. ")) == "The weather is fine. "
    assert stage.feed("They make") == "They "  # that may become one
    assert stage.feed(" tea, ") == "make tea, "


def test_no_more_is_held_back_than_a_pattern_spans() -> None:
    rule = PatternRule(name="r", expression=read_regex("a.{0,40}b"))
    stage, sent = Patterns([rule]).stage(), 0
    for number in range(1, 2000):
        sent += len(stage.feed("a"))
        assert number - sent <= rule.expression.width + AT_ONCE


def test_hostile_texts_leave_few_states(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard_automaton, "MAX_STATES", 50)
    monkeypatch.setattr(guard_automaton, "MAX_STEPS", 300)
    rules = [PatternRule(name=c, expression=read_regex(f"{c}.{{0,5}}{c}{c}x")) for c in "abcde"]
    patterns, rng = Patterns(rules), random.Random(0)
    text = "".join(rng.choice("abcdefgh") + chr(rng.randrange(0x400, 0x3000)) for _ in range(3000))
    stage = patterns.stage()
    assert "".join(map(stage.feed, text)) + stage.end() == text
    assert len(patterns.automaton.states) <= 51
    assert sum(map(len, patterns.automaton.states.values())) <= 301


def test_the_first_match_counts_then_the_first_rule() -> None:
    first = PatternRule(name="first", expression=of_phrases(["b c"]), told="no")
    second = PatternRule(name="second", expression=of_phrases(["a b", "b c d"]))
    assert streamed([first, second], ["a b c d"]) == ("", [("second", "refuse", 0)])
    assert streamed([first, second], ["x b c d"]) == ("x ", [("first", "refuse", 2)])


def test_nothing_goes_out_behind_a_refusal() -> None:
    stage = Patterns([PatternRule(name="r", expression=of_phrases(["bad"]))]).stage()
    assert stage.feed("a bad ") + stage.feed("x" * 100) == "a "
    assert (stage.feed("more"), stage.end()) == ("", "")


def test_threads_share_the_automaton() -> None:
    rules = [PatternRule(name=f"{n}", expression=of_phrases([f"word{n} x"])) for n in range(30)]
    patterns, outs = Patterns(rules), []
    text = " ".join(f"word{n % 37} y" for n in range(400)) + " word7 x"

    def work(step: int) -> None:
        stage = patterns.stage()
        outs.append("".join(stage.feed(text[at : at + step]) for at in range(0, len(text), step)) + stage.end())

    threads = [threading.Thread(target=work, args=(step,)) for step in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(outs) == {text[: -len("word7 x")]}
    assert len(outs) == 8
