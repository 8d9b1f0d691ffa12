"""How a chat template writes tool calls, found by giving it marked ones, and answers read back by that.

Known are the forms of Hermes and Qwen (`<tool_call>` JSON `</tool_call>`), Llama 3 (JSON with "parameters", bare or
behind `<|python_tag|>`), Mistral (`[TOOL_CALLS]` and a JSON list, or a name, `[ARGS]` and JSON) and Phi, and whatever
else is JSON between marks. A form is taken only where it reads back what the template wrote.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

from posttrain.data.tool_probe import Found, probe
from posttrain.data.tool_reading import MAX_CALLS, Parsed, Shape, parse, same_calls
from posttrain.types import Message, ToolCall


@dataclass(frozen=True)
class Said:
    """An answer: its text and the calls behind it. `problems`: why the calls in it cannot be read, in words for the
    model; then `message` has none, and its content is all that was said."""

    message: Message
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class ToolSyntax:
    """How one tokenizer's template writes calls.

    `several`: it takes more than one call an answer. `with_text`: it shows text before calls. `ids`: calls need an id
    ('needed'), it is shown where there is one ('shown'), or never ('hidden'). `mends_as`: the role under which a model
    is told that its call cannot be read.
    """

    tokenizer: Any
    shape: Shape
    several: bool = True
    with_text: bool = True
    ids: str = "hidden"
    mends_as: str = "tool"

    def read(self, token_ids: Sequence[int], *, text: str | None = None, turn: int = 0) -> Said:
        """The answer that was sampled. Where the mark of a call is a token of its own, only that token is one: its
        letters, which somebody may have typed, are text. `text`: of an answer without calls, where it is known
        already. `turn`: its number in the conversation, so that calls of two turns have two ids."""
        shown, places = self._shown(token_ids)
        found = self._checked(shown, parse(shown, self.shape, places))
        if not (found.calls or found.problems) and text is not None:
            return Said(Message("assistant", text))
        return self._said(found, turn)

    def parse(self, text: str, *, turn: int = 0) -> Said:
        """The answer in a text that nobody but a model wrote: every mark in it is one."""
        return self._said(self._checked(text, parse(text, self.shape)), turn)

    def shows_same(self, token_ids: Sequence[int], said: Message) -> bool:
        """Whether these tokens, which the template made of `said`, are the same text and the same calls. A block of
        thoughts that holds none is no difference: Qwen's templates put one in or leave it out by the turns around."""
        found = self.read(token_ids).message
        calls, wanted = ([(call.name, call.arguments) for call in m.tool_calls] for m in (found, said))
        return _letters(found.content) == _letters(said.content) and same_calls(calls, wanted)

    def _said(self, found: Parsed, turn: int) -> Said:
        calls = []
        for place, call in enumerate(found.calls):
            number = call.id if re.fullmatch(r"[a-zA-Z0-9]{9}", call.id) or (call.id and self.ids != "needed") else ""
            if not number and self.ids != "shown":  # an id that the model never said is not shown to it either
                number = _made_id(turn, place, call.name, call.arguments)
            calls.append(ToolCall(call.name, call.arguments, number))
        return Said(Message("assistant", found.content, tool_calls=tuple(calls)), found.problems)

    def _checked(self, text: str, found: Parsed) -> Parsed:
        """With what this template cannot show as a problem."""
        problems = []
        if found.calls and found.content and not self.with_text:
            problems.append("text stands before a call; an answer is a call or text, not both")
        if len(found.calls) > 1 and not self.several:
            problems.append("more than one call in an answer; make one at a time")
        return Parsed(text, (), tuple(problems)) if problems else found

    @cached_property
    def _added(self) -> dict[int, Any]:
        found: dict[int, Any] = self.tokenizer.added_tokens_decoder
        return found

    def _shown(self, token_ids: Sequence[int]) -> tuple[str, list[int] | None]:
        """The text without the stop token and without special tokens that are no marks, and where marks are."""
        known = self._added
        marks = [mark for mark in (self.shape.open, self.shape.other_open) if mark]
        kept = [n for n in token_ids if n not in known or not known[n].special or self._is_part(known[n].content)]
        inner = {text: mark.find(text) for mark in marks for text in self._tokens_in(mark)[:1]}
        shown = self._text(kept)
        if not inner:
            return shown, None
        places = []
        for place, token in enumerate(kept):
            text = known[token].content if token in known else ""
            if text in inner:
                before = len(self._text(kept[:place]))
                found = shown.find(text, max(0, before - 2))  # a decoder may trim a space where a text ends
                places += [found - inner[text]] if found >= 0 else []
            if len(places) > MAX_CALLS:
                break
        return shown, places

    def _is_part(self, text: str) -> bool:
        shape = self.shape
        return any(text in part for part in (shape.open, shape.close, shape.separator, shape.id_mark, shape.other_open))

    def _tokens_in(self, mark: str) -> list[str]:
        added = {token.content for token in self._added.values()}
        return sorted((text for text in added if text.strip() and text in mark), key=mark.find)

    def _text(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text


# What the probes found, not the syntax: that holds its tokenizer, which would then never be let go.
_KEPT: "WeakKeyDictionary[Any, tuple[str, Found]]" = WeakKeyDictionary()


def tool_syntax(tokenizer: Any) -> ToolSyntax:
    """How a tokenizer's chat template writes calls. Raises DataError where it has no template, where the template
    shows no calls, or writes them in a form that cannot be read back; the message says what to do."""
    key = f"{len(tokenizer)} {tokenizer.chat_template}"
    kept = _KEPT.get(tokenizer)
    if kept is None or kept[0] != key:
        kept = _KEPT[tokenizer] = (key, probe(tokenizer))
    found = kept[1]
    return ToolSyntax(tokenizer, found.shape, found.several, found.with_text, found.ids, found.mends_as)


def _made_id(turn: int, place: int, name: str, arguments: str) -> str:
    """Nine letters and digits, as Mistral's templates want them: the same for the same call at the same place."""
    digest = hashlib.sha256(repr((turn, place, name, arguments)).encode("utf-8", "surrogatepass")).digest()
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    number, made = int.from_bytes(digest, "big"), ""
    for _ in range(9):
        number, rest = divmod(number, len(letters))
        made += letters[rest]
    return made


def _letters(text: str) -> str:
    """A text without its space, which templates trim, and without an empty block of thoughts."""
    return "".join(text.split()).replace("<think></think>", "")
