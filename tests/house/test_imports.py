"""Imports run downward only, siblings do not know each other, nothing goes in circles, and every module loads."""

import ast
import graphlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src"
LEVELS = (
    {"__main__"},
    {"cli"},
    {"cli_help"},
    {"recipes"},
    {"train", "evals", "feedback", "synthesis", "serve", "pocket", "planning"},
    {"rollouts"},
    {"data", "models"},
    {"types", "errors", "intervals", "allocator", "openmp", "verbs"},
    {"packed_types"},
)
LEVEL = {room: depth for depth, level in enumerate(LEVELS) for room in level}
MAY_USE_LOSSES = set().union(*LEVELS[3:6])


def module_name(path: Path) -> str:
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted((SRC / "posttrain").rglob("*.py"))}


def imports(name: str) -> Iterator[tuple[str, int]]:
    """Every module that a module imports, wherever in the file it does so, with the line."""
    path = FILES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            source = ".".join(part for part in (start, node.module or "") if part)
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                yield (inner if inner in FILES else source), node.lineno


def room(name: str) -> str:
    """`data` for posttrain.data.packing; the package itself has no room and belongs to all."""
    return [*name.split("."), ""][1]


def test_every_room_has_a_level() -> None:
    unknown = {room(name) for name in FILES} - set(LEVEL) - {"losses", ""}
    assert not unknown, f"say in LEVELS where {', '.join(sorted(unknown))} stands"


@pytest.mark.parametrize("name", FILES)
def test_imports_run_downward(name: str) -> None:
    here = room(name)
    for target, line in imports(name):
        there = room(target)
        if target.split(".")[0] != "posttrain" or there in ("", here):
            continue
        below = here in LEVEL and LEVEL[here] < LEVEL.get(there, -1)
        allowed = here in MAY_USE_LOSSES if there == "losses" else below
        assert allowed, f"{FILES[name]}:{line}: {here or 'the package'} must not import {there}"


@pytest.mark.parametrize("name", [name for name in FILES if room(name) == "losses"])
def test_losses_import_torch_alone(name: str) -> None:
    for target, line in imports(name):
        top = target.split(".")[0]
        allowed = top in sys.stdlib_module_names or top == "torch" or target.startswith("posttrain.losses")
        assert allowed, f"{FILES[name]}:{line}: a loss must not import {target}"


def test_no_cycles() -> None:
    graph = {name: {target for target, _ in imports(name) if target in FILES and target != name} for name in FILES}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail("modules import each other in a circle: " + " → ".join(error.args[1]))


@pytest.mark.parametrize("name", FILES)
def test_every_module_imports(name: str) -> None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        # An optional engine is imported in the one file named after it, and only there may it be missing.
        if error.name != FILES[name].stem:
            raise
        pytest.skip(f"{error.name} is not installed")
