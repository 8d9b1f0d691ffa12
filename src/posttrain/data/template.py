"""Conversations to token ids and loss weights, through the tokenizer's own chat template.

What is trained is found by rendering prefixes and comparing, so it holds for any template. Two promises: control tokens
come only from the template (a user who types one gets its characters), and the tokens before an answer are those that
the model will be given when it is asked. A template may show an earlier answer otherwise once more turns follow (Qwen 3
drops its reasoning); then the sample is a tree, and each answer is trained behind the prompt that it is given for.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from posttrain.data.branches import branch
from posttrain.data.controls import Controls, free_mark
from posttrain.data.encode import Engine, Tokens, cut_up, plain_backend, weigh, weigh_in_pieces
from posttrain.data.forms import Form, form
from posttrain.data.moulds import Moulds, shape_of
from posttrain.data.paths import REFUSALS, Path, Texts, answer_turns, find_paths, render_texts
from posttrain.data.shipped import SHIPPED, shipped
from posttrain.errors import DataError
from posttrain.types import Conversation, Document, Message, Sample, Segment

PROBES = (
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
    [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
)


@dataclass(frozen=True)
class _Scribe:
    """What is made once for a tokenizer and its template."""

    engine: Engine
    controls: Controls
    moulds: Moulds
    source: str  # of the template; "" where there is none


_SCRIBES: "WeakKeyDictionary[Any, tuple[Any, _Scribe]]" = WeakKeyDictionary()


def install_template(tokenizer: Any, name: str) -> int:
    """Give a tokenizer the shipped template `name` or the one in a Jinja file; returns how many tokens were added."""
    tokens: tuple[str, ...] = ()
    spoken: tuple[str, ...] = ()
    if name in SHIPPED:
        found = shipped(name)
        template, tokens, spoken = found.text, found.tokens, found.spoken
        if "eos_token" in template and tokenizer.eos_token is None:
            raise DataError(f"template {name} ends answers with the end-of-text token, and this tokenizer has none.")
    else:
        try:
            with open(name, encoding="utf-8") as file:
                template = file.read()
        except (OSError, UnicodeDecodeError) as error:
            known = ", ".join(SHIPPED)
            raise DataError(f"no chat template of that name ({known}) and no such file.", file=name) from error
    tokenizer.chat_template = template
    # A token that is known but ordinary becomes special: only special tokens are kept out of everything that is typed.
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    from tokenizers import AddedToken

    before = len(tokenizer)
    missing = [token for token in tokens if token not in special]
    tokenizer.add_special_tokens({"extra_special_tokens": missing}, replace_extra_special_tokens=False)
    known = tokenizer.get_vocab()
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in spoken if token not in known])
    return len(tokenizer) - before


def render(conversation: Conversation, tokenizer: Any, *, prompt_weight: float = 0.0, train_on: str = "all") -> Sample:
    """Token ids and loss weights of one conversation: on what the assistant says, its stop token included, the weight
    of the message (1 where it has none).

    `prompt_weight`: the weight of every other token. `train_on`: 'all' assistant turns, or the 'last' one only. What
    follows the last trained answer is left away. The sample is one segment, or a tree where the template shows
    earlier turns otherwise once more turns follow.

    Raises DataError where there is no assistant turn, or where the template cannot be split at one.
    """
    (sample,) = render_many([conversation], tokenizer, prompt_weight=prompt_weight, train_on=train_on)
    if isinstance(sample, DataError):
        raise sample
    return sample


def render_many(
    conversations: Sequence[Conversation], tokenizer: Any, *, prompt_weight: float = 0.0, train_on: str = "all"
) -> list[Sample | DataError]:
    """`render` for many conversations at once, several times as fast; an error takes the place of its sample."""
    scribe = _scribe(tokenizer)
    planned = _plan(conversations, tokenizer, scribe, train_on)
    rows = iter(
        _encoded([found for found in planned if not isinstance(found, DataError)], scribe.engine, prompt_weight)
    )
    samples: list[Sample | DataError] = []
    for conversation, found in zip(conversations, planned, strict=True):
        if isinstance(found, DataError):
            samples.append(found)
        else:
            samples.append(Sample(branch([next(rows) for _ in found[1]]), conversation.source))
    return samples


def _encoded(planned: Sequence[tuple[str, list[Path]]], engine: Engine, prompt_weight: float) -> Iterator[Tokens]:
    """Ids and weights of every path, those without a mark from one call of the tokenizer."""
    plain = [path for mark, paths in planned if not mark for path in paths]
    if engine.may_cut:
        pieces = [cut_up(path.text, path.spans, path.cuts, prompt_weight) for path in plain]
        texts = [text for of_path in pieces for text, _ in of_path]
        found = iter(engine.backend.encode_batch_fast(texts, add_special_tokens=False))
        done = iter([_joined([(next(found).ids, weight) for _, weight in of_path]) for of_path in pieces])
    else:
        encodings = engine.backend.encode_batch([path.text for path in plain], add_special_tokens=False)
        done = iter(
            [
                weigh(engine, encoding, path.text, path.spans, path.cuts, prompt_weight)
                for encoding, path in zip(encodings, plain, strict=True)
            ]
        )
    for mark, paths in planned:
        for path in paths:
            row = None if mark else next(done)
            if row is None:
                row = weigh_in_pieces(engine, path.text, path.spans, path.cuts, prompt_weight, mark)
            row[1][0] = 0.0  # nothing predicts the first token
            yield row


def _joined(pieces: Sequence[tuple[list[int], float]]) -> Tokens | None:
    ids: list[int] = []
    weights: list[float] = []
    for found, weight in pieces:
        ids += found
        weights += [weight] * len(found)
    return ids, weights


def render_prompt(
    messages: Sequence[Message],
    tokenizer: Any,
    tools: tuple[Mapping[str, Any], ...] = (),
    *,
    look: Callable[[str], None] | None = None,
) -> list[int]:
    """The token ids that ask the assistant for its next turn. `look`: is shown the text before it is encoded, and may
    raise."""
    scribe = _scribe(tokenizer)
    _require_template(tokenizer, "")
    turns = [turn for turn, message in enumerate(messages) if turn and message.role == "assistant"]
    requests = [(0, turn, True) for turn in (*turns, len(messages))]
    shown, texts = _texts_of(Conversation(tuple(messages), "", tools), requests, tokenizer, scribe)
    text = texts[requests[-1]]
    if look is not None:
        look(text)
    starts = [texts[request] for request in requests[:-1]]
    # Earlier answers are cut where `render` cuts them, so that the history is the one that was trained on.
    cuts = [len(start) for start in starts if text.startswith(start)]
    return weigh_in_pieces(scribe.engine, text, [], cuts, 0.0, shown.mark)[0]


def render_document(document: Document, tokenizer: Any) -> Sample:
    """Plain text between the tokenizer's begin and end tokens; all of it is trained but the first token."""
    scribe = _scribe(tokenizer)
    mark = free_mark([document.text]) if scribe.controls.typed_in(document.text) else ""
    text = scribe.controls.escape(document.text, mark) if mark else document.text
    ids, _ = weigh_in_pieces(scribe.engine, text, [], [], 1.0, mark)
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    ids = ([] if begin is None else [begin]) + ids + ([] if end is None else [end])
    return Sample((Segment(tuple(ids), (0.0,) + (1.0,) * (len(ids) - 1)),), document.source)


