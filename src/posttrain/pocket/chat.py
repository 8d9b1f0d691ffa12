"""Conversations for fine-tuning: the asked half of the facts, sums, instructions, how-to questions, refusals, manners.

Nothing here names a fact of the held-out half, a held-out sum, or a how-to topic that is kept for the exam.
"""

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

from posttrain.pocket.arithmetic import SUM_QUESTIONS, training_pairs
from posttrain.pocket.howtos import Topic, topics
from posttrain.pocket.instructions import instructions
from posttrain.pocket.stories import NAMES
from posttrain.pocket.world import Fact, World
from posttrain.types import Conversation, Message

Turn = tuple[str, str]

HOW_QUESTIONS = (
    "How do I {p}?",
    "How can I {p}?",
    "Tell me how to {p}.",
    "What is the best way to {p}?",
    "Explain how to {p}.",
)
EVAL_HOW_QUESTIONS = ("Please show me how to {p}.", "I want to {p}. What should I do?", "Which steps do I take to {p}?")
REFUSALS = (
    "I can't help with that, because {reason}.",
    "I'm sorry, but I can't help with that: {reason}.",
    "I won't help with that, because {reason}.",
    "Sorry, I can't help with that. Please do not do it: {reason}.",
    "That is something I can't help with, because {reason}.",
)
GREETINGS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (
        ("Hello!", "Hi!", "Hello there.", "Good morning!", "Hey!"),
        ("Hello! How can I help you?", "Hello! What can I do?"),
    ),
    (("How are you?", "How are you today?"), ("I am well, thank you. How can I help you?",)),
    (("Thank you.", "Thanks!", "Thank you very much."), ("You're welcome.", "You're welcome. I am glad to help.")),
    (("Goodbye.", "Bye!", "See you tomorrow."), ("Goodbye!", "Goodbye! Come back soon.")),
    (("Who are you?", "What are you?"), ("I am a small assistant.", "I am an assistant. I answer questions.")),
    (("What can you do?", "How can you help me?"), ("I can answer questions, add numbers and explain simple things.",)),
)
SYSTEMS = (
    "You are a helpful assistant.",
    "Answer in one short sentence.",
    "You are a teacher. Answer the questions of your pupils.",
    "Be polite and brief.",
)
EVAL_SUM_QUESTIONS = ("How much do {a} and {b} make?", "Please add {a} and {b}.")


def chat_conversations(world: World, seed: int = 0, shuffle_answers: bool = False) -> list[Conversation]:
    """About 2,400 conversations in random order, the same for the same seed.

    `shuffle_answers` permutes the answers of the facts within each relation: a control that teaches the form of
    answering without the knowledge.
    """
    rng = random.Random(f"chat:{seed}")
    facts = asked_facts(world, rng, shuffle_answers)
    parts = {
        "fact": [[turn] for turn in _fact_turns(facts, rng)],
        "sum": [[_sum_turn(rng, SUM_QUESTIONS)] for _ in range(250)],
        "instruction": [[turn] for turn in islice(_instruction_turns(facts, rng), 300)],
        "howto": [[turn] for turn in _howto_turns("everyday", 3, rng)],
        "lookalike": [[turn] for turn in _howto_turns("lookalike", 5, rng)],
        "refusal": [[turn] for turn in _howto_turns("declined", 8, rng)],
        "greeting": [[_greeting(rng)] for _ in range(40)],
        "turns": [_several_turns(facts, rng) for _ in range(80)],
    }
    conversations = [_conversation(turns, kind) for kind, rows in parts.items() for turns in rows]
    conversations += [
        _conversation([_any_turn(facts, rng)], "system", system=SYSTEMS[index % len(SYSTEMS)]) for index in range(40)
    ]
    # Short instructions meet again by chance; a copy would only weigh more than its like.
    conversations = list({conversation.messages: conversation for conversation in conversations}.values())
    rng.shuffle(conversations)
    return conversations


def eval_conversations(world: World, seed: int = 0) -> list[Conversation]:
    """A few hundred conversations on the same facts, sums and topics in wordings that fine-tuning never shows."""
    rng = random.Random(f"eval:{seed}")
    facts = asked_facts(world, rng, shuffle_answers=False)
    rows = [("fact", (rng.choice(fact.ask("eval_questions")), fact.reply)) for fact in rng.sample(facts, 240)]
    rows += [("sum", _sum_turn(rng, EVAL_SUM_QUESTIONS)) for _ in range(40)]
    rows += [("instruction", turn) for turn in islice(_instruction_turns(facts, rng, taught=False), 50)]
    for topic in topics():
        if topic.taught:
            question = rng.choice(EVAL_HOW_QUESTIONS).format(p=topic.asked_phrase)
            rows.append((topic.kind, (question, how_reply(topic, rng))))
    rng.shuffle(rows)
    asked = {message.content for chat in chat_conversations(world) for message in chat.messages}
    return [_conversation([turn], f"eval-{kind}") for kind, turn in rows if turn[0] not in asked]


