"""Conversations to token ids and train masks, through the tokenizer's own chat template.

The mask is found by rendering prefixes and comparing, so it holds for any template. Two promises: control tokens come
only from the template (a user who types one gets its characters), and the tokens before an answer are those that the
model will be given when it is asked.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from jinja2 import TemplateError

from posttrain.errors import DataError
from posttrain.types import Conversation, Document, Message, Sample, Segment

CHATML = (
    "{{ bos_token or '' }}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SHIPPED = {"chatml": (CHATML, ("<|im_start|>", "<|im_end|>"))}

# Private-use characters that stand inside a control token's text while the template is rendered.
MARKS = "\ue000\ue001\ue002\ue003"


def install_template(tokenizer: Any, name: str) -> int:
    """Give a tokenizer the shipped template `name` or the one in a Jinja file; returns how many tokens were added."""
    tokens: tuple[str, ...] = ()
    if name in SHIPPED:
        template, tokens = SHIPPED[name]
    else:
        try:
            with open(name, encoding="utf-8") as file:
                template = file.read()
        except OSError as error:
            known = ", ".join(SHIPPED)
            raise DataError(f"no chat template of that name ({known}) and no such file.", file=name) from error
    tokenizer.chat_template = template
    return tokenizer.add_special_tokens(
        {"extra_special_tokens": [token for token in tokens if token not in tokenizer.get_vocab()]}
    )


def render(conversation: Conversation, tokenizer: Any, *, prompt_weight: float = 0.0, train_on: str = "all") -> Sample:
    """Token ids and loss weights of one conversation: 1 on what the assistant says, its stop token included.

    `prompt_weight`: the weight of every other token. `train_on`: 'all' assistant turns, or the 'last' one only.
    Raises DataError where there is no assistant turn, or where the template cannot be split there.
    """
    source = conversation.source
    turns = [i for i, message in enumerate(conversation.messages) if message.role == "assistant"]
    if not turns:
        raise DataError("no assistant turn, so there is nothing to train on.", file=source, field="messages")
    mark, messages = _escape(conversation.messages, tokenizer)
    text = _render(messages, tokenizer, source)
    spans = [_turn_span(messages, turn, text, tokenizer, source) for turn in turns]
    ids, places = _encode(text, [start for start, _ in spans], tokenizer, mark)
    trained = spans if train_on == "all" else spans[-1:]
    weights = [1.0 if any(a <= s and e <= b for a, b in trained) else prompt_weight for s, e in places]
    weights[0] = 0.0
    return Sample((Segment(tuple(ids), tuple(weights)),), source)


def render_prompt(messages: Sequence[Message], tokenizer: Any) -> list[int]:
    """The token ids that ask the assistant for its next turn."""
    mark, escaped = _escape(messages, tokenizer)
    text = _render(escaped, tokenizer, "", add_generation_prompt=True)
    answers = [turn for turn, message in enumerate(messages) if turn and message.role == "assistant"]
    starts = [_render(escaped[:turn], tokenizer, "", add_generation_prompt=True) for turn in answers]
    # Earlier answers are cut where `render` cuts them, so that the history is the one that was trained on.
    return _encode(text, [len(start) for start in starts if text.startswith(start)], tokenizer, mark)[0]


def render_document(document: Document, tokenizer: Any) -> Sample:
    """Plain text between the tokenizer's begin and end tokens; all of it is trained but the first token."""
    mark, (message,) = _escape([Message("user", document.text)], tokenizer)
    ids, _ = _encode(message["content"], [], tokenizer, mark)
    if tokenizer.bos_token_id is not None:
        ids = [tokenizer.bos_token_id, *ids]
    if tokenizer.eos_token_id is not None:
        ids = [*ids, tokenizer.eos_token_id]
    return Sample((Segment(tuple(ids), (0.0,) + (1.0,) * (len(ids) - 1)),), document.source)


