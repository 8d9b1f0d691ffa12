"""What an A/B test learns from a vote."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

# How good a vote finds the answer that it is about. Who writes it anew or asks again could not use it as it stood.
VALUES = {"up": 1.0, "down": 0.0, "better": 1.0, "edit": 0.0, "regenerated": 0.0}


@dataclass(frozen=True, slots=True)
class ServedOutcome:
    """How good (0 to 1) a user found an arm's answer. `versus`: of 'better' the arm that it was preferred to; then
    `value` is 1. `replaced`: when another vote took its place, None where it stands."""

    user: str
    arm: str
    value: float
    kind: str
    versus: str = ""
    created: datetime | None = None
    replaced: datetime | None = None


def outcomes_of(kind: str, arms: Sequence[str]) -> list[dict[str, Any]]:
    """The outcomes of a vote as the store keeps them. `arms`: of the answer that is meant, then of those that it was
    better than. An answer outside a test says nothing of it, and a comparison within one arm says nothing of arms."""
    arm, *others = arms
    if not arm:
        return []
    if kind != "better":
        return [{"arm": arm, "value": VALUES[kind]}]
    lost = dict.fromkeys(other for other in others if other and other != arm)
    return [{"arm": arm, "value": VALUES[kind], "versus": other} for other in lost]
