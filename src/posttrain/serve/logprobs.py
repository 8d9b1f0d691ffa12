"""Log-probabilities of tokens in OpenAI's two layouts: of chats and of texts."""

import math
from collections.abc import Sequence
from typing import Any

from posttrain.serve.choices import top_of
from posttrain.serve.doors import Token
from posttrain.serve.spelling import Spelling

LOWEST = -9999.0  # what OpenAI shows for a token that cannot be; JSON has no infinity


def finite(logp: float) -> float:
    """A log-probability that JSON can hold."""
    return max(logp, LOWEST) if not math.isnan(logp) else LOWEST


def chat_logprobs(tokens: Sequence[Token], spelt: Spelling, num_top: int, *, as_ids: bool) -> dict[str, Any]:
    """Of a chat: an object for every token."""
    content = []
    for token in tokens:
        own = _chat_token(token.id, token.logp or 0.0, spelt, as_ids)
        # The token itself is shown with one number in both places, whatever the rounding.
        top = [own if id == token.id else _chat_token(id, logp, spelt, as_ids) for id, logp in token.top[:num_top]]
        content.append({**own, "top_logprobs": top})
    return {"content": content, "refusal": None}


def text_logprobs(tokens: Sequence[Token], spelt: Spelling, *, as_ids: bool, offset: int = 0) -> dict[str, Any]:
    """Of a text: four lists. Of tokens that are spelt alike the likeliest stands for all in `top_logprobs`. `offset`:
    where the first token begins in the text."""
    names = [_name(token.id, spelt, as_ids) for token in tokens]
    tops: list[dict[str, float] | None] = []
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(spelt.text(token.id))
        top: dict[str, float] = {}
        for id, logp in top_of(token):
            name = _name(id, spelt, as_ids)
            top[name] = max(top.get(name, LOWEST), finite(logp))
        tops.append(None if token.logp is None else top)
    logps = [None if token.logp is None else finite(token.logp) for token in tokens]
    return {"tokens": names, "token_logprobs": logps, "top_logprobs": tops, "text_offset": offsets}


def _chat_token(id: int, logp: float, spelt: Spelling, as_ids: bool) -> dict[str, Any]:
    return {"token": _name(id, spelt, as_ids), "logprob": finite(logp), "bytes": spelt.bytes(id)}


def _name(id: int, spelt: Spelling, as_ids: bool) -> str:
    return f"token_id:{id}" if as_ids else spelt.text(id)
