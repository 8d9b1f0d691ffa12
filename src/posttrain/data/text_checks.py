"""What can be wrong with the text of a row: encoding, emptiness, answers that were cut, said twice, or declined."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from posttrain.data.findings import Fault, Finding, Tally, asked, dialogues, example, judge, said, texts
from posttrain.types import Document, Message, Prompt, Record

FAULTS = {
    # A hole in one row of a hundred is an accident of collection; more is a column that was read wrongly.
    "empty_answer": Fault(
        "empty answers", "remove these rows: the model would learn to say nothing and stop.", 0.0, 0.01
    ),
    "empty_prompt": Fault("empty user turns", "remove these rows, or check which column holds the prompt.", 0.0, 0.5),
    "lone_surrogate": Fault(
        "half of a UTF-16 pair (a lone surrogate)",
        "the text cannot be written as UTF-8; make the file again with an encoder that keeps pairs together.",
        0.0,
        0.0,
    ),
    "replacement_character": Fault(
        "the character U+FFFD, where bytes were lost", "read the original with its right encoding and export it anew."
    ),
    "mojibake": Fault(
        "UTF-8 that was read as Windows-1252 (such as â€™ for ’)",
        "encode these texts as cp1252 and decode them as utf-8 (the package ftfy does this), or export the data anew.",
    ),
    "control_character": Fault("control characters", "strip them: no tokenizer and no reader expects them."),
    "byte_order_mark": Fault("a byte-order mark inside the text", "strip U+FEFF; files were joined byte by byte."),
    "unclosed": Fault(
        "answers that leave a code block, a bracket or their thinking open",
        "these answers were probably cut off; generate them again with a larger limit, or remove them.",
    ),
    "echo": Fault(
        "answers that repeat their prompt first", "cut the prompt from the answer; the model would learn to echo.", 0.01
    ),
    # A few texts about chat templates or with dialogues in them are no fault; half the rows are rendered prompts.
    "already_rendered": Fault(
        "text that carries the turn markers of some chat template",
        "give the bare messages: the template writes its markers itself, and these would be trained as plain text.",
        0.05,
        0.5,
    ),
}
CUT = Fault(
    "answers that end in mid-sentence near the longest length",
    "they were cut by a limit when the data was made; generate them again with a larger one, or remove them.",
)
SAME = Fault(
    "rows with one and the same answer",
    "look whether the right column was read; if these are labels, balance them.",
    0.5,
    0.99,
)
# Collections that teach declining on purpose have a tenth or so; beyond, an assistant declines what it should do.
REFUSALS = Fault("answers that decline", "fine where it is meant; else filter them, or the model will decline.", 0.2)

CONTROLS = Fault(
    "rows that hold the characters of a control token (they stay text)",
    "give the bare messages; if they are about such tokens, all is well.",
    0.01,
)

MIN_ROWS = 10
"""Fewer answers than this say nothing about how answers are spread."""

ODD = re.compile("[\ufffd\ufeff\x00-\x08\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
# What a lead byte of UTF-8 and its followers turn into when they are read as Windows-1252 (or as Latin-1). After a
# letter that is common by itself, dashes and quotation marks are what they seem: "René——", "Spaß«".
FOLLOWER = "[\u0080-\u00bf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]"
MARKS = "(?![–—…•‘’“”„‹›«»])"
MISREAD = re.compile(
    f"[ÂÃ]{FOLLOWER}|[Ä-ß]{MARKS}{FOLLOWER}|â{FOLLOWER}{{2}}|[àáã-ï]{MARKS}{FOLLOWER}{{2}}|[ð-ô]{FOLLOWER}{{3}}"
)
RENDERED = re.compile(
    r"<\|im_start\|>|<\|start_header_id\|>|\[/INST\]|<start_of_turn>|<\|(?:assistant|user|system|eot_id|end)\|>"
    r"|^### (?:Response|Instruction|Assistant):|^(?:Human|Assistant|USER|ASSISTANT): ",
    re.MULTILINE,
)
DECLINES = re.compile(
    r"\b(?:I(?:['’]m| am) (?:sorry|unable|not able|afraid)|I (?:can(?:['’]t|not| ?not)|won['’]t|will not|must decline)"
    r"|as an AI|unfortunately,? I)\b",
    re.IGNORECASE,
)


def check_texts(records: Sequence[Record]) -> list[Finding]:
    """Findings on the text of every record; linear in its characters."""
    tally, answers = Tally(), list[tuple[str, str]]()
    for record in records:
        tally.add(record.source, _faults(record))
        # One answer a record, or copies within one preference or tree would count as the same answer in many rows.
        first = next((said(answer) for _, answer in dialogues(record) if answer), "")
        if first.strip():
            answers.append((record.source, first.strip()))
    return [*tally.findings(FAULTS, len(records)), *_spread(answers)]


def check_controls(records: Sequence[Record], controls: Sequence[str]) -> Finding:
    """How many rows hold the characters of a control token. They stay characters; where that was not meant, the data
    was rendered with a template before it came here."""
    pattern = re.compile("|".join(map(re.escape, controls)) or r"(?!)")
    shown = []
    for record in records:
        hit = next(
            (example(record.source, text, m.start()) for text in texts(record) if (m := pattern.search(text))), ""
        )
        shown += [hit] if hit else []
    return judge("control_text", CONTROLS, len(shown), len(records), shown)


def _faults(record: Record) -> Iterator[tuple[str, str]]:
    for text in texts(record):
        yield from encoding_faults(text)
    if isinstance(record, Document):
        yield from _rendered(record.text)
    for prompt, answer in dialogues(record):
        for turn in (*prompt, *answer):
            yield from _turn_faults(turn)
        words, reply = asked(prompt).strip(), said(answer).strip()
        if len(words) >= 20 and reply.startswith(words):  # shorter prompts are begun with by chance ("Yes?" "Yes …")
            yield "echo", reply
        if answer and not isinstance(record, Prompt) and (how := unclosed(reply)):
            yield "unclosed", f"{how}: …{reply[-50:]}"


def encoding_faults(text: str) -> Iterator[tuple[str, str]]:
    """Codes of what is wrong with a text's characters, each with the place where it shows."""
    if text.isascii() and text.isprintable():
        return
    for found in ODD.finditer(text):
        yield _odd_code(found.group()), example("", text, found.start())[2:]
    for found in MISREAD.finditer(text):
        if _reads_as_utf8(found.group()):
            yield "mojibake", example("", text, found.start())[2:]
            return


