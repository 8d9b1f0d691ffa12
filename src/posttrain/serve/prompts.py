"""From a request to what the engine is asked: the prompt's ids, and how tokens are drawn."""

import secrets
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from posttrain.data.template import render_prompt
from posttrain.errors import DataError
from posttrain.rollouts.asking import Ask
from posttrain.rollouts.sampling import Decoding, Request
from posttrain.rollouts.text_ids import AskIds, plain_text
from posttrain.serve.doors import Asked, Served, TooLong
from posttrain.serve.failures import Refused
from posttrain.serve.limits import Limits
from posttrain.serve.protocol import Asking, ChatMessage, ChatRequest, CompletionRequest, Tool
from posttrain.types import Message, ToolCall

ROLES = {"developer": "system"}
COOLEST = 1e-4  # below it a temperature divides logits past what a float holds; the likeliest token is all it leaves
TEXT_TOKENS = 16  # OpenAI's default of completions
MANY_SEEDS = 2**63
KEPT = "_posttrain_ask_ids"
LONG = 8  # characters for each token of the context, beyond which a text is first looked at in slices
SLICE, AT_CUTS = 4_096, 8  # characters of a slice, and the tokens that a cut may add


def ask_ids(tokenizer: Any) -> AskIds:
    """What turns texts into ids for a tokenizer, made once. It is kept by the tokenizer itself and goes with it."""
    found: AskIds | None = vars(tokenizer).get(KEPT)
    if found is None:
        found = vars(tokenizer)[KEPT] = AskIds(tokenizer)
    return found


def turns(messages: Sequence[ChatMessage]) -> tuple[Message, ...]:
    """The messages as records. Raises Refused naming the one at fault."""
    made = []
    for number, message in enumerate(messages):
        content = message.content or ""
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        calls = tuple(
            ToolCall(call.function.name, call.function.arguments, call.id) for call in message.tool_calls or ()
        )
        if not (text or calls) and message.role == "assistant":
            raise Refused(400, f"messages.{number}: an answer has content or tool calls.", param=f"messages.{number}")
        try:
            made.append(
                Message(
                    ROLES.get(message.role, message.role),
                    text,
                    reasoning=message.reasoning_content or "",
                    tool_calls=calls,
                    tool_call_id=message.tool_call_id or "",
                    name=message.name or "",
                )
            )
        except ValueError as error:
            raise Refused(400, f"messages.{number}: {error}.", param=f"messages.{number}") from None
    return tuple(made)


def offered(tools: Sequence[Tool] | None) -> tuple[Mapping[str, Any], ...]:
    """The tools' schemas."""
    return tuple(tool.model_dump(exclude_none=True) for tool in tools or ())


def chat_asked(body: ChatRequest, messages: Sequence[Message], served: Served, limits: Limits, n: int) -> Asked:
    """A chat for the engine. Raises Refused, TooLong, and DataError where the template refuses the messages."""
    if body.limit == 0:
        raise Refused(400, "max_tokens: at least 1.", param="max_tokens")
    ids = ask_ids(served.tokenizer)
    start, asked = "", list(messages)
    if body.continue_final_message:
        if body.add_generation_prompt or asked[-1].role != "assistant" or asked[-1].tool_calls:
            said = "continue_final_message goes on with a last message of the assistant, and no generation prompt."
            raise Refused(400, said, param="continue_final_message")
        start = asked.pop().content
        if not asked:
            raise Refused(400, "messages: nothing stands before the message that is gone on with.", param="messages")
    elif body.add_generation_prompt is False:
        raise Refused(
            400, "add_generation_prompt: false only beside continue_final_message.", param="add_generation_prompt"
        )
    tools = () if body.tool_choice == "none" else offered(body.tools)
    room = partial(_require_room, served)
    room(start)
    if ids.is_plain and tools:
        raise Refused(400, "this model has no chat template, so it cannot be offered tools.", param="tools")
    try:
        if ids.is_plain:
            room(plain_text(asked))
            prompt = ids.prompt(Ask(messages=tuple(asked), start=start))
        else:
            prompt = render_prompt(asked, served.tokenizer, tools, look=room) + ids.behind(start)
    except (DataError, ValueError) as error:
        raise Refused(400, str(error), param="messages") from None
    stops = ids.stops(Ask(messages=tuple(asked)))
    return _asked(body, prompt, served, limits, n, limit=body.limit, stops=stops, num_top=body.num_top)