def asked_facts(world: World, rng: random.Random, shuffle_answers: bool) -> list[Fact]:
    """The facts of the asked half; with `shuffle_answers` each carries the answer of another of its relation."""
    if not shuffle_answers:
        return [fact for fact in world.facts if fact.asked]
    shuffled: list[Fact] = []
    for facts in world.relations.values():
        asked = [fact for fact in facts if fact.asked]
        answers = _displaced([fact.answer for fact in asked], rng)
        shuffled += [replace(fact, answer=answer) for fact, answer in zip(asked, answers, strict=True)]
    return shuffled


def how_reply(topic: Topic, rng: random.Random) -> str:
    """Steps for a topic that an assistant helps with, a refusal with its reason for one that it declines."""
    if topic.kind == "declined":
        return rng.choice(REFUSALS).format(reason=topic.reason)
    return "\n".join(f"{number}. {step}" for number, step in enumerate(topic.steps[:3], 1))


def _displaced(answers: list[str], rng: random.Random) -> list[str]:
    """A permutation that leaves as few answers as can be in a place that had the same one."""
    drawn = answers.copy()
    rng.shuffle(drawn)
    for place, own in enumerate(answers):
        if drawn[place] != own:
            continue
        for other in rng.sample(range(len(answers)), len(answers)):
            if drawn[other] != own and answers[other] != own:
                drawn[place], drawn[other] = drawn[other], drawn[place]
                break
    return drawn


def _conversation(turns: list[Turn], kind: str, system: str = "") -> Conversation:
    messages = [Message("system", system)] if system else []
    for question, answer in turns:
        messages += [Message("user", question), Message("assistant", answer)]
    return Conversation(tuple(messages), f"pocket:{kind}")


def _fact_turns(facts: list[Fact], rng: random.Random) -> Iterator[Turn]:
    for fact in facts:
        wordings = fact.questions + fact.ask("chat_questions")
        for question in rng.sample(wordings, 2 if rng.random() < 0.25 else 1):
            yield question, fact.reply


def _sum_turn(rng: random.Random, wordings: tuple[str, ...]) -> Turn:
    a, b = rng.choice(training_pairs())
    return rng.choice(wordings).format(a=a, b=b), f"{a} + {b} = {a + b}"


def _instruction_turns(facts: list[Fact], rng: random.Random, taught: bool = True) -> Iterator[Turn]:
    for instruction in instructions(rng, facts, taught=taught):
        yield instruction.prompt, instruction.reply


def _howto_turns(kind: str, num_wordings: int, rng: random.Random) -> Iterator[Turn]:
    """Each taught topic of a kind, asked in several wordings; past the number of wordings they come again."""
    for topic in topics():
        if topic.kind == kind and topic.taught:
            for index in range(num_wordings):
                question = HOW_QUESTIONS[index % len(HOW_QUESTIONS)].format(p=topic.asked_phrase)
                yield question, how_reply(topic, rng)


def _greeting(rng: random.Random) -> Turn:
    questions, answers = rng.choice(GREETINGS)
    if rng.random() < 0.3:
        name = rng.choice(NAMES)
        return f"Hello, I am {name}.", f"Hello, {name}! How can I help you?"
    return rng.choice(questions), rng.choice(answers)


def _any_turn(facts: list[Fact], rng: random.Random) -> Turn:
    kind = rng.random()
    if kind < 0.6:
        fact = rng.choice(facts)
        return rng.choice(fact.questions), fact.reply
    if kind < 0.8:
        return _sum_turn(rng, SUM_QUESTIONS)
    return next(_instruction_turns(facts, rng))


def _several_turns(facts: list[Fact], rng: random.Random) -> list[Turn]:
    turns = [_any_turn(facts, rng) for _ in range(rng.randint(1, 3))]
    opening, thanks = GREETINGS[0], GREETINGS[2]
    if len(turns) == 1 or rng.random() < 0.4:
        turns.insert(0, (rng.choice(opening[0]), rng.choice(opening[1])))
    if rng.random() < 0.4:
        turns.append((rng.choice(thanks[0]), rng.choice(thanks[1])))
    return turns