def _odd_code(character: str) -> str:
    named = {"\ufffd": "replacement_character", "\ufeff": "byte_order_mark"}
    if character in named:
        return named[character]
    return "lone_surrogate" if "\ud800" <= character <= "\udfff" else "control_character"


def _reads_as_utf8(text: str) -> bool:
    try:
        raw = b"".join(c.encode("latin-1" if c < "\u0100" else "cp1252") for c in text)
        return len(raw.decode("utf-8")) == 1
    except UnicodeError:
        return False


def _turn_faults(turn: Message) -> Iterator[tuple[str, str]]:
    if turn.role == "assistant" and not (turn.content.strip() or turn.tool_calls or turn.reasoning.strip()):
        yield "empty_answer", "an assistant turn without text"
    if turn.role == "user" and not turn.content.strip():
        yield "empty_prompt", "a user turn without text"
    yield from _rendered(turn.content)


def _rendered(text: str) -> Iterator[tuple[str, str]]:
    if found := RENDERED.search(text):
        yield "already_rendered", example("", text, found.start())[2:]


def unclosed(answer: str) -> str:
    """What an answer leaves open at its end, in words; empty where nothing is.

    >>> unclosed("Use this:\\n```python\\nprint(1)"), unclosed('{"a": [1, 2'), unclosed("Done (see above).")
    ('code block', 'JSON', '')
    """
    if answer.count("```") % 2:
        return "code block"
    if answer.count("<think>") > answer.count("</think>"):
        return "thinking"
    if answer[:1] in ("{", "["):
        return "JSON" if _json_is_cut(answer) else ""
    # Brackets alone prove nothing ("1) …"); together with an end in mid-sentence they do, but for smileys.
    plain = re.sub(r"[:;]['-]?[(\[{]", "", answer)
    if ends_open(answer) and any(plain.count(a) > plain.count(b) for a, b in ("()", "[]", "{}")):
        return "bracket"
    return ""


def _json_is_cut(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        outside = re.sub(r'"(?:[^"\\]|\\.)*"?', "", text)
        return any(outside.count(a) > outside.count(b) for a, b in ("{}", "[]"))
    return False


def ends_open(text: str) -> bool:
    """Whether a text ends in mid-sentence: with a letter, or with punctuation that something follows."""
    last = text.rstrip()[-1:]
    return last.isalpha() or last in (",", ";", ":", "-", "–", "(", "[", "{", "=", "+")


def _spread(answers: Sequence[tuple[str, str]]) -> list[Finding]:
    """What only all the answers together show."""
    total = len(answers)
    if total < MIN_ROWS:
        return []
    cut = cut_at_a_limit([answer for _, answer in answers])
    shown = [example(answers[i][0], f"…{answers[i][1][-60:]}") for i in cut[:5]]
    found = [judge("cut_at_a_limit", CUT, len(cut), total, shown, unit="answers")]
    top, count = Counter(answer for _, answer in answers).most_common(1)[0]
    of_top = [example(source, answer) for source, answer in answers if answer == top]
    found.append(judge("same_answer", SAME, count if count > 1 else 0, total, of_top, unit="answers"))
    declined = [example(source, answer) for source, answer in answers if DECLINES.search(answer[:160])]
    found.append(judge("refusals", REFUSALS, len(declined), total, declined, unit="answers"))
    return found


def cut_at_a_limit(answers: Sequence[str]) -> list[int]:
    """Indices of answers that a length limit cut: they crowd below the longest length and end in mid-sentence.

    A limit in another tokenizer's tokens is a band of characters, a quarter wide at most. It is called a cut where at
    least five answers, and one in a hundred, lie in that band, most of them end open, and shorter ones seldom do.
    """
    length = np.array([len(answer) for answer in answers])
    if not len(length) or length.max() < 40:
        return []
    is_open = np.array([ends_open(answer) for answer in answers])
    near = length >= 0.75 * length.max()
    crowd = near & is_open
    usual = is_open[~near].mean() if not near.all() else 0.0
    if crowd.sum() < max(5, len(answers) / 100) or crowd.sum() / near.sum() < max(0.6, usual + 0.3):
        return []
    return [int(i) for i in np.flatnonzero(crowd)]
