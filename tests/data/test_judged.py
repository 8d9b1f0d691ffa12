"""From judgements to trees of answers: what is compared, what weighs how much, and what is left out."""

from types import ModuleType
from typing import Any

import pytest

from posttrain.data.batch import pack
from posttrain.data.judged import EMPTY, SAME, TIED, UNDECIDED, UNRANKED, Choice, for_pairs, for_ratings, render_choices
from posttrain.data.mismatched import Mismatched
from posttrain.data.prepare import prepare_records
from posttrain.data.template import render, render_prompt
from posttrain.errors import DataError
from posttrain.types import (
    Conversation,
    Document,
    Message,
    MessageTree,
    Pair,
    Preference,
    Ranking,
    Rating,
    Record,
    Sample,
    Segment,
    Turn,
)

QUESTION = (Message("user", "which one"),)


def said(text: str) -> tuple[Message, ...]:
    return (Message("assistant", text),)


def pair(chosen: str, rejected: str, prompt: str = "which one", **known: float) -> Preference:
    return Preference((Message("user", prompt),), said(chosen), said(rejected), "file:1", **known)


def one(records: list[Record]) -> tuple[Choice | None, str]:
    (found,) = for_pairs(records)
    return found


def test_a_preference_is_one_pair_with_all_that_is_known_of_it() -> None:
    choice, why = one([pair("a", "b", label=0.8, margin=1.5, weight=2.0)])
    assert not why
    assert choice is not None
    assert choice.answers == (said("a"), said("b"))
    assert choice.pairs == (Pair(0, 1, 0.8, 1.5, 2.0),)


def test_the_pairs_of_a_ranking_share_its_weight_and_ties_are_not_compared() -> None:
    choice, _ = one([Ranking(QUESTION, (said("a"), said("b"), said("c"), said("d")), (1, 0, 1, 2), weight=3.0)])
    assert choice is not None
    assert {(p.better, p.worse) for p in choice.pairs} == {(1, 0), (1, 2), (1, 3), (0, 3), (2, 3)}
    assert sum(p.weight for p in choice.pairs) == pytest.approx(3.0)
    assert len({p.weight for p in choice.pairs}) == 1


def test_ratings_of_one_prompt_in_one_row_are_a_ranking() -> None:
    rows: list[Record] = [Rating(QUESTION, said(text), score) for text, score in (("a", 0), ("b", 1), ("c", 0))]
    choice, _ = one(rows)
    assert choice is not None
    assert {(p.better, p.worse) for p in choice.pairs} == {(1, 0), (1, 2)}


def test_every_message_of_a_tree_with_ranked_replies_is_a_comparison() -> None:
    deep = Turn(Message("user", "more"), None, (Turn(said("x")[0], 1.0), Turn(said("y")[0], 0.0)))
    root = Turn(QUESTION[0], None, (Turn(said("a")[0], 0.0, (deep,)), Turn(said("b")[0], 1.0), Turn(said("c")[0])))
    found = [choice for choice, _ in for_pairs([MessageTree(root)])]
    assert [choice.answers for choice in found if choice] == [(said("a"), said("b")), (said("x"), said("y"))]
    assert found[1] is not None
    assert found[1].prompt == (*QUESTION, *said("a"), Message("user", "more"))
    assert [(p.better, p.worse) for p in found[1].pairs] == [(1, 0)]


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (pair("a", "a"), SAME),
        (Ranking(QUESTION, (said("a"), said("b")), (1, 1)), TIED),
        (Ranking(QUESTION, (said("a"), said("a")), (0, 1)), SAME),
        (pair("a", " "), EMPTY),
        (MessageTree(Turn(QUESTION[0], None, (Turn(said("a")[0], 0.0),))), UNRANKED),
        (Rating(QUESTION, said("a"), 1), "nothing was compared"),
        (Conversation((*QUESTION, *said("a"))), "nothing was compared"),
        (Document("text"), "nothing was compared"),
    ],
)
def test_what_compares_nothing_is_left_out_by_reason(record: Record, why: str) -> None:
    assert one([record]) == (None, why)


def test_ratings_for_kto() -> None:
    records: list[Record] = [
        Rating(QUESTION, said("a"), 1),
        Rating(QUESTION, said("b"), 3),
        pair("c", "d"),
        pair("e", "f", label=0.2),
        Ranking(QUESTION, (said("g"), said("h"), said("i")), (0, 1, 2)),
        pair("j", "k", label=0.5),
    ]
    found = list(for_ratings(records))
    kept = {choice.answers[0][0].content: choice.scores[0] for choice, _ in found if choice}
    assert kept == {"a": 1, "c": 1, "d": 0, "e": 0.2, "f": 0.8, "g": 1, "i": 0}
    assert [why for choice, why in found if choice is None] == [UNDECIDED, TIED]


def test_a_tree_holds_the_prompt_once_and_every_answer_as_it_would_be_trained_alone(tiny: ModuleType) -> None:
    tokenizer = tiny.tokenizer()
    ((tree, is_long, lost),) = fitted(tokenizer, [Choice(QUESTION, (said("yes it is"), said("no")), (Pair(0, 1),))])
    assert not is_long
    assert not lost
    assert list(tree.segments[0].token_ids) == render_prompt(QUESTION, tokenizer)
    for answer, segment in zip(("yes it is", "no"), tree.segments[1:], strict=True):
        alone = render(Conversation((*QUESTION, *said(answer))), tokenizer).segments[0]
        whole = tree.segments[0].token_ids + segment.token_ids
        assert whole == alone.token_ids[: len(whole)]
        assert not any(alone.weights[len(whole) :])
        assert segment.weights == (1.0,) * len(segment.token_ids)
        assert segment.parent == 0


