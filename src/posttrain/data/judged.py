"""Records with a judgement to what preference training compares: a prompt, its answers, and what is known of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from posttrain.data.branches import limit_paths
from posttrain.data.encode import Tokens
from posttrain.data.template import render_many
from posttrain.errors import DataError
from posttrain.types import (
    Conversation,
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

Answer = tuple[Message, ...]

NO_COMPARISON = "nothing was compared"
SAME = "the two answers are the same"
TIED = "every answer has the same place"
EMPTY = "an answer is empty"
UNRANKED = "a tree without ranked answers"
UNDECIDED = "the rating is neither good (1) nor bad (0)"


@dataclass(frozen=True, slots=True)
class Choice:
    """One prompt, its answers, the pairs of them that were compared, or a score for each."""

    prompt: tuple[Message, ...]
    answers: tuple[Answer, ...]
    pairs: tuple[Pair, ...] = ()
    scores: tuple[float, ...] = ()
    source: str = ""
    tools: Any = ()


def for_pairs(records: Sequence[Record]) -> Iterator[tuple[Choice | None, str]]:
    """(what to compare, ""), or (None, why it is left out), for the records of one row of data.

    All pairs of a ranking share its weight (Ouyang et al., 2022, section 3.5); equal places are not compared. Ratings
    of one row with the same prompt are read as a ranking, a message tree as one for every message with ranked replies.
    """
    for is_rating, run in groupby(records, key=lambda record: isinstance(record, Rating)):
        rows = list(run)
        for record in _gathered(rows) if is_rating else rows:  # type: ignore[arg-type]
            if isinstance(record, MessageTree):
                rankings = list(_ranked(record.root, (), record.source))
                yield from map(_ranking, rankings) if rankings else [(None, UNRANKED)]
            elif isinstance(record, Preference):
                yield _preference(record)
            elif isinstance(record, Ranking):
                yield _ranking(record)
            else:
                yield None, NO_COMPARISON


def for_ratings(records: Sequence[Record]) -> Iterator[tuple[Choice | None, str]]:
    """As `for_pairs`, but every answer by itself, good (1) or bad (0). Of a pair the chosen answer is good with the
    probability of its label (1 where nothing is said) and the rejected one with the rest; of a ranking the first places
    are good and the last ones bad."""
    for record in records:
        if isinstance(record, Rating):
            is_label = record.score in (0.0, 1.0)
            yield _rated(record, record.response, record.score) if is_label else (None, UNDECIDED)
        elif isinstance(record, Preference):
            yield from _both(record)
        elif isinstance(record, Ranking):
            yield from _ends(record)
        elif isinstance(record, MessageTree):
            rankings = list(_ranked(record.root, (), record.source))
            yield from for_ratings(rankings) if rankings else [(None, UNRANKED)]
        else:
            yield None, NO_COMPARISON


def render_choices(
    choices: Sequence[Choice], tokenizer: Any, *, max_length: int, truncation: str
) -> list[tuple[Sample, bool, bool] | DataError | None]:
    """A tree for each: segment 0 is what all answers share without being trained, segment i + 1 the rest of answer i.
    With it, whether an answer was cut at `max_length` tokens of prompt and answer, and whether that took its end.

    None where no token of some answer fits, where compared ones are the same once they are cut, or where one is cut
    and `truncation` is 'drop'.
    """
    chats = [chat for choice in choices for chat in _conversations(choice)]
    rendered = iter(render_many(chats, tokenizer))
    found: list[tuple[Sample, bool, bool] | DataError | None] = []
    for choice in choices:
        rows = [next(rendered) for _ in choice.answers]
        refused = next((row for row in rows if isinstance(row, DataError)), None)
        if refused is None:
            try:
                tree = _tree(choice, [_one_path(row) for row in rows if isinstance(row, Sample)])
            except DataError as error:
                refused = error
        found.append(refused if refused is not None else _fitted(tree, max_length, truncation))
    return found


def _preference(record: Preference) -> tuple[Choice | None, str]:
    if record.chosen == record.rejected:
        return None, SAME
    pair = Pair(0, 1, record.label, record.margin, record.weight)
    return _checked(Choice(record.prompt, (record.chosen, record.rejected), (pair,), (), record.source, record.tools))


def _ranking(record: Ranking) -> tuple[Choice | None, str]:
    ranks, answers = record.ranks, record.responses
    found = [
        (i, j) for i in range(len(ranks)) for j in range(len(ranks)) if ranks[i] < ranks[j] and answers[i] != answers[j]
    ]
    if not found:
        return None, TIED if len(set(ranks)) == 1 else SAME
    pairs = tuple(Pair(i, j, weight=record.weight / len(found)) for i, j in found)
    return _checked(Choice(record.prompt, answers, pairs, (), record.source, record.tools))


def _both(record: Preference) -> Iterator[tuple[Choice | None, str]]:
    """The answers of a pair, each as good as it is probably the better one."""
    if record.chosen == record.rejected or record.label == 0.5:
        yield None, SAME if record.chosen == record.rejected else TIED
        return
    yield _rated(record, record.chosen, record.label)
    yield _rated(record, record.rejected, 1 - record.label)


def _ends(record: Ranking) -> Iterator[tuple[Choice | None, str]]:
    """The first and the last places of a ranking as ratings."""
    best, worst = min(record.ranks), max(record.ranks)
    if best == worst or len(set(record.responses)) == 1:
        yield None, TIED if best == worst else SAME
        return
    for answer, rank in zip(record.responses, record.ranks, strict=True):
        if rank in (best, worst):
            yield _rated(record, answer, float(rank == best))


def _rated(record: Rating | Ranking | Preference, answer: Answer, score: float) -> tuple[Choice | None, str]:
    return _checked(Choice(record.prompt, (answer,), (), (score,), record.source, record.tools))


def _checked(choice: Choice) -> tuple[Choice | None, str]:
    if all(any(_says_something(message) for message in answer) for answer in choice.answers):
        return choice, ""
    return None, EMPTY


def _says_something(message: Message) -> bool:
    return message.role == "assistant" and bool(message.content.strip() or message.tool_calls)


def _gathered(ratings: Sequence[Rating]) -> Iterator[Record]:
    """Ratings of one prompt as a ranking; one alone compares nothing."""
    for _, run in groupby(ratings, key=lambda rating: (rating.prompt, rating.tools)):
        rows = list(run)
        if len(rows) == 1:
            yield rows[0]
            continue
        answers, ranks = tuple(row.response for row in rows), tuple(-row.score for row in rows)
        yield Ranking(rows[0].prompt, answers, ranks, rows[0].source, rows[0].tools)


def _ranked(turn: Turn, before: tuple[Message, ...], source: str) -> Iterator[Ranking]:
    """A ranking of the assistant's replies to every message of a tree, where at least two have a rank."""
    prompt = (*before, turn.message)
    replies = [reply for reply in turn.replies if reply.message.role == "assistant" and reply.rank is not None]
    if len(replies) > 1:
        answers = tuple((reply.message,) for reply in replies)
        yield Ranking(prompt, answers, tuple(float(reply.rank or 0) for reply in replies), source)
    for reply in turn.replies:
        yield from _ranked(reply, prompt, source)


