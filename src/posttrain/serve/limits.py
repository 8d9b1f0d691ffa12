"""Bounds of what may be asked."""

import re
from dataclasses import dataclass

# A text that never ends is taken to the end: looked for again from each of its quotes it would take for ever.
_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)


@dataclass(frozen=True)
class Limits:
    """`max_tokens`: of an answer; 0: as many as the context has room for. `body_s`: until a body is whole. `header_s`:
    until a request's headers are; `stall_s`: for how long a client may read nothing of what it is sent."""

    max_body: int = 4 * 1024 * 1024
    max_depth: int = 64
    max_messages: int = 1_000
    max_n: int = 16
    max_prompts: int = 256
    max_stops: int = 64
    max_tokens: int = 0
    request_s: float = 600.0
    body_s: float = 30.0
    header_s: float = 15.0
    stall_s: float = 30.0
    max_connections: int = 1_024
    max_requests: int = 512


def depth(body: bytes | bytearray) -> int:
    """How deep the brackets of a JSON text are nested."""
    deepest = now = 0
    for found in _TOKENS.finditer(body):
        if found[0] in (b"[", b"{"):
            now += 1
            deepest = max(deepest, now)
        elif found[0] in (b"]", b"}"):
            now -= 1
    return deepest