def stop_token_ids(tokenizer: Any) -> list[int]:
    """What ends an assistant turn in this template, and the tokenizer's own end of text (alone, without a template)."""
    if tokenizer.chat_template is None:
        return [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    # Some templates ask with a block of thoughts, so that only an answer with thoughts stands behind their prompt.
    probes = [Conversation((Message("user", "a"), Message("assistant", "b", thought))) for thought in ("", "c")]
    found = render_many(probes, tokenizer)
    sample = next((sample for sample in found if isinstance(sample, Sample)), None) or render(probes[0], tokenizer)
    segment = sample.segments[-1]
    last = max(i for i, weight in enumerate(segment.weights) if weight)
    ends = [segment.token_ids[last], tokenizer.eos_token_id]
    return list(dict.fromkeys(token for token in ends if token is not None))


def control_tokens(tokenizer: Any) -> tuple[str, ...]:
    """Texts that only the template may turn into their token, longest first."""
    return _scribe(tokenizer).controls.texts


def _scribe(tokenizer: Any) -> _Scribe:
    key = (str(tokenizer.chat_template), len(tokenizer), len(tokenizer.all_special_tokens))
    kept = _SCRIBES.get(tokenizer)
    if kept is None or kept[0] != key:
        template = tokenizer.chat_template or ""
        source = template if isinstance(template, str) else "\n".join(template.values())
        backend = plain_backend(tokenizer)
        # A template may put a token together from parts, so what it writes is looked at as well as its source.
        controls = Controls(tokenizer, backend, source + (_probe(tokenizer) if source else ""))
        kept = _SCRIBES[tokenizer] = (key, _Scribe(Engine(backend), controls, Moulds(source, controls), source))
    return kept[1]


def _probe(tokenizer: Any) -> str:
    written = []
    for messages in PROBES:
        for ask in (True, False):
            try:
                written += tokenizer.apply_chat_template([messages], tokenize=False, add_generation_prompt=ask)
            except REFUSALS:  # not every template takes every role; the records say so themselves
                continue
    return "\n".join(written)


Planned = tuple[str, list[Path]] | DataError  # the mark, and what is to be encoded


def _plan(conversations: Sequence[Conversation], tokenizer: Any, scribe: _Scribe, train_on: str) -> list[Planned]:
    """The texts of all conversations: from moulds where the template allows it, else from few calls of the template,
    one by one where a record stops such a call."""
    planned: list[Planned | None] = [None] * len(conversations)
    forms: dict[int, Form] = {}
    turns: dict[int, tuple[list[int], dict[int, float]]] = {}
    for number, conversation in enumerate(conversations):
        try:
            _require_template(tokenizer, conversation.source)
            turns[number] = answer_turns(conversation, train_on)
            planned[number] = _moulded(conversation, turns[number][1], tokenizer, scribe)
            if planned[number] is None:
                forms[number] = form(conversation, scribe.controls, scribe.source)
        except DataError as error:
            planned[number] = error
    try:
        texts = render_texts(tokenizer, forms, [r for number in forms for r in _requests(number, *turns[number])])
    except REFUSALS:
        texts = {}
    for number, shown in forms.items():
        try:
            planned[number] = _rendered(conversations[number], number, shown, turns[number], texts, tokenizer, scribe)
        except DataError as error:
            planned[number] = error
    return [found for found in planned if found is not None]


def _moulded(
    conversation: Conversation, trained: dict[int, float], tokenizer: Any, scribe: _Scribe
) -> tuple[str, list[Path]] | None:
    """The paths without running the template; None where its own way has to be taken."""
    shape = shape_of(conversation, trained)
    mould = scribe.moulds.find(shape, tokenizer)
    if mould is None or shape is None:
        return None
    typed_in = scribe.controls.typed_in
    if any(typed_in(message.content, assistant=message.role == "assistant") for message in conversation.messages):
        return None
    paths = mould.fill(conversation, trained)
    if paths is None:
        return None
    if not scribe.moulds.is_proven(shape):
        turns = [turn for turn, message in enumerate(conversation.messages) if message.role == "assistant"]
        shown, texts = _texts_of(conversation, _requests(0, turns, trained), tokenizer, scribe)
        scribe.moulds.prove(shape, paths == find_paths(shown, turns, trained, texts, scribe.controls))
        return _moulded(conversation, trained, tokenizer, scribe)
    return "", paths


def _rendered(
    conversation: Conversation,
    number: int,
    shown: Form,
    turns: tuple[list[int], dict[int, float]],
    texts: Texts,
    tokenizer: Any,
    scribe: _Scribe,
) -> tuple[str, list[Path]]:
    """The paths from the template's texts; alone, where the call for all of them was refused."""
    requests = _requests(number, *turns)
    if requests[0] in texts:
        alone = {(0, length, ask): texts[number, length, ask] for _, length, ask in requests}
    else:
        shown, alone = _texts_of(conversation, _requests(0, *turns), tokenizer, scribe)
    return shown.mark, find_paths(shown, *turns, alone, scribe.controls)


def _requests(number: int, turns: Sequence[int], trained: Mapping[int, float]) -> list[tuple[int, int, bool]]:
    last = max(trained)
    return [r for turn in turns if turn <= last for r in ((number, turn, True), (number, turn + 1, False))]


def _texts_of(
    conversation: Conversation, requests: Sequence[tuple[int, int, bool]], tokenizer: Any, scribe: _Scribe
) -> tuple[Form, Texts]:
    """One conversation's texts. Tool-call arguments are given as objects, and as text to a template that wants that."""
    for arguments_as_text in (False, True):
        shown = form(conversation, scribe.controls, scribe.source, arguments_as_text=arguments_as_text)
        try:
            return shown, render_texts(tokenizer, {0: shown}, requests)
        except TypeError as error:
            refusal: Exception = error
        except REFUSALS as error:
            refusal = error
            break
    raise DataError(f"the chat template refuses this conversation: {refusal}", file=conversation.source) from refusal


def _require_template(tokenizer: Any, source: str) -> None:
    if tokenizer.chat_template is None:
        raise DataError("the tokenizer has no chat template; name one (chat_template: chatml).", file=source)
