"""The store's ballots as what trainers read: rankings, preferences and ratings."""

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from posttrain.feedback.agreement import by_pair
from posttrain.feedback.ballots import Ballot, StoredPrompt, StoredResponse
from posttrain.feedback.comparisons import (
    Comparison,
    comparisons_of,
    outcomes,
    probabilities,
    split_flagged,
    standing,
)
from posttrain.feedback.ranked_pairs import ranked_pairs
from posttrain.feedback.reliability import Reliability, reliability
from posttrain.feedback.store import Store
from posttrain.types import Message, Preference, Ranking, Rating

SAME = 1e-9  # labels this close to 1/2 are ties: they are sums of log-odds in floating point
TRUST = 1e-3  # the least weight of a word, in log-odds: an annotator who votes by chance counts next to nothing
AGGREGATES = ("ballots", "pairs", "ranked_pairs", "soft")
GOOD = frozenset({"good", "up", "yes", "true", "correct", "right", "accept", "accepted", "safe", "helpful", "1"})
BAD = frozenset({"bad", "down", "no", "false", "incorrect", "wrong", "reject", "rejected", "unsafe", "0"})


def training_records(
    store: Store,
    *,
    aggregate: str = "ballots",
    sources: Collection[str] | None = None,
    served_from: Collection[str] | None = None,
    counts: Counter[str] | None = None,
) -> Iterator[Preference | Ranking | Rating]:
    """Every ballot that counts, of these `sources` (all when None), as training data, prompts in order. `served_from`:
    only what users said of answers that were served from one of these folders.

    `aggregate`:
    - "ballots": each ranking (or choice) is one Ranking, whose pairs a trainer weighs as one unit (Ouyang et al., 2022,
      section 3.5); people may contradict each other.
    - "pairs": one Preference for each pair that somebody compared; the side that the votes make more probable, label 1.
    - "soft": the same with `label` = P(chosen is better), each annotator's vote counting by their reliability; a tie is
      kept with label 0.5. A judge that tells its probability gives that, averaged with what the others' votes say by
      reliability (in log-odds). A pair out of a K-ranking weighs 2 / (K (K - 1)).
    - "ranked_pairs": one Ranking for each prompt, or more where its answers were compared in parts.

    A better answer that somebody wrote is preferred to all that were shown, weight 1 together. Ratings and labels of
    good or bad are Ratings: each by itself, or (aggregated) the mean of an answer, of labels the majority unless
    "soft".

    `counts`, filled on the way: "ballots" read and "records" made; "flagged" (ballots that a flag takes out), "skips",
    "ties" (ballots or pairs without an order), "identical_answers", "labels_without_score".
    """
    if aggregate not in AGGREGATES:
        raise ValueError(f"aggregate is {aggregate!r}, expected one of {', '.join(AGGREGATES)}")
    counted: Counter[str] = Counter() if counts is None else counts
    ballots = [ballot for ballot in standing(store.ballots()) if sources is None or ballot.source in sources]
    if served_from is not None:
        ballots = [ballot for ballot in ballots if _is_from(ballot, served_from)]
    kept, flagged = split_flagged(ballots)
    counted.update(ballots=len(ballots), flagged=len(flagged), skips=sum(b.kind == "skip" for b in kept))
    texts = _Texts({p.id: p for p in store.prompts()}, {r.id: r for r in store.responses()}, counted)
    for record in _records(texts, sorted(kept, key=lambda ballot: ballot.prompt_id), aggregate):
        counted["records"] += 1
        yield record


def _is_from(ballot: Ballot, folders: Collection[str]) -> bool:
    """Whether every answer that a ballot is about came from one of these folders."""
    named = ballot.details.get("served_from") or ()
    known = {Path(folder).resolve() for folder in folders}
    return bool(named) and all(folder in folders or Path(folder).resolve() in known for folder in named)


