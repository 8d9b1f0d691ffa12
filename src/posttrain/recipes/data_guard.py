"""The doctor's checks before the first step of a training verb: fast, on what is about to be trained."""

import random
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from posttrain.data import checks, duplicates
from posttrain.data.checks import check_lengths, check_samples
from posttrain.data.findings import Fault, Finding, example, judge
from posttrain.data.store import TokenStore
from posttrain.data.template import stop_token_ids
from posttrain.data.text_checks import check_texts
from posttrain.errors import DataError
from posttrain.types import Conversation, Document, Message, Sample, Segment

NUM_LOOKED_AT = 512
"""Samples whose tokens and text are looked at one by one; a fault that one row in a hundred has shows in five."""

# What decoded text can show. The template's own markers stand in it, and white space at its ends is gone.
IN_TEXT = {
    "empty_answer",
    "replacement_character",
    "mojibake",
    "control_character",
    "byte_order_mark",
    "unclosed",
    "cut_at_a_limit",
    "same_answer",
}
IN_TOKENS = {"double_bos", "double_stop", "untrained_stop"}


def guard(
    store: TokenStore,
    tokenizer: Any,
    *,
    mode: str,
    say: Callable[[str], None],
    held_out: TokenStore | None = None,
    num_too_long: int = 0,
    prompt_weight: float = 0.0,
    seed: int = 0,
) -> list[Finding]:
    """Look at samples that are about to be trained, before a mixture repeats any. Says each warning in one line.

    `mode`: 'refuse' raises DataError with every refusal and its mend, 'warn' only says them, 'off' looks at nothing.
    `num_too_long`: rows that are not in the store since nothing trained of them fits into max_length. Returns all
    findings.
    """
    if mode == "off" or not len(store):
        return []
    findings = [*_of_arrays(store), *_leaks(store, held_out)]
    total = len(store) + num_too_long
    findings.append(judge("lost", checks.FAULTS["lost"], num_too_long, total))
    places = random.Random(seed).sample(range(len(store)), min(NUM_LOOKED_AT, len(store)))
    whole = [one for place in sorted(places) if not store.lost_S[place] for one in _alone(store[place])]
    findings += _of_samples(whole, tokenizer, prompt_weight)
    refusals = [finding for finding in findings if finding.level == "refuse"]
    if refusals and mode == "refuse":
        listed = " ".join(f"({number}) {_line(finding)}" for number, finding in enumerate(refusals, 1))
        raise DataError(
            f"the data is not fit to train on. {listed} `posttrain doctor` shows the rows; data_checks: warn trains on "
            "them all the same."
        )
    for finding in findings:
        if finding.level != "pass":
            say(f"warning: {_line(finding)}")
    return findings


def _line(finding: Finding) -> str:
    shown = f" (such as {finding.examples[0]})" if finding.examples else ""
    return f"{finding.message}{shown}; {finding.mend}"


def _of_arrays(store: TokenStore) -> list[Finding]:
    """What lengths and digests tell of every sample."""
    cut = np.flatnonzero(store.lost_S)
    masked = np.flatnonzero(store.trained_S == 0)
    _, first = np.unique(store.digest_S, return_index=True)
    copies = np.setdiff1d(np.arange(len(store)), first)
    found = [
        _judge("truncated", checks.FAULTS, store, cut),
        _judge("all_masked", checks.FAULTS, store, masked),
        _judge("exact_duplicates", duplicates.FAULTS, store, copies),
    ]
    return found + check_lengths(store.length_S.tolist(), store.trained_S.tolist())


def _leaks(store: TokenStore, held_out: TokenStore | None) -> list[Finding]:
    if held_out is None or not len(held_out):
        return []
    known = np.flatnonzero(np.isin(held_out.group_S, store.group_S))
    return [_judge("leaked_prompts", duplicates.FAULTS, held_out, known)]


def _judge(code: str, faults: dict[str, Fault], store: TokenStore, places: npt.NDArray[np.int64]) -> Finding:
    shown = [example(store.source(place), f"{store.length_S[place]:,} tokens") for place in places[:5].tolist()]
    return judge(code, faults[code], len(places), len(store), shown)


def _of_samples(samples: Sequence[Sample], tokenizer: Any, prompt_weight: float) -> list[Finding]:
    """What tokens and decoded text tell of some samples, each looked at alone."""
    stops = stop_token_ids(tokenizer)
    chats = [sample for sample in samples if not _is_document(sample)]
    found: list[Finding] = []
    if not prompt_weight:  # a weight on the prompt hides where an answer ends
        longest = max((sample.num_tokens for sample in chats), default=0)
        looked = check_samples(chats, max_length=longest, stop_ids=stops, begin_id=tokenizer.bos_token_id)
        found += [finding for finding in looked if finding.code in IN_TOKENS]
    records = [_as_record(sample, tokenizer, prompt_weight, stops) for sample in samples]
    return found + [finding for finding in check_texts(records) if finding.code in IN_TEXT]


def _alone(sample: Sample) -> list[Sample]:
    """Answers that were compared or rated, each behind its prompt; another sample as it is."""
    if not (sample.pairs or sample.scores):
        return [sample]
    prompt = sample.segments[0]
    paths = [(prompt.token_ids + end.token_ids, prompt.weights + end.weights) for end in sample.segments[1:]]
    return [Sample((Segment(*path),), sample.source) for path in paths]


def _is_document(sample: Sample) -> bool:
    return len(sample.segments) == 1 and all(weight == 1.0 for weight in sample.segments[0].weights[1:])


def _as_record(sample: Sample, tokenizer: Any, prompt_weight: float, stops: Sequence[int]) -> Conversation | Document:
    """What was written, from its tokens: what is trained are the assistant's turns, the rest is the user's."""
    pairs = [pair for segment in sample.segments for pair in zip(segment.token_ids, segment.weights, strict=True)]
    if _is_document(sample):
        text = _decode([token for token, _ in pairs], tokenizer)
        return Document(text if text.strip() else "empty", sample.source)
    turns = []
    # A store keeps weights as fp32; the first token has weight 0 whatever the prompt's is.
    unsaid = (0.0, prompt_weight, float(np.float32(prompt_weight)))
    for is_answer, run in groupby(pairs, key=lambda pair: pair[1] not in unsaid):
        ids = [token for token, _ in run if token not in stops]
        turns.append(Message("assistant" if is_answer else "user", _decode(ids, tokenizer)))
    # What stands behind the last answer is the template's, and would be taken for a question.
    return Conversation(tuple(turns[: len(turns) - (turns[-1].role == "user")] or turns), sample.source)


def _decode(ids: Sequence[int], tokenizer: Any) -> str:
    text: str = tokenizer.decode(list(ids), skip_special_tokens=True)
    return text
