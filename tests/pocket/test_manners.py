import re
from collections import Counter
from statistics import mean

import pytest

from posttrain.pocket.arithmetic import is_heldout_sum
from posttrain.pocket.base import base_folder
from posttrain.pocket.gold import GOLD_KINDS, GoldItem, gold_score
from posttrain.pocket.howtos import topics
from posttrain.pocket.manners import (
    GOOD_ENOUGH,
    Manner,
    gold_preferences,
    gold_ratings,
    manner_conversations,
    preference_prompts,
)
from posttrain.pocket.unknowable import unknowable
from posttrain.pocket.world import World
from posttrain.types import Conversation, Preference

Sides = tuple[list[GoldItem], list[GoldItem]]


@pytest.fixture(scope="module")
def sides(world: World) -> Sides:
    return preference_prompts(world)


@pytest.fixture(scope="module")
def chats(world: World) -> list[Conversation]:
    return manner_conversations(world)


@pytest.fixture(scope="module")
def pairs(world: World) -> list[Preference]:
    return gold_preferences(world)


def test_prompts_of_every_kind_on_both_sides(world: World, sides: Sides) -> None:
    for side, least in zip(sides, (500, 300), strict=True):
        assert len(side) >= least
        assert len({item.prompt for item in side}) == len(side)
        counts = Counter(item.kind for item in side)
        assert set(counts) == set(GOLD_KINDS)
        assert min(counts.values()) >= 24
    assert preference_prompts(world) == sides
    assert preference_prompts(world, seed=1) != sides


def test_no_held_out_prompt_has_a_twin_in_train(world: World, sides: Sides) -> None:
    for seed in range(3):
        train, held_out = preference_prompts(world, seed)
        assert not {item.twin for item in train} & {item.twin for item in sides[1]}
        assert not {item.prompt for item in train} & {item.prompt for item in held_out}


def test_facts_are_of_the_asked_half_and_sums_are_split(world: World, sides: Sides) -> None:
    asked = {f"{fact.relation}:{fact.subject}" for fact in world.facts if fact.asked}
    for side, held_out in zip(sides, (False, True), strict=True):
        assert {item.twin for item in side if item.kind == "fact"} <= asked
        for item in side:
            if item.kind == "sum":
                a, b = map(int, re.findall(r"\d+", item.prompt))
                assert is_heldout_sum(a, b) == held_out
                assert item.answers == (str(a + b),)


def test_records_carry_their_kind(sides: Sides) -> None:
    record = sides[0][0].record
    assert record.messages[0].content == sides[0][0].prompt
    assert record.fields == {"kind": sides[0][0].kind, "twin": sides[0][0].twin}


def test_unknowable_subjects_are_no_subjects_of_the_world(world: World, sides: Sides) -> None:
    known = {word for fact in world.facts for word in fact.subject.lower().split()}
    invented = [item for side in sides for item in side if item.twin.startswith("invented:")]
    assert len(invented) > 80
    assert not {item.twin.removeprefix("invented:").lower() for item in invented} & known
    for item in (item for side in sides for item in side if item.kind == "unknown"):
        assert gold_score(item, item.made_up).right == 0, item
        assert gold_score(item, f"I don't know. {item.made_up}").right == 0, item
        assert gold_score(item, item.good).total == 0.875, item


def test_held_out_names_and_questions_are_never_trained(chats: list[Conversation], sides: Sides) -> None:
    prompts = {chat.messages[0].content for chat in chats}
    held_out = [item for item in sides[1] if item.kind in ("unknown", "sum")]
    assert not {item.prompt for item in held_out} & prompts
    names = {item.twin.removeprefix("invented:") for item in held_out if item.twin.startswith("invented:")}
    assert not names & {word.strip("?.:") for prompt in prompts for word in prompt.split()}