def stop_token_ids(tokenizer: Any) -> list[int]:
    """What ends an assistant turn in this template, and the tokenizer's own end of text (alone, without a template)."""
    if tokenizer.chat_template is None:
        return [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    probe = Conversation((Message("user", "a"), Message("assistant", "b")))
    segment = render(probe, tokenizer).segments[0]
    last = max(i for i, weight in enumerate(segment.weights) if weight)
    ends = [segment.token_ids[last], tokenizer.eos_token_id]
    return list(dict.fromkeys(token for token in ends if token is not None))


def truncate(sample: Sample, max_length: int) -> Sample | None:
    """The first `max_length` tokens of a one-segment sample; None where nothing trained is left of it."""
    (segment,) = sample.segments
    if len(segment.token_ids) > max_length:
        segment = Segment(segment.token_ids[:max_length], segment.weights[:max_length])
        sample = Sample((segment,), sample.source)
    return sample if sample.num_trained else None


def _controls(tokenizer: Any) -> list[str]:
    """Texts that the tokenizer turns into special tokens, longest first."""
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return sorted(special, key=len, reverse=True)


def _escape(messages: Iterable[Message], tokenizer: Any) -> tuple[str, list[dict[str, str]]]:
    """Break up control tokens typed in a message with a mark that nobody typed; the mark goes away with the ids."""
    messages = list(messages)
    everything = "".join(message.content for message in messages)
    mark = next((mark for mark in MARKS if mark not in everything), None)
    if mark is None:
        raise DataError("the text uses every private-use character from U+E000 to U+E003; remove one.")
    escaped = []
    for message in messages:
        content = message.content
        for control in _controls(tokenizer):
            content = content.replace(control, control[0] + mark + control[1:])
        escaped.append({"role": message.role, "content": content})
    return mark, escaped


def _render(messages: list[dict[str, str]], tokenizer: Any, source: str, *, add_generation_prompt: bool = False) -> str:
    if tokenizer.chat_template is None:
        raise DataError("the tokenizer has no chat template; name one (chat_template: chatml).", file=source)
    try:
        # A list of one conversation, since an empty conversation alone is refused.
        (text,) = tokenizer.apply_chat_template([messages], tokenize=False, add_generation_prompt=add_generation_prompt)
        return text
    except TemplateError as error:
        raise DataError(f"the chat template refuses this conversation: {error}", file=source) from error


def _turn_span(messages: list[dict[str, str]], turn: int, text: str, tokenizer: Any, source: str) -> tuple[int, int]:
    """Characters [start, end) of what the assistant says in one turn, through its stop token."""
    before = _render(messages[:turn], tokenizer, source, add_generation_prompt=True)
    through = _render(messages[: turn + 1], tokenizer, source)
    if not (text.startswith(before) and text.startswith(through) and len(through) > len(before)):
        raise DataError(
            "the chat template writes this turn differently when more follows, so what is trained cannot be told "
            "from the prompt; use another template (chat_template: chatml).",
            file=source,
            field=f"messages[{turn}]",
        )
    said = through[len(before) :].rstrip()
    if not said.endswith(tuple(_controls(tokenizer))):
        raise DataError(
            "the chat template ends an assistant turn without a stop token, so the model would never learn to stop; "
            "use another template (chat_template: chatml).",
            file=source,
            field=f"messages[{turn}]",
        )
    return len(before), len(before) + len(said)


def _encode(text: str, cuts: Sequence[int], tokenizer: Any, mark: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Ids and character places. Text is cut only where a token would straddle the start of an answer: the model is
    given the prompt alone when it is asked, so it must meet the same prompt tokens here."""
    ids, places = _encode_piece(text, tokenizer, mark)
    for cut in cuts:
        if any(start < cut < end for start, end in places):
            head, head_places = _encode(text[:cut], cuts, tokenizer, mark)
            tail, tail_places = _encode(text[cut:], [c - cut for c in cuts if c > cut], tokenizer, mark)
            return head + tail, head_places + [(s + cut, e + cut) for s, e in tail_places]
    return ids, places


def _encode_piece(text: str, tokenizer: Any, mark: str) -> tuple[list[int], list[tuple[int, int]]]:
    out = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    kept = [
        (token, place)
        for token, place in zip(out["input_ids"], out["offset_mapping"], strict=True)
        if text[place[0] : place[1]] != mark
    ]
    return [token for token, _ in kept], [tuple(place) for _, place in kept]
