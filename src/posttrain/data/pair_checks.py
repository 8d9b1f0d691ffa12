"""What can be wrong with preferences, rankings and ratings: ties, a bias to length, one label for all."""

from collections import Counter
from collections.abc import Sequence

from posttrain.data.duplicates import like
from posttrain.data.findings import Fault, Finding, asked, example, judge, percent, said
from posttrain.intervals import wilson
from posttrain.types import Preference, Ranking, Rating, Record

# A tie teaches nothing and its gradient is zero; more than one in a hundred is a fault of the export, and where half
# the pairs are ties the two columns are the same one.
TIES = Fault("chosen and rejected answers that are the same", "remove these pairs: they teach nothing.", 0.01, 0.5)
CONTRADICTIONS = Fault("pairs that turn an earlier pair round", "keep the judgement that is right, or drop both.", 0.01)
RANKING_TIES = Fault("rankings whose answers all have one place", "remove them: they say nothing.", 0.01, 0.5)
LENGTH_BIAS_AT = 0.6
"""From this share of longer chosen answers on (the lower end of its 95 % interval), length is what a preference
method will learn first; Singhal et al., 2023, found length to explain most of what such rewards gain."""
RAREST_LABEL = 0.1
"""A label below this share is outvoted at every step unless it is weighted."""
MIN_PAIRS = 20
"""Fewer pairs have an interval too wide to speak of a bias."""


def check_pairs(records: Sequence[Record]) -> list[Finding]:
    """Findings on whatever of preferences, rankings and ratings is among the records."""
    pairs = [record for record in records if isinstance(record, Preference)]
    rankings = [record for record in records if isinstance(record, Ranking)]
    ratings = [record for record in records if isinstance(record, Rating)]
    found: list[Finding] = []
    if pairs:
        ties = [example(pair.source, said(pair.chosen)) for pair in pairs if said(pair.chosen) == said(pair.rejected)]
        turned = [
            example(pairs[i].source, f"{like(pairs[i], pairs[j])}: {said(pairs[i].chosen)}")
            for i, j in contradictions(pairs)
        ]
        found += [
            judge("tied_pairs", TIES, len(ties), len(pairs), ties, unit="pairs"),
            judge("contradicting_pairs", CONTRADICTIONS, len(turned), len(pairs), turned, unit="pairs"),
            length_bias(pairs),
        ]
    if rankings:
        flat = [example(r.source, asked(r.prompt)) for r in rankings if len(set(r.ranks)) == 1]
        found.append(judge("tied_rankings", RANKING_TIES, len(flat), len(rankings), flat, unit="rankings"))
    if ratings:
        found.append(label_balance(ratings))
    return found


def contradictions(pairs: Sequence[Preference]) -> list[tuple[int, int]]:
    """(place, earlier place) of pairs that prefer what an earlier pair rejected, to the same prompt."""
    first: dict[tuple[str, str, str], int] = {}
    found = []
    for i, pair in enumerate(pairs):
        words, good, bad = asked(pair.prompt), said(pair.chosen), said(pair.rejected)
        if good != bad and (words, bad, good) in first:
            found.append((i, first[words, bad, good]))
        first.setdefault((words, good, bad), i)
    return found


def length_bias(pairs: Sequence[Preference]) -> Finding:
    """How often the chosen answer is the longer one, in characters; pairs of equal length do not count."""
    sizes = [(len(said(pair.chosen)), len(said(pair.rejected))) for pair in pairs]
    longer, counted = sum(a > b for a, b in sizes), sum(a != b for a, b in sizes)
    if counted < MIN_PAIRS:
        return Finding("pass", "length_bias", f"bias to length: {counted} pairs of unequal length are too few to tell")
    low, high = wilson(longer, counted)
    message = (
        f"the chosen answer is the longer one in {longer:,} of {counted:,} pairs ({percent(longer, counted)}, "
        f"95 % interval {100 * low:.0f} to {100 * high:.0f} %)"
    )
    if low <= LENGTH_BIAS_AT:
        return Finding("pass", "length_bias", message)
    mend = "balance the pairs by length, or use a method that normalises by it (such as simpo)."
    return Finding("warn", "length_bias", message, mend)


def label_balance(ratings: Sequence[Rating]) -> Finding:
    """How the scores are spread: one score alone teaches nothing, a rare one is outvoted."""
    counts = Counter(rating.score for rating in ratings)
    if len(counts) > 10:  # a scale, where no single value has to be frequent
        return Finding("pass", "label_balance", f"{len(counts):,} different scores in {len(ratings):,} ratings")
    spread = ", ".join(
        f"{score:g}: {count:,} ({percent(count, len(ratings))})" for score, count in sorted(counts.items())
    )
    if len(counts) == 1:
        mend = "add ratings of the other kind, or fine-tune on these rows as plain answers."
        return Finding("refuse", "label_balance", f"every rating has the same score, {spread}", mend)
    score, rarest = min(counts.items(), key=lambda item: (item[1], item[0]))
    if rarest / len(ratings) >= RAREST_LABEL:
        return Finding("pass", "label_balance", f"scores: {spread}")
    shown = tuple(example(r.source, said(r.response)) for r in ratings if r.score == score)[:3]
    mend = f"collect more of score {score:g}, or raise its weight in the loss."
    return Finding("warn", "label_balance", f"scores are unbalanced, {spread}", mend, shown)
