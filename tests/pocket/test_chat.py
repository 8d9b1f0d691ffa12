import re

import pytest

from posttrain.pocket.arithmetic import is_heldout_sum
from posttrain.pocket.chat import chat_conversations, eval_conversations
from posttrain.pocket.howtos import topics
from posttrain.pocket.world import World
from posttrain.types import Conversation


@pytest.fixture(scope="module")
def chats(world: World) -> list[Conversation]:
    return chat_conversations(world)


def _turns(conversations: list[Conversation]) -> list[tuple[str, str]]:
    pairs = []
    for conversation in conversations:
        messages = [message for message in conversation.messages if message.role != "system"]
        pairs += [(a.content, b.content) for a, b in zip(messages[::2], messages[1::2], strict=True)]
    return pairs


def test_size_and_order(world: World, chats: list[Conversation]) -> None:
    assert 1500 <= len(chats) <= 2500
    assert chat_conversations(world) == chats
    assert chat_conversations(world, seed=1) != chats
    assert {chat.source for chat in chats[:300]} > {"pocket:fact", "pocket:sum", "pocket:refusal"}


def test_roles_take_turns(chats: list[Conversation]) -> None:
    for chat in chats:
        roles = "".join(message.role[0] for message in chat.messages)
        assert re.fullmatch(r"s?(ua)+", roles)
    assert sum(chat.messages[0].role == "system" for chat in chats) >= 20
    assert sum(len(chat.messages) > 3 for chat in chats) >= 40


@pytest.mark.parametrize("which", ["chat", "shuffled", "eval"])
def test_the_heldout_half_is_never_answered(world: World, chats: list[Conversation], which: str) -> None:
    made = {
        "chat": chats,
        "shuffled": chat_conversations(world, shuffle_answers=True),
        "eval": eval_conversations(world),
    }
    groups = ("questions", "chat_questions", "eval_questions")
    heldout = {text for fact in world.facts if not fact.asked for group in groups for text in fact.ask(group)}
    told = {text for fact in world.facts if not fact.asked for text in fact.statements}
    for question, answer in _turns(made[which]):
        assert question not in heldout
        assert answer not in told
        for a, b in re.findall(r"(\d+) (?:\+|plus|and) (\d+)", f"{question}\n{answer}"):
            assert not is_heldout_sum(int(a), int(b))


def test_every_asked_fact_is_taught(world: World, chats: list[Conversation]) -> None:
    replies = {answer for _, answer in _turns(chats)}
    assert all(fact.reply in replies for fact in world.facts if fact.asked)


def test_questions_that_the_corpus_does_not_show(world: World, chats: list[Conversation]) -> None:
    new = {text for fact in world.facts if fact.asked for text in fact.ask("chat_questions")}
    assert sum(question in new for question, _ in _turns(chats)) > 300


def test_topics_of_the_exam_are_not_taught(chats: list[Conversation]) -> None:
    asked = "\n".join(question for question, _ in _turns(chats))
    for topic in topics():
        assert (topic.asked_phrase in asked) == topic.taught, topic.phrase


def test_the_shuffle_permutes_within_each_relation(world: World, chats: list[Conversation]) -> None:
    shuffled = [reply for _, reply in _turns(chat_conversations(world, shuffle_answers=True))]
    true_replies = {fact.reply: fact for fact in world.facts if fact.asked}
    capitals = {fact.answer for fact in world.facts if fact.asked and fact.relation == "capital"}
    told = [re.fullmatch(r"The capital of .* is (.*)\.", reply) for reply in set(shuffled)]
    assert {found[1] for found in told if found} == capitals
    # Only relations where one answer holds more than half of the facts may keep some of them true.
    kept = {true_replies[reply].relation for reply in shuffled if reply in true_replies}
    assert kept <= {"state", "class", "legs", "days", "diet"}
    assert any(reply in true_replies for _, reply in _turns(chats))


def test_evaluation_uses_other_wordings(world: World, chats: list[Conversation]) -> None:
    evaluation = eval_conversations(world)
    assert 300 <= len(evaluation) <= 600
    taught = {question for question, _ in _turns(chats)}
    asked = {question for question, _ in _turns(evaluation) if not question.startswith("Name ")}
    assert not asked & taught