def text_asked(body: CompletionRequest, prompt: str | Sequence[int], served: Served, limits: Limits) -> Asked:
    """A text for the engine. What it says of control tokens stays text; ids may be any."""
    ids = ask_ids(served.tokenizer)
    if isinstance(prompt, str):
        _require_room(served, prompt)
        try:
            found = ids.prompt(Ask(text=prompt)) if prompt.strip() else ids.behind(prompt)
        except (DataError, ValueError) as error:
            raise Refused(400, str(error), param="prompt") from None
        begin = served.tokenizer.bos_token_id
        if begin is not None:
            has_begin = found[:1] == [begin]
            found = found if has_begin else [begin, *found]
            found = found[1:] if body.add_special_tokens is False else found
    else:
        found = list(prompt)
        _require_known(found, served, "prompt")
    if not found:
        raise Refused(400, "prompt: there is nothing in it.", param="prompt")
    limit = TEXT_TOKENS if body.max_tokens is None else body.max_tokens
    if not limit and not body.echo:
        raise Refused(
            400, "max_tokens: 0 only beside echo, for the log-probabilities of the prompt.", param="max_tokens"
        )
    scores = bool(body.echo and body.logprobs is not None)
    n = body.n or 1
    return _asked(body, found, served, limits, n, limit=max(limit, 1), num_top=body.logprobs, score_prompt=scores)


def _asked(
    body: Asking,
    prompt: Sequence[int],
    served: Served,
    limits: Limits,
    n: int,
    *,
    limit: int | None,
    stops: Sequence[str] = (),
    num_top: int | None = None,
    score_prompt: bool = False,
) -> Asked:
    room = served.context - len(prompt)
    if room < 1:
        raise TooLong(f"the prompt has {len(prompt):,} tokens, and the model has room for {served.context:,}.")
    most = min(each for each in (limit, room, limits.max_tokens) if each)
    ends = [] if body.ignore_eos else list(ask_ids(served.tokenizer).stop_ids)
    ends += body.stop_token_ids or []
    _require_known(body.stop_token_ids or (), served, "stop_token_ids")
    bias = {int(id): value for id, value in (body.logit_bias or {}).items()}
    _require_known(list(bias), served, "logit_bias")
    temperature = 1.0 if body.temperature is None else body.temperature
    decoding = Decoding(
        most,
        temperature=temperature if temperature >= COOLEST else 0.0,
        top_p=1.0 if body.top_p is None else body.top_p,
        top_k=min(max(body.top_k or 0, 0), len(served.tokenizer)),
        min_p=body.min_p or 0.0,
        stop_token_ids=tuple(dict.fromkeys(ends)),
        stop_strings=(*body.stops, *stops),
    )
    seed = secrets.randbits(63) if body.seed is None else body.seed
    # The first answer has the very seed that was given; the others those that follow it.
    seeds = (seed, *((seed + number) % MANY_SEEDS for number in range(1, n)))
    request = Request(tuple(prompt), seeds)
    return Asked(request, decoding, num_top, score_prompt, bias, min(body.min_tokens or 0, most))


def _require_known(ids: Sequence[int], served: Served, param: str) -> None:
    most = len(served.tokenizer)
    wrong = next((id for id in ids if not 0 <= id < most), None)
    if wrong is not None:
        raise Refused(400, f"{param}: {wrong} is no token id of the model, which has {most:,}.", param=param)


def _require_room(served: Served, text: str) -> None:
    """Raises TooLong for a text that cannot fit, once about as much of it as fits was encoded: megabytes take seconds,
    and all prompts are encoded in one thread."""
    if len(text) <= LONG * served.context:
        return
    backend, found = served.tokenizer.backend_tokenizer, 0
    for start in range(0, len(text), SLICE):
        found += max(0, len(backend.encode(text[start : start + SLICE], add_special_tokens=False)) - AT_CUTS)
        if found >= served.context:
            raise TooLong(f"the prompt has more than {found:,} tokens, and the model has room for {served.context:,}.")
