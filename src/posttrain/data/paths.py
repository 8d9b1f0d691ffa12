"""Which characters of a rendered conversation are answers: found by rendering prefixes and comparing, never from a
list of known templates."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import TemplateError

from posttrain.data.controls import Controls
from posttrain.data.encode import Span
from posttrain.data.forms import Form
from posttrain.errors import DataError
from posttrain.types import Conversation

REFUSALS = (TemplateError, TypeError, ValueError, KeyError, AttributeError)  # what a template raises on a record
OTHER = "use another template (chat_template: chatml)"


@dataclass
class Path:
    """One rendered text, the answers that are trained in it, and the places that no token may straddle."""

    text: str
    spans: list[Span] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)


Request = tuple[int, int, bool]  # conversation, number of its messages, whether the assistant is asked to go on
Texts = dict[Request, str]


def answer_turns(conversation: Conversation, train_on: str) -> tuple[list[int], dict[int, float]]:
    """The assistant turns, and the weight of each that is trained. Raises DataError where none is."""
    messages = conversation.messages
    turns = [turn for turn, message in enumerate(messages) if message.role == "assistant"]
    if not turns:
        raise DataError(
            "no assistant turn, so there is nothing to train on.", file=conversation.source, field="messages"
        )
    weights = {turn: 1.0 if (given := messages[turn].weight) is None else given for turn in turns}
    trained = {turn: weight for turn, weight in weights.items() if weight and (train_on == "all" or turn == turns[-1])}
    if not trained:
        raise DataError(
            "every assistant turn has weight 0, so there is nothing to train on.",
            file=conversation.source,
            field="messages",
        )
    return turns, trained


def find_paths(
    form: Form, turns: Sequence[int], trained: dict[int, float], texts: Texts, controls: Controls
) -> list[Path]:
    """The texts in which the trained answers stand, one behind the other while the template only appends.

    `texts[0, n, ask]` is the rendering of the first n messages. Where it shows an earlier turn otherwise once more
    follows, a new path begins. Raises DataError naming the turn that cannot be told from its prompt.
    """
    turns = [turn for turn in turns if turn <= max(trained)]
    paths: list[Path] = []
    for turn in turns:
        before, through = texts[0, turn, True], texts[0, turn + 1, False]
        span = _span(before, through, turn, form, controls) if turn in trained else None
        if not (paths and before.startswith(paths[-1].text)):
            paths.append(Path(""))
        paths[-1].text = through
        if span:
            paths[-1].spans.append((*span, trained[turn]))
    paths = [path for path in paths if path.spans]
    for path in paths:
        starts = (texts[0, turn, True] for turn in turns)
        path.cuts = [len(start) for start in starts if path.text.startswith(start)]
    return paths


def _span(before: str, through: str, turn: int, form: Form, controls: Controls) -> tuple[int, int]:
    """Characters [start, end) of what the assistant says in one turn, through its stop token."""
    place = f"messages[{turn}]"
    if not through.startswith(before) or len(through) == len(before):
        raise DataError(
            "the chat template begins this turn otherwise than it asks for it, so what is trained cannot be told from "
            f"the prompt; {OTHER}.",
            file=form.source,
            field=place,
        )
    said = through[len(before) :].rstrip()
    missing = next((words for words in _words(form.messages[turn]) if not _shows(said, words)), None)
    if missing is not None:
        raise DataError(
            f"the chat template does not show {missing[:40]!r} of this turn, so the model would learn to leave it out; "
            f"{OTHER}.",
            file=form.source,
            field=place,
        )
    stop = next((text for text in controls.texts if said.endswith(text)), None)
    # A stop token that the assistant's own text ends with is none of the template's.
    if stop is None or form.messages[turn]["content"].rstrip().endswith(stop):
        raise DataError(
            "the chat template ends an assistant turn without a stop token, so the model would never learn to stop; "
            f"{OTHER}.",
            file=form.source,
            field=place,
        )
    return len(before), len(before) + len(said)


def render_texts(tokenizer: Any, forms: dict[int, Form], requests: Sequence[Request]) -> Texts:
    """The template's text for each request. A single call renders many; raises what the template raises."""
    texts: Texts = {}
    for ask in (True, False):
        plain = [request for request in requests if request[2] == ask and forms[request[0]].tools is None]
        if plain:
            shown = [forms[number].messages[:length] for number, length, _ in plain]
            found = tokenizer.apply_chat_template(shown, tokenize=False, add_generation_prompt=ask)
            texts.update(zip(plain, found, strict=True))
    for number, length, ask in requests:
        if forms[number].tools is not None:
            shown = [forms[number].messages[:length]]
            (texts[number, length, ask],) = tokenizer.apply_chat_template(
                shown, tools=forms[number].tools, tokenize=False, add_generation_prompt=ask
            )
    return texts


def _words(message: dict[str, Any]) -> list[str]:
    """What must be seen of an answer: its last line (a template may take a block of thoughts from the front), and the
    functions that it calls."""
    last = message["content"].rstrip().rpartition("\n")[2].strip()
    return [last] + [call["function"]["name"] for call in message.get("tool_calls", ())]


def _shows(said: str, words: str) -> bool:
    return words in said or json.dumps(words, ensure_ascii=False) in said