def _conversations(choice: Choice) -> Iterator[Conversation]:
    """Prompt and answer; what an assistant said in the prompt is not trained."""
    before = tuple(replace(turn, weight=0.0) if turn.role == "assistant" else turn for turn in choice.prompt)
    for answer in choice.answers:
        # Every word of an answer counts alike: a weight would tilt one side of a comparison.
        spoken = tuple(replace(turn, weight=None) if turn.role == "assistant" else turn for turn in answer)
        yield Conversation(before + spoken, choice.source, choice.tools)


def _one_path(sample: Sample) -> Tokens:
    """The tokens of a rendered answer, whose template must not show its turns in several ways."""
    inner = {segment.parent for segment in sample.segments}
    if len(sample.segments) - len(inner - {-1}) > 1:
        raise DataError(
            "the answer has several turns, and the chat template shows earlier ones otherwise once more follow, so it "
            "is not one text that could be compared; keep its last turn, and put the others into the prompt.",
            file=sample.source,
        )
    ids = [token for segment in sample.segments for token in segment.token_ids]
    weights = [weight for segment in sample.segments for weight in segment.weights]
    # An answer ends with the token that stops it, as a sampled one does; a template may write more behind it.
    end = max(place for place, weight in enumerate(weights) if weight) + 1
    return ids[:end], weights[:end]


def _tree(choice: Choice, rows: Sequence[Tokens]) -> Sample:
    shortest = min(len(ids) for ids, _ in rows)
    first_ids, first_weights = rows[0]
    shared = next(
        (at for at in range(shortest) if any(weights[at] or ids[at] != first_ids[at] for ids, weights in rows)),
        shortest,
    )
    if not shared or any(len(ids) == shared for ids, _ in rows):
        raise DataError(
            "the template writes nothing before the answers that they share; name another chat_template.",
            file=choice.source,
        )
    segments = [Segment(tuple(first_ids[:shared]), tuple(first_weights[:shared]))]
    segments += [Segment(tuple(ids[shared:]), tuple(weights[shared:]), 0) for ids, weights in rows]
    return Sample(tuple(segments), choice.source, choice.pairs, choice.scores)


def _fitted(tree: Sample, max_length: int, truncation: str) -> tuple[Sample, bool, bool] | None:
    prompt, *answers = tree.segments
    room = max_length - len(prompt.token_ids)
    if all(len(answer.token_ids) <= room for answer in answers):
        return tree, False, False
    cut = limit_paths(tree, max_length)
    if truncation == "drop" or cut is None or len(cut.segments) < len(tree.segments):
        return None
    if not all(any(answer.weights) for answer in cut.segments[1:]):
        return None
    if any(cut.segments[1 + pair.better] == cut.segments[1 + pair.worse] for pair in tree.pairs):
        return None  # what is left of both says the same
    lost = any(any(answer.weights[room:]) for answer in answers)
    return replace(cut, pairs=tree.pairs, scores=tree.scores), True, lost