def test_what_an_assistant_said_before_is_not_trained_and_a_message_weight_does_not_tilt(tiny: ModuleType) -> None:
    prompt = (Message("user", "a"), Message("assistant", "b"), *QUESTION)
    answers = ((Message("assistant", "yes", weight=0.2),), said("no"))
    ((tree, _, _),) = fitted(tiny.tokenizer(), [Choice(prompt, answers, (Pair(0, 1),))])
    assert not any(tree.segments[0].weights)
    assert all(weight == 1 for segment in tree.segments[1:] for weight in segment.weights)


def test_a_long_answer_is_cut_or_dropped_and_one_without_room_is_left_out(tiny: ModuleType) -> None:
    tokenizer = tiny.tokenizer()
    choice = Choice(QUESTION, (said("word " * 40), said("no")), (Pair(0, 1),))
    room = len(render_prompt(QUESTION, tokenizer)) + 6
    ((tree, is_long, lost),) = fitted(tokenizer, [choice], max_length=room)
    assert is_long
    assert lost
    assert len(tree.segments[1].token_ids) == 6
    assert tree.pairs == choice.pairs
    assert render_choices([choice], tokenizer, max_length=room, truncation="drop") == [None]
    assert render_choices([choice], tokenizer, max_length=room - 6, truncation="keep_start") == [None]
    alike = Choice(QUESTION, (said("word " * 40), said("word " * 30)), (Pair(0, 1),))
    assert render_choices([alike], tokenizer, max_length=room, truncation="keep_start") == [None]


def test_turns_that_a_template_shows_in_two_ways_cannot_be_compared(tiny: ModuleType) -> None:
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}!{% endif %}"
        "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    answer = (*said("yes"), Message("user", "sure"), *said("yes"))
    (found,) = render_choices(
        [Choice(QUESTION, (answer, said("no")), (Pair(0, 1),), source="file:7")],
        tokenizer,
        max_length=512,
        truncation="keep_start",
    )
    assert isinstance(found, DataError)
    assert str(found).startswith("file:7: the answer has several turns")


def test_a_batch_numbers_answers_over_all_its_trees() -> None:
    first = Sample((segment(3), segment(2, 0), segment(4, 0)), pairs=(Pair(1, 0, 0.7, 0.5, 2.0),))
    second = Sample((segment(2), segment(1, 0), segment(2, 0), segment(3, 0)), pairs=(Pair(0, 1), Pair(0, 2)))
    batch = pack([first, second])
    known = batch.judged
    assert known is not None
    assert known.better_M.tolist() == [1, 2, 2]
    assert known.worse_M.tolist() == [0, 3, 4]
    assert known.label_M.tolist() == pytest.approx([0.7, 1, 1])
    assert known.margin_M.tolist() == [0.5, 0, 0]
    assert known.weight_M.tolist() == [2, 1, 1]
    assert known.last_A.tolist() == [4, 8, 11, 13, 16]
    assert known.answer_N.tolist() == [0] * 2 + [1] * 4 + [2] + [3] * 2 + [4] * 3


@pytest.mark.parametrize("pairs", [(Pair(0, 2),), (Pair(-1, 0),), (Pair(1, 1),)])
def test_pairs_of_answers_that_are_not_there(pairs: tuple[Pair, ...]) -> None:
    with pytest.raises(ValueError, match="does not compare two of the 2 answers"):
        Sample((segment(1), segment(1, 0), segment(1, 0)), pairs=pairs)


def test_prepared_pairs_come_back_as_they_were(tiny: ModuleType) -> None:
    records: list[Record] = [pair("a", "b", label=0.9), Ranking(QUESTION, (said("a"), said("b"), said("c")), (2, 1, 0))]
    prepared = prepare_records(records, tiny.tokenizer(), max_length=64, kind="pairs")
    assert [len(sample.pairs) for sample in prepared.store] == [1, 3]
    assert prepared.store[0].pairs[0].label == 0.9
    assert [(p.better, p.worse) for p in prepared.store[1].pairs] == [(1, 0), (2, 0), (2, 1)]
    assert len(set(prepared.store.group_S.tolist())) == 1


def test_mismatched_answers_are_those_of_other_prompts_each_once(tiny: ModuleType) -> None:
    records: list[Record] = [Rating((Message("user", f"q {i // 2}"),), said(f"answer {i}"), i % 2) for i in range(12)]
    store = prepare_records(records, tiny.tokenizer(), max_length=64, kind="ratings").store
    mixed = Mismatched(store, max_length=64, seed=3)
    assert sorted(mixed.partner_S.tolist()) == list(range(12))
    for index, partner in enumerate(mixed.partner_S.tolist()):
        assert store.group_S[partner] != store.group_S[index]
        assert mixed[index].segments == (store[index].segments[0], store[partner].segments[1])
        assert mixed[index].scores == store[index].scores
    assert (Mismatched(store, max_length=64, seed=3).partner_S == mixed.partner_S).all()


def test_one_prompt_alone_has_no_mismatched_answer(tiny: ModuleType) -> None:
    records: list[Record] = [Rating(QUESTION, said(f"answer {i}"), i % 2) for i in range(4)]
    store = prepare_records(records, tiny.tokenizer(), max_length=64, kind="ratings").store
    with pytest.raises(DataError, match="all answers are to one prompt"):
        Mismatched(store, max_length=64)


def fitted(tokenizer: Any, choices: list[Choice], max_length: int = 256) -> list[tuple[Sample, bool, bool]]:
    found = render_choices(choices, tokenizer, max_length=max_length, truncation="keep_start")
    return [each for each in found if isinstance(each, tuple)]


def segment(length: int, parent: int = -1) -> Segment:
    weight = 0.0 if parent < 0 else 1.0
    return Segment(tuple(range(length)), (weight,) * length, parent)
