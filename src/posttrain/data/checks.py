"""Is this data what was meant? Doors: `check_records` looks at text, `check_samples` at what became of it in tokens,
`check_template` at the chat template between the two. Each returns findings; none raises on what it finds."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from posttrain.data.duplicates import MAX_NEAR, check_duplicates
from posttrain.data.findings import Fault, Finding, Tally, example, judge, percent
from posttrain.data.pair_checks import check_pairs
from posttrain.data.role_checks import check_roles
from posttrain.data.template import control_tokens, render, stop_token_ids
from posttrain.data.text_checks import check_controls, check_texts
from posttrain.errors import DataError
from posttrain.types import Conversation, Message, Record, Sample, Segment

FAULTS = {
    "template_refuses": Fault(
        "rows that cannot be written with this template",
        "mend these rows as each message says, or remove them.",
        0.0,
        0.0,
    ),
    # Over one row in a hundred the loss is an average over fewer rows than anybody thinks.
    "all_masked": Fault(
        "rows without a trained token", "check train_on, the weights of messages, and which turn answers.", 0.0, 0.01
    ),
    # A few long rows are in every data set. Over 1 % an evaluation of long answers begins to show it; over half, most
    # of what is trained has no end, and the model learns not to stop.
    "truncated": Fault(
        "rows over max_length that lose their answer's end",
        "raise max_length, shorten the prompts, or leave long rows out (truncation: drop).",
        0.01,
        0.5,
    ),
    "lost": Fault(
        "rows whose prompt alone fills max_length, so that nothing is trained",
        "raise max_length, or shorten the prompts.",
        0.01,
        0.5,
    ),
    # These come from the template, so one row of them means all of them.
    "double_bos": Fault(
        "rows that begin with two begin-of-text tokens", "take one out of the template or of the text.", 0.0, 0.0
    ),
    "double_stop": Fault(
        "rows with two stop tokens in a row", "take one out of the template or of the text.", 0.0, 0.0
    ),
    "untrained_stop": Fault(
        "rows whose answer does not end with a trained stop token",
        "the model would never learn to stop; use a template that ends each answer (chat_template: chatml).",
        0.0,
        0.01,
    ),
}
DWARFED = 0.05
"""Below this share of trained tokens, 95 % of the work goes into reading prompts."""


def check_records(
    records: Sequence[Record],
    *,
    held_out: Sequence[Record] = (),
    controls: Sequence[str] = (),
    max_near: int = MAX_NEAR,
    left_out: Mapping[str, int] | None = None,
    num_rows: int | None = None,
    skipped: Sequence[tuple[str, str]] = (),
) -> list[Finding]:
    """Everything that text alone can tell. `controls`: the texts of control tokens. `max_near`: how many rows
    are compared for near duplicates. `left_out`: reasons and counts of rows that no answer can be trained of, of
    `num_rows` that were read (as many as records, where none is given); `skipped`: (file:line, why) of rows that could
    not be read."""
    total = len(records) if num_rows is None else num_rows
    found = [_unreadable(total, skipped), _left_out(total, left_out or {})]
    if records:
        found += [*check_roles(records), *check_texts(records), check_controls(records, controls)]
        found += [*check_pairs(records), *check_duplicates(records, held_out, max_near=max_near)]
    return found


def check_samples(
    samples: Sequence[Sample | DataError], *, max_length: int, stop_ids: Sequence[int], begin_id: int | None = None
) -> list[Finding]:
    """What became of conversations in tokens, rendered whole and without a weight on prompts: what is cut, what is
    trained, where answers stop. An error stands for a row that the template refused."""
    tally = Tally()
    whole = [sample for sample in samples if isinstance(sample, Sample)]
    for sample in samples:
        if isinstance(sample, DataError):
            tally.add(sample.file, [("template_refuses", str(sample).removeprefix(sample.file).lstrip(":, "))])
        else:
            tally.add(sample.source, _sample_faults(sample, max_length, frozenset(stop_ids), begin_id))
    found = tally.findings(FAULTS, len(samples))
    return [*found, *check_lengths([path_length(s) for s in whole], [s.num_trained for s in whole])]


def check_lengths(length_S: Sequence[int], trained_S: Sequence[int]) -> list[Finding]:
    """How long rows are in tokens, and how much of them is trained."""
    if not len(length_S):
        return []
    middle, most, longest = (f"{q:,.0f}" for q in np.quantile(length_S, (0.5, 0.95, 1.0)))
    total, trained = int(np.sum(length_S)), int(np.sum(trained_S))
    said = f"{percent(trained, total)} of {total:,} tokens are trained"
    lengths = f"tokens a row: median {middle}, 95 % have at most {most}, longest {longest}; {said}"
    mend = "shorten the prompts, train on more turns, or join questions about one text into one conversation."
    few = 0 < trained < DWARFED * total
    return [
        Finding("pass", "lengths", lengths),
        Finding("warn", "dwarfed_answers", f"prompts dwarf answers: only {said}", mend)
        if few
        else Finding("pass", "dwarfed_answers", f"prompts do not dwarf answers: {said}"),
    ]


def path_length(sample: Sample) -> int:
    """Tokens from the root to the farthest leaf: what `max_length` is compared with."""
    return max(_ends(sample))


def _ends(sample: Sample) -> list[int]:
    ends: list[int] = []
    for segment in sample.segments:
        ends.append(len(segment.token_ids) + (ends[segment.parent] if segment.parent >= 0 else 0))
    return ends


def _sample_faults(
    sample: Sample, max_length: int, stop_ids: frozenset[int], begin_id: int | None
) -> Iterator[tuple[str, str]]:
    if not sample.num_trained:
        yield "all_masked", f"{sample.num_tokens:,} tokens, none of them trained"
        return
    ends = _ends(sample)
    kept = beyond = 0
    for segment, end in zip(sample.segments, ends, strict=True):
        room = max(0, max_length - (end - len(segment.token_ids)))
        kept += sum(map(bool, segment.weights[:room]))
        beyond += sum(map(bool, segment.weights[room:]))
    if beyond:
        fate = f"{max(ends):,} tokens, {beyond:,} of {kept + beyond:,} trained ones are cut"
        yield ("truncated" if kept else "lost"), fate
    first = sample.segments[0].token_ids
    if begin_id is not None and first[:2] == (begin_id, begin_id):
        yield "double_bos", f"ids {first[0]}, {first[1]}, …"
    for segment, unfinished in zip(sample.segments, _goes_on(sample.segments), strict=True):
        yield from _stop_faults(segment, unfinished, stop_ids, begin_id)


def _goes_on(segments: Sequence[Segment]) -> list[bool]:
    """Whether the answer at a segment's end goes on in another that continues it."""
    on = [False] * len(segments)
    for segment in segments:
        if segment.parent >= 0 and segment.weights[0]:
            on[segment.parent] = True
    return on