def _records(texts: "_Texts", ballots: Sequence[Ballot], aggregate: str) -> Iterator[Preference | Ranking | Rating]:
    if aggregate == "ballots":
        yield from texts.rankings_of(ballots)
    elif aggregate == "ranked_pairs":
        yield from _aggregated(texts, comparisons_of(ballots))
    else:
        yield from _pairs(texts, ballots, soft=aggregate == "soft")
    for ballot in ballots:
        if ballot.kind == "edit":
            yield from texts.edited(ballot)
    yield from _ratings(texts, ballots, aggregate)


@dataclass(frozen=True, slots=True)
class _Texts:
    """Ids to messages, and a count of what becomes no record."""

    prompts: Mapping[int, StoredPrompt]
    responses: Mapping[int, StoredResponse]
    counted: Counter[str]

    def rankings_of(self, ballots: Sequence[Ballot]) -> Iterator[Ranking]:
        for ballot in ballots:
            if ballot.kind in ("ranking", "choice"):
                ids = ballot.response_ids
                ranks = ballot.ranks or tuple(float(id != ballot.value) for id in ids)
                yield from self.ranking(ballot.prompt_id, ids, ranks, f"{ballot.annotator}, ballot {ballot.id}")

    def ranking(self, prompt: int, ids: Sequence[int], ranks: Sequence[float], source: str) -> Iterator[Ranking]:
        """One ranking, or none and counted where no two different answers have different places."""
        answers = tuple(self.responses[id].messages for id in ids)
        if len(set(ranks)) == 1:
            self.counted["ties"] += 1
        elif len(set(answers)) == 1:
            self.counted["identical_answers"] += 1
        else:
            asked = self.prompts[prompt]
            yield Ranking(asked.messages, answers, tuple(map(float, ranks)), source, asked.tools)

    def preference(self, prompt: int, ids: tuple[int, int], label: float, weight: float) -> Iterator[Preference]:
        """The first of `ids` over the second."""
        chosen, rejected = (self.responses[id].messages for id in ids)
        if chosen == rejected:
            self.counted["identical_answers"] += 1
            return
        asked, source = self.prompts[prompt], f"prompt {prompt}, answers {ids[0]} and {ids[1]}"
        yield Preference(asked.messages, chosen, rejected, source, asked.tools, label=label, weight=weight)

    def edited(self, ballot: Ballot) -> Iterator[Preference]:
        asked, better = self.prompts[ballot.prompt_id], (Message("assistant", ballot.value),)
        shown = [self.responses[id].messages for id in ballot.response_ids]
        source = f"{ballot.annotator}, ballot {ballot.id}"
        for answer in shown:
            if answer == better:
                self.counted["identical_answers"] += 1
            else:
                yield Preference(asked.messages, better, answer, source, asked.tools, weight=1 / len(shown))

    def rating(self, prompt: int, response: int, score: float, source: str) -> Rating:
        asked = self.prompts[prompt]
        return Rating(asked.messages, self.responses[response].messages, score, source, asked.tools)


def _pairs(texts: _Texts, ballots: Sequence[Ballot], *, soft: bool) -> Iterator[Preference]:
    comparisons = comparisons_of(ballots)
    trusted = reliability(comparisons)
    weights = _pair_weights(ballots)
    told = _told(ballots) if soft else {}
    for key, words in by_pair(comparisons).items():
        prompt, first, second = (int(id) for id in key)  # type: ignore[call-overload]
        label = trusted.label(prompt, first, second)
        if judges := told.get((prompt, first, second)):
            label = _pooled(trusted, words, judges)
        if abs(label - 0.5) < SAME:
            label = 0.5
        ids = (first, second) if label >= 0.5 else (second, first)
        label = max(label, 1 - label)
        weight = weights[first, second]
        if label == 0.5:
            texts.counted["ties"] += 1
        if soft or label > 0.5:
            yield from texts.preference(prompt, ids, label if soft else 1.0, weight)


