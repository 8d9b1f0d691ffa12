"""What hooks a model's own forward (DDP, FSDP2), and how code that reads a model piece by piece goes through it.

Training here calls the trunk of a model and reads the matrix of its head, never the model's forward itself. An engine
that gathers weights before a forward, or gradients after it, hears of that only where all of it runs inside one call.
"""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import nn

Found = TypeVar("Found")
Engine = Callable[[Callable[[], Any]], Any]

_ENGINES: WeakKeyDictionary[nn.Module, Engine] = WeakKeyDictionary()
_PLACES: WeakKeyDictionary[nn.Module, torch.device] = WeakKeyDictionary()
_INSIDE: ContextVar[frozenset[int]] = ContextVar("inside", default=frozenset())


class Whole(nn.Module):
    """What an engine wraps: a forward that is whatever is to be computed with these modules."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        self.modules_inside = nn.ModuleList(modules)

    def forward(self, call: Callable[[], Found]) -> Found:
        """Compute it."""
        return call()


def set_engine(model: nn.Module, engine: Engine, place: torch.device) -> None:
    """From now on what is computed with `model` runs inside `engine(call)`, on the device `place`."""
    _ENGINES[model], _PLACES[model] = engine, place


def engine_of(model: nn.Module) -> Engine | None:
    """What `set_engine` was told."""
    return _ENGINES.get(model)


def place_of(model: nn.Module) -> torch.device:
    """Where it computes: under an engine its weights may wait elsewhere."""
    return _PLACES.get(model) or next(model.parameters()).device


def forget_engines() -> None:
    """Let go of all of them: an engine holds its model."""
    _ENGINES.clear()
    _PLACES.clear()


def within(model: nn.Module, call: Callable[[], Found]) -> Found:
    """`call()`, inside the engine of the model where it has one. Tensors of the result that a gradient is to come back
    through must be the result itself, or in a tuple or dict of it."""
    engine, inside = _ENGINES.get(model), _INSIDE.get()
    if engine is None or id(model) in inside:
        return call()
    token = _INSIDE.set(inside | {id(model)})
    try:
        found: Found = engine(call)
        return found
    finally:
        _INSIDE.reset(token)
