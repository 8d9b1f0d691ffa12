"""The texts of a conversation without running its template: where a template passes contents through untouched, all
conversations with the same roles have the same literal pieces around their contents.

That it does so is established, not assumed: the template runs once over contents that notice when they are looked
into (`opaque`), and the first conversation of every shape is rendered both ways.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from posttrain.data.controls import Controls
from posttrain.data.forms import Form
from posttrain.data.opaque import Opaque, Witness, can_be_watched
from posttrain.data.paths import REFUSALS, Path, Request, find_paths, render_texts
from posttrain.errors import DataError
from posttrain.types import Conversation

# Every character that escaping would change, so that an escaped content is not found as it was written.
BODY = "\"'<&>\\/ \n\t Aé_"
CONTENT = re.compile("\ue010([0-9]+)" + re.escape(BODY) + "\ue011")

Shape = tuple[tuple[str, ...], tuple[int, ...]]  # the roles of a conversation, and the turns that are trained
Place = tuple[int, int]  # a literal piece, and a character in it


@dataclass(frozen=True)
class _Cast:
    """One path: `pieces[i]` stands before content `contents[i]`; spans and cuts by place, a span with its turn."""

    pieces: tuple[str, ...]
    contents: tuple[int, ...]
    spans: tuple[tuple[Place, Place, int], ...]
    cuts: tuple[Place, ...]


@dataclass(frozen=True)
class Mould:
    """What a template makes of one shape. `trims`: it takes white space off the ends of contents."""

    casts: tuple[_Cast, ...]
    trims: bool

    def fill(self, conversation: Conversation, trained: Mapping[int, float]) -> list[Path] | None:
        """The paths of a conversation of this shape; None where its contents are not such as were looked at."""
        texts = [message.content for message in conversation.messages]
        if self.trims and any(text[0].isspace() or text[-1].isspace() for text in texts):
            return None
        return [_fill(cast, texts, trained) for cast in self.casts]


def shape_of(conversation: Conversation, trained: Mapping[int, float]) -> Shape | None:
    """The shape of a conversation of plain texts; None where it has anything else, or an empty text."""
    if conversation.tools:
        return None
    for message in conversation.messages:
        if not message.content or message.reasoning or message.tool_calls or message.name or message.tool_call_id:
            return None
    return tuple(message.role for message in conversation.messages), tuple(trained)


class Moulds:
    """The moulds of one tokenizer's template, made when they are first asked for."""

    def __init__(self, source: str, controls: Controls) -> None:
        self._controls = controls
        self._template = _watched(source)
        self._known: dict[Shape, Mould | None] = {}
        self._proven: set[Shape] = set()

    def find(self, shape: Shape | None, tokenizer: Any) -> Mould | None:
        """The mould of a shape; None where this template has none for it."""
        if shape is None or self._template is None:
            return None
        if shape not in self._known:
            self._known[shape] = self._make(shape, tokenizer)
        return self._known[shape]

    def is_proven(self, shape: Shape) -> bool:
        """Whether a conversation of this shape was rendered both ways, with the same outcome."""
        return shape in self._proven

    def prove(self, shape: Shape, same: bool) -> None:
        """Take down the outcome; where it was another, the template's own way is taken from now on."""
        self._proven.add(shape)
        if not same:
            self._known[shape] = None

    def _make(self, shape: Shape, tokenizer: Any) -> Mould | None:
        roles, trained = shape
        turns = [turn for turn, role in enumerate(roles) if role == "assistant"]
        requests = [
            (0, n, ask) for turn in turns if turn <= max(trained) for n, ask in ((turn, True), (turn + 1, False))
        ]
        texts = {number: f"\ue010{number}{BODY}\ue011" for number in range(len(roles))}
        form = Form([{"role": role, "content": texts[number]} for number, role in enumerate(roles)], None, "", "")
        witness = Witness()
        try:
            rendered = render_texts(tokenizer, {0: form}, requests)
            watched = {request: self._watch(form, request, witness, tokenizer) for request in requests}
            # The number of a turn stands where its weight will.
            paths = find_paths(form, turns, {turn: float(turn) for turn in trained}, rendered, self._controls)
        except (*REFUSALS, DataError):
            return None
        casts = [_cast(path) for path in paths]
        if witness.seen or watched != rendered or not all(casts):
            return None
        return Mould(tuple(cast for cast in casts if cast), witness.trimmed)

    def _watch(self, form: Form, request: Request, witness: Witness, tokenizer: Any) -> str:
        messages = [m | {"content": Opaque(m["content"], witness)} for m in form.messages[: request[1]]]
        shown = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": request[2]}
        return str(self._template.render(**shown, **tokenizer.special_tokens_map))


def _watched(source: str) -> Any:
    """The template, ready to be watched; None where something in it could not be."""

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment: Environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, **({"ensure_ascii": False} | options))
    environment.globals["raise_exception"] = refuse
    try:
        tree = environment.parse(source)
        return environment.from_string(tree) if source and can_be_watched(tree) else None
    except TemplateError:
        return None


def _cast(path: Path) -> _Cast | None:
    pieces, contents, starts, end = [], [], [], 0
    for found in CONTENT.finditer(path.text):
        starts.append(end)
        pieces.append(path.text[end : found.start()])
        contents.append(int(found[1]))
        end = found.end()
    starts.append(end)
    pieces.append(path.text[end:])

    def place(position: int) -> Place | None:
        within = (i for i, start in enumerate(starts) if start <= position <= start + len(pieces[i]))
        return next(((i, position - starts[i]) for i in within), None)

    spans = [(place(start), place(end), int(turn)) for start, end, turn in path.spans]
    cuts = [place(cut) for cut in path.cuts]
    if "\ue010" in "".join(pieces) or None in cuts or any(None in span for span in spans):
        return None
    return _Cast(tuple(pieces), tuple(contents), tuple(spans), tuple(cuts))  # type: ignore[arg-type]


def _fill(cast: _Cast, texts: Sequence[str], trained: Mapping[int, float]) -> Path:
    parts: list[str] = []
    starts: list[int] = []
    end = 0
    for piece, number in zip(cast.pieces, cast.contents, strict=False):
        text = texts[number]
        starts.append(end)
        parts += (piece, text)
        end += len(piece) + len(text)
    starts.append(end)
    parts.append(cast.pieces[-1])
    spans = [(starts[a] + x, starts[b] + y, trained[turn]) for (a, x), (b, y), turn in cast.spans]
    return Path("".join(parts), spans, [starts[piece] + offset for piece, offset in cast.cuts])
