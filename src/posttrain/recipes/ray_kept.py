"""Answers of workers as JSON, as they are kept until the verb has written its output."""

import math
from collections.abc import Sequence
from typing import Any

from posttrain.rollouts.asking import Said, Weighed
from posttrain.rollouts.sampling import Completion

Json = Any


def to_json(op: str, result: Any) -> Json | None:
    """One result of an operation of HeldModel; None for an error, which is asked again the next time."""
    match op:
        case "sample":
            return [[list(one.token_ids), list(one.logps), one.finish, one.text, one.opened_at] for one in result]
        case "say":
            return None if any(one.error for one in result) else [[one.text, one.finish] for one in result]
        case "weigh":
            return None if result.error else [None if math.isinf(logp) else logp for logp in result.logps]
    return None if isinstance(result, Exception) else list(result)


def from_json(op: str, answer: Json) -> Any:
    """What `to_json` was given."""
    match op:
        case "sample":
            return [_completion(one) for one in answer]
        case "say":
            return [Said(text, finish) for text, finish in answer]
        case "weigh":
            return Weighed(tuple(-math.inf if logp is None else logp for logp in answer))
        case "texts":
            return tuple(answer)
    return list(answer)


def _completion(row: Sequence[Any]) -> Completion:
    ids, logps, finish, text, opened_at = row
    return Completion(tuple(ids), tuple(logps), finish, text, opened_at)
