"""A recipe of stages to a graph: rounds written out, and the stages that each names found."""

import difflib
import re
from collections.abc import Mapping
from typing import Any

from posttrain.errors import ConfigError
from posttrain.recipes.pipeline_config import PipelineConfig
from posttrain.recipes.pipeline_graph import REFERENCE, Graph, Rounds, Stage, ordered, replaced
from posttrain.recipes.pipeline_stages import STAGES

OWN = ("name", "verb", "needs", "gates")  # keys of a stage that are not its verb's
TAKEN = ("previous", "round", "good", "pipeline", "output_dir", "start")  # names that mean something else
OF_ROUNDS = ("name", "rounds", "stages", "result")
OF_GATE = re.compile(r"\{([A-Za-z][\w-]*)()\}")  # what follows is a figure, no product


def graph_of(config: PipelineConfig) -> Graph:
    """Check what the recipe says of the stages among each other. Raises ConfigError with the stage's name."""
    found: list[Stage] = []
    groups: dict[str, Rounds] = {}
    model = config.model
    names = {str(stage["name"]): str(stage["name"]) for stage in config.stages}
    for stage in config.stages:
        if "rounds" in stage:
            group, stages = _rounds(stage, model, names)
            groups[group.name] = group
            found += stages
            model = f"{{{group.name}}}"
        else:
            made = _stage(stage, names, model)
            found.append(made)
            model = f"{{{made.name}}}" if STAGES[made.verb].trains else model
    return Graph(tuple(ordered(found, groups)), groups, model, config.model)


def _rounds(group: Mapping[str, Any], model: str, outer: Mapping[str, str]) -> tuple[Rounds, list[Stage]]:
    """Every stage of every round; inside, {previous} is the model of the round before, {round} its number."""
    name, count, inner = str(group["name"]), group["rounds"], group.get("stages")
    if unknown := next((key for key in group if key not in OF_ROUNDS), None):
        raise ConfigError(f"stage {name!r}: unknown key {unknown!r}; rounds have {', '.join(OF_ROUNDS)}.")
    if type(count) is not int or not 1 <= count <= 1000:
        raise ConfigError(f"stage {name!r}: rounds is {count!r}, expected a whole number of at least 1.")
    if not isinstance(inner, list) or not inner:
        raise ConfigError(f"stage {name!r}: it has rounds and no stages; write a list of stages below it.")
    results, stages = [model], []
    for number in range(1, count + 1):
        local = {str(stage["name"]): f"{name}/{number}/{stage['name']}" for stage in inner}
        known = {**outer, **local}
        start = results[-1]
        for stage in inner:
            fixed = {"previous": results[-1], "round": str(number)}
            made = _stage(stage, known, start, full=local[str(stage["name"])], fixed=fixed, of=(name, number))
            stages.append(made)
            start = f"{{{made.name}}}" if STAGES[made.verb].trains else start
        chosen = group.get("result")
        if chosen is not None and str(chosen) not in local:
            raise ConfigError(f"stage {name!r}: result is {chosen!r}, expected one of {', '.join(local)}.")
        results.append(start if chosen is None else f"{{{local[str(chosen)]}}}")
    return Rounds(name, tuple(results)), stages


def _stage(
    stage: Mapping[str, Any],
    names: Mapping[str, str],
    start: str,
    *,
    full: str = "",
    fixed: Mapping[str, str] | None = None,
    of: tuple[str, int] = ("", 0),
) -> Stage:
    name, verb = full or str(stage["name"]), str(stage.get("verb"))
    _check_stage(stage, name)
    seen: list[str] = []

    def full_reference(found: re.Match[str]) -> str:
        word, product = found[1], found[2]
        if word in ("output_dir", "start"):
            return found[0]
        if fixed and word in fixed:
            seen.extend([fixed[word][1:-1]] if fixed[word].startswith("{") else [])
            return fixed[word]
        if word not in names:
            near = difflib.get_close_matches(word, [*names, *(fixed or ())], 1)
            hint = f"did you mean {{{near[0]}}}?" if near else "write {{ and }} where braces are meant."
            raise ConfigError(f"stage {name!r}: {found[0]} names no stage; {hint}")
        seen.append(names[word])
        return f"{{{names[word]}.{product}}}" if product else f"{{{names[word]}}}"

    given = {key: replaced(value, REFERENCE, full_reference) for key, value in stage.items() if key not in OWN}
    gates = tuple(OF_GATE.sub(full_reference, gate) for gate in _as_list(stage.get("gates"), name, "gates"))
    if gates and STAGES[verb].gates:
        given, gates = {**given, "gates": list(gates)}, ()
    for needed in _as_list(stage.get("needs"), name, "needs"):
        REFERENCE.sub(full_reference, f"{{{needed}}}")
    if "model" not in given and start.startswith("{"):
        seen.append(start[1:-1])
    return Stage(name, verb, given, start, tuple(dict.fromkeys(seen)), gates, *of)


def _check_stage(stage: Mapping[str, Any], name: str) -> None:
    """ConfigError for a name, a verb or a key that a stage cannot have."""
    verb = str(stage.get("verb"))
    if not re.fullmatch(r"[A-Za-z][\w-]*", str(stage["name"])) or str(stage["name"]) in TAKEN:
        taken = ", ".join(TAKEN)
        raise ConfigError(f"stage {name!r}: a name is letters, digits, - and _, a letter first; taken are {taken}.")
    if "gate" in stage:
        raise ConfigError(
            f"stage {name!r}: write `gates:` in place of `gate:`; docs/gates.md says what they hold against."
        )
    if verb not in STAGES:
        near = difflib.get_close_matches(verb, STAGES, 1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(STAGES)}."
        raise ConfigError(f"stage {name!r}: verb is {stage.get('verb')!r}, {hint}")


def _as_list(value: Any, name: str, key: str) -> list[str]:
    found = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(one, str) for one in found):
        raise ConfigError(f"stage {name!r}: {key} is {value!r}, expected text or a list of texts.")
    return found