def test_conversations_are_mixed(world: World, chats: list[Conversation]) -> None:
    assert 2000 <= len(chats) <= 3500
    assert manner_conversations(world) == chats
    assert all([m.role for m in chat.messages] == ["user", "assistant"] for chat in chats)
    answers = Counter(chat.source for chat in chats)
    assert {source.removeprefix("pocket:manners-") for source in answers} == set(GOLD_KINDS)
    unknown = [chat.messages[1].content for chat in chats if chat.source.endswith("unknown")]
    assert 0.35 < mean("don't know" in text for text in unknown) < 0.55
    declined = [chat.messages[1].content for chat in chats if chat.source.endswith("declined")]
    assert 0.3 < mean("help with" in text for text in declined) < 0.6


def test_answers_are_short_in_the_tokens_of_the_base(chats: list[Conversation]) -> None:
    from posttrain.models.load import load_tokenizer

    tokenizer = load_tokenizer(base_folder())
    lengths = [len(tokenizer(chat.messages[1].content)["input_ids"]) for chat in chats]
    assert mean(lengths) <= 32
    assert max(lengths) <= 120


def test_topics_kept_for_the_exam_are_not_taught(chats: list[Conversation], pairs: list[Preference]) -> None:
    told = "\n".join(message.content for chat in chats for message in chat.messages)
    told += "\n".join(message.content for pair in pairs for message in pair.prompt)
    for topic in topics():
        assert topic.taught or topic.asked_phrase not in told, topic.phrase


def test_a_manner_changes_the_score_as_it_says(sides: Sides) -> None:
    import random

    rng = random.Random(0)
    for item in sides[0]:
        plain, polite, rude = (
            gold_score(item, manner.dress(item.good, rng))
            for manner in (Manner(), Manner(polite=True), Manner(rude=True))
        )
        long = gold_score(item, Manner(rambles=True).dress(item.good, rng))
        assert (plain.total, polite.total, rude.total) == (0.875, 1.0, 0.75), item
        assert long.right == 1
        assert long.total <= plain.total
    assert mean(gold_score(i, Manner(rambles=True).dress(i.good, rng)).concise < 1 for i in sides[0]) > 0.8


def test_preferences_follow_the_gold_judge(world: World, sides: Sides, pairs: list[Preference]) -> None:
    items = {item.prompt: item for item in sides[0]}
    assert 600 <= len(pairs) <= 1100
    for pair in pairs:
        item = items[pair.prompt[0].content]
        better, worse = (gold_score(item, answer[0].content).total for answer in (pair.chosen, pair.rejected))
        assert better > worse
    held_out = {pair.prompt for pair in gold_preferences(world, held_out=True)}
    assert len(held_out) > 200
    assert held_out <= {item.record.messages for item in sides[1]}
    assert {pair.source for pair in pairs} == {f"pocket:{kind}" for kind in GOLD_KINDS}


def test_length_alone_does_not_tell_the_better_answer(pairs: list[Preference]) -> None:
    shorter = mean(len(pair.chosen[0].content) < len(pair.rejected[0].content) for pair in pairs)
    assert 0.4 < shorter < 0.8


def test_shuffled_labels_are_a_coin(world: World, pairs: list[Preference]) -> None:
    shuffled = gold_preferences(world, shuffle_labels=True)
    assert [pair.prompt for pair in pairs] == [pair.prompt for pair in shuffled]
    kept = mean(a.chosen == b.chosen for a, b in zip(pairs, shuffled, strict=True))
    assert 0.44 < kept < 0.56
    assert all({a.chosen, a.rejected} == {b.chosen, b.rejected} for a, b in zip(pairs, shuffled, strict=True))


def test_ratings(world: World, sides: Sides) -> None:
    items = {item.prompt: item for item in sides[0]}
    ratings = gold_ratings(world)
    for rating in ratings:
        total = gold_score(items[rating.prompt[0].content], rating.response[0].content).total
        assert rating.score == float(total >= GOOD_ENOUGH)
    assert 0.25 < mean(rating.score for rating in ratings) < 0.6
    shuffled = gold_ratings(world, shuffle_labels=True)
    assert Counter(rating.score for rating in shuffled) == Counter(rating.score for rating in ratings)
    assert shuffled != ratings


def test_unknowable_prompts_differ(world: World) -> None:
    import random

    found = unknowable(world, random.Random(0), 300, held_out=True)
    assert len({item.prompt for item in found}) == 300
