"""The stages of a pipeline as a graph, in an order in which each comes after all that it waits for."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.errors import ConfigError

REFERENCE = re.compile(r"(?<!\{)\{([A-Za-z][\w/-]*)(?:\.([a-z_]+))?\}(?!\})")


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage, a round's among them (`name` is then `rounds/2/stage`). In `given` and `start` stand references by
    full names: {name} or {name.product}. `start`: the model that it begins with if it names none. `needs`: full
    names. `rounds`, `round`: the rounds that it is part of, and the number."""

    name: str
    verb: str
    given: Mapping[str, Any]
    start: str
    needs: tuple[str, ...]
    gates: tuple[str, ...] = ()
    rounds: str = ""
    round: int = 0


@dataclass(frozen=True, slots=True)
class Rounds:
    """The same stages several times. `results[k]`: a reference to the model that k rounds leave; 0 is the start."""

    name: str
    results: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Graph:
    """`stages` in the order in which they run; `result`: a reference to the model of the last that trains; `start`: the
    model that the pipeline begins with."""

    stages: tuple[Stage, ...]
    rounds: Mapping[str, Rounds]
    result: str
    start: str = ""


def replaced(value: Any, pattern: re.Pattern[str], to: Callable[[re.Match[str]], str]) -> Any:
    """Every text inside a value of a recipe with what the pattern finds replaced."""
    if isinstance(value, str):
        return pattern.sub(to, value)
    if isinstance(value, list):
        return [replaced(item, pattern, to) for item in value]
    return {key: replaced(item, pattern, to) for key, item in value.items()} if isinstance(value, dict) else value


def ordered(stages: Sequence[Stage], groups: Mapping[str, Rounds]) -> list[Stage]:
    """Each after all that it needs, otherwise as written. ConfigError where stages wait for each other."""
    waits = {stage.name: _waits_for(stage, stages, groups) for stage in stages}
    left, done = list(stages), set[str]()
    ordered: list[Stage] = []
    while left:
        ready = next((stage for stage in left if waits[stage.name] <= done), None)
        if ready is None:
            circle = " -> ".join(_circle(left[0].name, waits, done))
            raise ConfigError(f"stages wait for each other: {circle}; take one of these references out.")
        left.remove(ready)
        ordered.append(ready)
        done.add(ready.name)
    return ordered


def _waits_for(stage: Stage, stages: Sequence[Stage], groups: Mapping[str, Rounds]) -> set[str]:
    """Names of single stages: rounds stand for all of theirs, and a round comes after the whole one before."""
    found: set[str] = set()
    for need in stage.needs:
        found |= {one.name for one in stages if one.rounds == need} if need in groups else {need}
    if stage.round > 1:
        found |= {one.name for one in stages if one.rounds == stage.rounds and one.round == stage.round - 1}
    return found


def _circle(name: str, waits: Mapping[str, set[str]], done: set[str]) -> list[str]:
    path = [name]
    while True:
        path.append(min(waits[path[-1]] - done))
        if path[-1] in path[:-1]:
            return path[path.index(path[-1]) :]
