"""What of each record is trained in supervised fine-tuning, and why the rest is not."""

import random

import pytest

from posttrain.data.convert import for_sft
from posttrain.types import (
    Conversation,
    Document,
    Message,
    MessageTree,
    Preference,
    Principle,
    Prompt,
    Ranking,
    Rating,
    Record,
    ToolCall,
    Turn,
)

ASK, SAY, NO = Message("user", "Where?"), Message("assistant", "Here."), Message("assistant", "There.")
EMPTY = Message("assistant", " \n")
CALL = Message("assistant", "", tool_calls=(ToolCall("find"),))
TOOLS = ({"type": "function", "function": {"name": "find"}},)


def trained(record: Record) -> Conversation:
    item, why = for_sft(record)
    assert isinstance(item, Conversation)
    assert why == ""
    return item


def test_conversations_and_documents_are_trained_as_they_are() -> None:
    for record in (Conversation((ASK, SAY), "a:1", TOOLS), Conversation((ASK, CALL)), Document("Once.")):
        assert for_sft(record) == (record, "")


def test_a_preference_trains_its_chosen_answer() -> None:
    record = Preference((ASK,), (SAY, ASK, SAY), (NO,), "a:1", TOOLS)
    assert trained(record) == Conversation((ASK, SAY, ASK, SAY), "a:1", TOOLS)


def test_a_ranking_trains_its_best_answer() -> None:
    rng = random.Random(0)
    for _ in range(50):
        ranks = [float(rng.randrange(4)) for _ in range(rng.randint(2, 6))]
        answers = tuple((Message("assistant", str(i)),) for i in range(len(ranks)))
        best = next(i for i, rank in enumerate(ranks) if all(rank <= other for other in ranks))
        found = trained(Ranking((ASK,), answers, tuple(ranks), "a:1"))
        assert found == Conversation((ASK, Message("assistant", str(best))), "a:1")


@pytest.mark.parametrize(
    ("score", "why"),
    [
        (1.0, ""),
        (0.0, "the answer is rated bad"),
        (0.99, "the rating is neither good (1) nor bad (0)"),
        (4.0, "the rating is neither good (1) nor bad (0)"),
    ],
)
def test_a_rating_trains_what_is_good(score: float, why: str) -> None:
    expected = None if why else Conversation((ASK, SAY), "a:1", TOOLS)
    assert for_sft(Rating((ASK,), (SAY,), score, "a:1", TOOLS)) == (expected, why)


@pytest.mark.parametrize("kind", [Preference, Ranking, Rating])
def test_nobody_judged_what_was_said_before(kind: type) -> None:
    prompt = (ASK, NO, ASK)
    record = {
        Preference: Preference(prompt, (SAY,), (NO,)),
        Ranking: Ranking(prompt, ((NO,), (SAY,)), (1.0, 0.0)),
        Rating: Rating(prompt, (SAY,), 1.0),
    }[kind]
    messages = trained(record).messages
    assert messages == (ASK, Message("assistant", "There.", weight=0.0), ASK, SAY)


def test_a_tree_trains_its_best_path() -> None:
    worse, best = Turn(NO, 1.0), Turn(SAY, 0.0, (Turn(ASK, None, (Turn(NO), Turn(SAY, 3.0))),))
    record = MessageTree(Turn(ASK, None, (worse, best)), "a:1")
    assert trained(record) == Conversation((ASK, SAY, ASK, SAY), "a:1")


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (Conversation((ASK, EMPTY)), "no assistant says anything"),
        (Conversation((ASK,)), "no assistant says anything"),
        (Prompt((ASK,), answer="Here."), "a prompt without an answer to train on"),
        (Preference((ASK,), (EMPTY,), (NO,)), "the chosen answer is empty"),
        (Ranking((ASK,), ((EMPTY,), (NO,)), (0.0, 1.0)), "the best answer is empty"),
        (Rating((ASK,), (EMPTY,), 1.0), "the answer rated good is empty"),
        (MessageTree(Turn(ASK)), "a tree without an answer"),
        (Principle("What is wrong?", "Mend it."), "a principle, which is for revising answers"),
    ],
)
def test_what_is_left_out_and_why(record: Record, why: str) -> None:
    assert for_sft(record) == (None, why)
