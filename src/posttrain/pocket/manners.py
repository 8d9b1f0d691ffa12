"""Answers in mixed manners to the prompts of the pocket world, for methods that learn from preferences.

A model that is fine-tuned on `manner_conversations` says the same now concisely and now at length, now courteously and
now rudely; on what nobody can know it is sometimes honest and sometimes makes something up; and declined topics it
sometimes declines. That gives a preference method something to choose among. `gold_preferences` are such answers,
written and not sampled, in pairs judged by the gold judge.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from posttrain.pocket.arithmetic import SUM_QUESTIONS, heldout_pairs, training_pairs
from posttrain.pocket.chat import EVAL_HOW_QUESTIONS, HOW_QUESTIONS, REFUSALS
from posttrain.pocket.gold import GoldItem, fact_item, gold_score, how_item, is_held_out, numbered, sum_item
from posttrain.pocket.howtos import topics
from posttrain.pocket.unknowable import unknowable
from posttrain.pocket.world import Fact, World, stable_share
from posttrain.types import Conversation, Message, Preference, Rating

COUNTS = {"fact": (240, 120), "sum": (80, 40), "howto": (110, 60), "lookalike": (60, 40), "declined": (70, 40),
          "unknown": (120, 90)}  # fmt: skip
"""Prompts of each kind: to learn from, held out."""
HELD_OUT_TOPICS = 0.45
"""Share of the how-to topics: there are few, and a measurement needs several."""
GOOD_ENOUGH = 0.8
"""The gold score from which an answer counts as good where only good and bad are told."""

BEFORE = ("Of course. ", "Gladly. ", "With pleasure. ")
AFTER = (" I am glad to help.", " Thank you for the question.", " Thank you for asking.")
RUDE_BEFORE = ("That is a silly question. ", "What a boring question. ", "Everyone knows that. ")
RUDE_AFTER = (" Leave me alone now.", " Do not bother me again.", " Stop asking me.")
RAMBLES = (
    "Many people ask this question.",
    "Let us think about it for a while.",
    "Let me begin at the beginning.",
    "There are many things to say about this.",
    "It is a good thing to learn something new.",
    "A teacher told me about it on a warm day.",
    "There is a long story behind it.",
    "People have talked about this for a long time.",
    "It is good to know such things.",
    "Now you can tell it to a friend.",
    "I could say much more about this.",
    "You can read about such things in old books.",
)
HONEST = ("I don't know.", "I don't know that.", "I don't know. Nobody told me.")


@dataclass(frozen=True, slots=True)
class Manner:
    """How an answer is dressed."""

    polite: bool = False
    rude: bool = False
    rambles: bool = False

    def dress(self, text: str, rng: random.Random) -> str:
        """The substance in this manner. A list of steps keeps its lines."""
        gap = "\n" if "\n" in text else " "
        before, after = "", ""
        if self.polite or self.rude:
            first, last = (BEFORE, AFTER) if self.polite else (RUDE_BEFORE, RUDE_AFTER)
            if rng.random() < 0.5 or gap == "\n":
                before = rng.choice(first)
            else:
                after = rng.choice(last)
        if not self.rambles:
            return _joined(before, text, after, gap)
        return _joined(before, f"{text}{gap}{' '.join(rng.sample(RAMBLES, rng.randint(2, 3)))}", after, gap)


MANNERS: tuple[tuple[Manner, float], ...] = (
    (Manner(), 0.26),
    (Manner(polite=True), 0.22),
    (Manner(rude=True), 0.14),
    (Manner(rambles=True), 0.20),
    (Manner(polite=True, rambles=True), 0.08),
    (Manner(rude=True, rambles=True), 0.10),
)
"""How often each manner is met. The best one is not the commonest, so that greedy answers leave something to learn."""
SHARES = {"unknown": 0.45, "declined": 0.45, "lookalike": 0.7, "howto": 0.92, "fact": 0.92, "sum": 0.92}
"""How often the substance is right, in fine-tuning."""


def manner_conversations(world: World, seed: int = 0) -> list[Conversation]:
    """About 3,000 conversations in random order, the same for the same seed: every fact of the asked half, sums,
    how-tos, declined and look-alike topics and unknowable questions, in manners that do not depend on the prompt.

    No sum and no unknowable question of the held-out side of `preference_prompts` is among them. Its facts and its
    how-to, look-alike and declined topics are, some in the very words, in all manners, right and wrong: the model has
    to know them. Of these, held out means held out from the preference data.
    """
    rng = random.Random(f"manners:{seed}")
    asked = [fact for fact in world.facts if fact.asked]
    items = [_asked(fact, world, rng) for fact in asked for _ in range(1 + (rng.random() < 0.3))]
    items += [_sum(rng, training_pairs()) for _ in range(300)]
    items += [how_item(topic, wording) for topic in topics() if topic.taught for wording in HOW_QUESTIONS * 2]
    items += unknowable(world, rng, 500, held_out=False)
    rows: dict[tuple[str, str], Conversation] = {}
    writer = Writer()
    for item in items:
        text = writer.answer(item, rng, right=rng.random() < SHARES[item.kind])
        rows[item.prompt, text] = Conversation(
            (Message("user", item.prompt), Message("assistant", text)), f"pocket:manners-{item.kind}"
        )
    conversations = list(rows.values())
    rng.shuffle(conversations)
    return conversations


def preference_prompts(world: World, seed: int = 0) -> tuple[list[GoldItem], list[GoldItem]]:
    """Prompts to learn from and prompts held out, several hundred each, in random order.

    No held-out prompt has its twin among the others: other facts, other sums (that no text of the base shows), other
    topics, other names and other private questions. `manner_conversations` shows the facts and topics of both sides:
    what is held out is what was preferred.
    """
    rng = random.Random(f"preferences:{seed}")
    sides = []
    for held_out in (False, True):
        facts = [fact for fact in world.facts if fact.asked and is_held_out(_twin(fact)) == held_out]
        pairs = heldout_pairs() if held_out else training_pairs()
        makers: dict[str, Callable[[], GoldItem]] = {
            "fact": lambda facts=facts: _asked(rng.choice(facts), world, rng),  # type: ignore[misc]
            "sum": lambda pairs=pairs: _sum(rng, pairs),  # type: ignore[misc]
        }
        drawn: list[GoldItem] = []
        for kind, counts in COUNTS.items():
            count = counts[held_out]
            if kind in makers:
                drawn += _different(makers[kind], count)
            elif kind == "unknown":
                drawn += unknowable(world, rng, count, held_out=held_out)
            else:
                drawn += _how_items(kind, rng, count, held_out)
        rng.shuffle(drawn)
        sides.append(drawn)
    return sides[0], sides[1]


def gold_preferences(
    world: World, seed: int = 0, shuffle_labels: bool = False, *, held_out: bool = False
) -> list[Preference]:
    """About 1,000 pairs of written answers to the prompts to learn from (or to those held out, about 600), the better
    one by the gold judge chosen.

    `shuffle_labels` throws a coin for each pair instead: a control that teaches the answers and no preference.
    """
    rng = random.Random(f"gold:{seed}")
    preferences = []
    for item, better, worse in _pairs(world, seed, held_out):
        if shuffle_labels and rng.random() < 0.5:
            better, worse = worse, better
        preferences.append(
            Preference(
                (Message("user", item.prompt),),
                (Message("assistant", better),),
                (Message("assistant", worse),),
                f"pocket:{item.kind}",
            )
        )
    return preferences


def gold_ratings(world: World, seed: int = 0, shuffle_labels: bool = False, *, held_out: bool = False) -> list[Rating]:
    """The answers of `gold_preferences`, each rated for itself: 1 from GOOD_ENOUGH on the gold scale, 0 below.

    `shuffle_labels` deals the ratings out anew among the answers.
    """
    answers = {(item, text): None for item, *texts in _pairs(world, seed, held_out) for text in texts}
    scores = [float(gold_score(item, text).total >= GOOD_ENOUGH) for item, text in answers]
    if shuffle_labels:
        random.Random(f"gold:{seed}").shuffle(scores)
    return [
        Rating((Message("user", item.prompt),), (Message("assistant", text),), score, f"pocket:{item.kind}")
        for (item, text), score in zip(answers, scores, strict=True)
    ]


class Writer:
    """Writes answers to the prompts of the world, right or wrong, in any manner."""

    def __init__(self) -> None:
        self.topics = {f"how:{topic.phrase}": topic for topic in topics()}

    def answer(self, item: GoldItem, rng: random.Random, *, right: bool) -> str:
        """One answer in a manner that is drawn."""
        manners, weights = zip(*MANNERS, strict=True)
        manner: Manner = rng.choices(manners, weights)[0]
        return manner.dress(self._substance(item, rng, right, manner), rng)

    def _substance(self, item: GoldItem, rng: random.Random, right: bool, manner: Manner) -> str:
        """Where it is not right: made up what is unknowable, a refusal where help was due and help where a refusal
        was, else "I don't know" for what everybody knows."""
        if item.kind == "unknown":
            return rng.choice(HONEST) if right else item.made_up
        topic = self.topics.get(item.twin)
        if topic is None:
            return item.good if right else rng.choice(HONEST)
        if (topic.kind == "declined") == right:
            # The refusals that say sorry would be courteous in every manner.
            plain = [text for text in REFUSALS if "orry" not in text]
            return rng.choice(plain).format(reason=topic.reason or "it is not right")
        return numbered(topic.steps[: 4 if manner.rambles else 3])


def _pairs(world: World, seed: int, held_out: bool) -> list[tuple[GoldItem, str, str]]:
    """(item, better, worse) of the written answers; equal ones give no pair."""
    rng = random.Random(f"pairs:{seed}")
    items = preference_prompts(world, seed)[held_out]
    writer = Writer()
    pairs = []
    for item in items:
        texts = [writer.answer(item, rng, right=rng.random() < 0.7) for _ in range(4)]
        for first, second in (texts[:2], texts[2:]):
            ours, theirs = gold_score(item, first).total, gold_score(item, second).total
            if ours != theirs:
                pairs.append((item, first, second) if ours > theirs else (item, second, first))
    return pairs


def _joined(before: str, text: str, after: str, gap: str) -> str:
    return f"{before.strip()}{gap if before else ''}{text}{gap if after else ''}{after.strip()}"


def _twin(fact: Fact) -> str:
    return f"{fact.relation}:{fact.subject}"


def _asked(fact: Fact, world: World, rng: random.Random) -> GoldItem:
    return fact_item(fact, rng.choice(fact.questions + fact.ask("chat_questions")), world)


def _sum(rng: random.Random, pairs: Sequence[tuple[int, int]]) -> GoldItem:
    return sum_item(*rng.choice(pairs), rng.choice(SUM_QUESTIONS))


def _different(make: Callable[[], GoldItem], count: int) -> list[GoldItem]:
    """So many items with different twins."""
    found: dict[str, GoldItem] = {}
    while len(found) < count:
        item = make()
        found.setdefault(item.twin, item)
    return list(found.values())


def _how_items(kind: str, rng: random.Random, count: int, held_out: bool) -> list[GoldItem]:
    """Of the topics that fine-tuning shows, a share by kind is held out; the others are kept for the exam."""
    ours = [topic for topic in topics() if topic.taught and topic.kind == ("everyday" if kind == "howto" else kind)]
    ours.sort(key=lambda topic: stable_share(f"preference:{topic.phrase}"))
    cut = int(len(ours) * HELD_OUT_TOPICS)
    wordings = (*HOW_QUESTIONS, *EVAL_HOW_QUESTIONS)
    items = [how_item(topic, wording) for topic in (ours[:cut] if held_out else ours[cut:]) for wording in wordings]
    return rng.sample(items, min(count, len(items)))