def _stop_faults(
    segment: Segment, goes_on: bool, stop_ids: frozenset[int], begin_id: int | None
) -> Iterator[tuple[str, str]]:
    ids, weights = segment.token_ids, segment.weights
    for place, (token, weight) in enumerate(zip(ids, weights, strict=True)):
        last = place + 1 == len(ids)
        answer_ends = weight and not (goes_on if last else weights[place + 1])
        if answer_ends and token not in stop_ids:
            yield "untrained_stop", f"the trained part ends with id {token} at token {place + 1}"
        # Where begin and end are one token, a turn's end is rightly followed by the next one's beginning.
        if token in stop_ids and token != begin_id and not last and ids[place + 1] == token:
            yield "double_stop", f"id {token} at tokens {place + 1} and {place + 2}"


def check_template(tokenizer: Any) -> list[Finding]:
    """What a tokenizer's chat template does, on a conversation of two words."""
    try:
        probe = render(Conversation((Message("user", "a"), Message("assistant", "b")), "probe"), tokenizer)
    except DataError as error:
        mend = "name another template (chat_template: chatml)."
        return [Finding("refuse", "template", f"the chat template is of no use: {error}", mend)]
    (segment,) = probe.segments
    stops = " or ".join(tokenizer.convert_ids_to_tokens(token) for token in stop_token_ids(tokenizer))
    found = [Finding("pass", "template", f"turns can be told apart; an answer ends with {stops}")]
    marks = set(tokenizer.convert_tokens_to_ids(list(control_tokens(tokenizer)))) - {tokenizer.bos_token_id}
    start = next(i for i, weight in enumerate(segment.weights) if weight)
    found.append(_roles_finding(not marks.isdisjoint(segment.token_ids[:start])))
    text = tokenizer.apply_chat_template(
        [[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]], tokenize=False
    )[0]
    found.append(_begin_finding(tokenizer, text))
    return found


def _roles_finding(marked: bool) -> Finding:
    if marked:
        return Finding("pass", "plain_roles", "roles are marked by control tokens that nobody can type")
    return Finding(
        "warn",
        "plain_roles",
        "this template marks roles with plain text, so a user who types its markers can pass for another role",
        "use a template with control tokens (chat_template: chatml) unless the model was tuned with this one.",
    )


def _begin_finding(tokenizer: Any, text: str) -> Finding:
    """Does whoever tokenizes the rendered text in the ordinary way get a second begin or end token?"""
    ids = tokenizer(text)["input_ids"]
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    twice = [
        name
        for name, token, pair in (("begin", begin, ids[:2]), ("end", end, ids[-2:]))
        if token is not None and list(pair) == [token, token]
    ]
    if not twice:
        return Finding(
            "pass", "tokenizer_adds_bos", "the tokenizer adds no second begin or end token to the template's"
        )
    return Finding(
        "warn",
        "tokenizer_adds_bos",
        f"the template writes the {' and the '.join(twice)} token, and the tokenizer would add another",
        "posttrain does not let it; in other tools tokenize rendered text with add_special_tokens=False.",
    )


def _unreadable(count: int, skipped: Sequence[tuple[str, str]]) -> Finding:
    fault = Fault("rows that cannot be read", "mend them as each message says, or remove them.", 0.0, 0.0)
    shown = [example(place, why) for place, why in skipped]
    return judge("unreadable", fault, len(skipped), count + len(skipped), shown)


def _left_out(count: int, left_out: Mapping[str, int]) -> Finding:
    # Prompts and bad ratings have their uses, so only data that is mostly of no use to fine-tuning is worth a word.
    fault = Fault(
        "rows that fine-tuning would leave out", "give them an answer, or use them for sampling or evaluation.", 0.5
    )
    why = "; ".join(f"{number:,} {reason}" for reason, number in left_out.items())
    return judge("left_out", fault, sum(left_out.values()), count, note=f": {why}" if why else "")