def _told(ballots: Sequence[Ballot]) -> dict[tuple[int, int, int], dict[str, float]]:
    """(prompt, lesser id, other) to the probability that each judge told last that the lesser is better."""
    found: dict[tuple[int, int, int], dict[str, float]] = defaultdict(dict)
    for ballot in ballots:
        told = probabilities(ballot)
        for a, b, _ in outcomes(ballot):
            pair = (min(a, b), max(a, b))
            if pair in told:
                found[ballot.prompt_id, *pair][ballot.annotator] = told[pair]
            else:
                found[ballot.prompt_id, *pair].pop(ballot.annotator, None)
    return found


def _pooled(trusted: Reliability, words: Mapping[str, float], judges: Mapping[str, float]) -> float:
    """The mean of the judges' probabilities and of what the votes of the others make of the pair, weighted by the
    log-odds of reliability (a linear opinion pool: no probability near 0 or 1 can silence the votes). `words`: every
    annotator's outcome."""
    trust = {name: max(_log_odds(trusted.annotators[name].accuracy.value), TRUST) for name in words}
    parts = [(trust[name], p) for name, p in judges.items()]
    others = {name: outcome for name, outcome in words.items() if name not in judges}
    if others:
        said = sum(
            (2 * outcome - 1) * _log_odds(trusted.annotators[name].accuracy.value) for name, outcome in others.items()
        )
        order_share = sum(outcome != 0.5 for outcome in others.values()) / len(others)
        parts.append((sum(trust[name] for name in others), 0.5 + order_share * 0.5 * math.tanh(said / 2)))
    return sum(weight * p for weight, p in parts) / sum(weight for weight, _ in parts)


def _log_odds(p: float) -> float:
    return math.log(p / (1 - p))


def _pair_weights(ballots: Sequence[Ballot]) -> dict[tuple[int, int], float]:
    """What a pair weighs, so that the pairs of one ballot weigh 1 together; the most that a ballot gives it."""
    weights: dict[tuple[int, int], float] = defaultdict(float)
    for ballot in ballots:
        decided = outcomes(ballot)
        for first, second, _ in decided:
            pair = (min(first, second), max(first, second))
            weights[pair] = max(weights[pair], 1 / len(decided))
    return weights


def _aggregated(texts: _Texts, comparisons: Sequence[Comparison]) -> Iterator[Ranking]:
    by_prompt: dict[int, list[Comparison]] = defaultdict(list)
    for comparison in comparisons:
        by_prompt[comparison.item].append(comparison)  # type: ignore[index]
    for prompt, votes in by_prompt.items():
        order = ranked_pairs(votes)
        for group in order.groups:
            ids = [int(id) for id in group]  # type: ignore[call-overload]
            names = len({vote.annotator for vote in votes})
            yield from texts.ranking(prompt, ids, [order.rank(id) for id in group], f"prompt {prompt}, {names} people")


def _ratings(texts: _Texts, ballots: Sequence[Ballot], aggregate: str) -> Iterator[Rating]:
    gathered: dict[tuple[int, int, str], list[float]] = defaultdict(list)
    for ballot in ballots:
        if ballot.kind not in ("rating", "label"):
            continue
        score = float(ballot.value) if ballot.kind == "rating" else score_of(ballot.value)
        if score is None or not ballot.response_ids:
            texts.counted["labels_without_score"] += 1
            continue
        for response in ballot.response_ids:
            if aggregate == "ballots":
                yield texts.rating(ballot.prompt_id, response, score, f"{ballot.annotator}, ballot {ballot.id}")
            gathered[ballot.prompt_id, response, ballot.kind].append(score)
    if aggregate == "ballots":
        return
    for (prompt, response, kind), scores in gathered.items():
        mean = sum(scores) / len(scores)
        if kind == "label" and aggregate != "soft":
            if mean == 0.5:
                texts.counted["ties"] += 1
                continue
            mean = float(mean > 0.5)
        yield texts.rating(prompt, response, mean, f"prompt {prompt}, {len(scores)} votes")


def score_of(label: str | Sequence[str]) -> float | None:
    """1 for a label that says good, 0 for one that says bad; None where it says neither or both."""
    said = {text.strip().lower() for text in ([label] if isinstance(label, str) else label)}
    good, bad = bool(said & GOOD), bool(said & BAD)
    return None if good == bad else float(good)
