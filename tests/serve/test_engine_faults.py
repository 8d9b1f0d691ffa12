"""The engine's faults that were found by trying: what comes between a look-up and the queue, and who stalls whom."""

import asyncio
import random
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from posttrain.errors import ModelError
from posttrain.rollouts.sampling import Decoding, Request
from posttrain.serve import engine as engine_module
from posttrain.serve.doors import Asked, UnknownModel
from posttrain.serve.engine import LocalEngine

FOREVER = Decoding(400)


@pytest.fixture(scope="module")
def folders(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two folders of one model."""
    root = tmp_path_factory.mktemp("models")
    return {name: tiny.save_base(root / name) for name in ("one", "other")}


@pytest.fixture
def engine(folders: dict[str, Path]) -> Iterator[LocalEngine]:
    made = LocalEngine({"one": folders["one"]}, slots=4, max_waiting=30, max_positions=4096, dtype=torch.float32)
    yield made
    made.close(0.0)


def asked(decoding: Decoding, *, length: int = 9, seeds: tuple[int, ...] = (1,)) -> Asked:
    rng = random.Random(0)
    return Asked(Request(tuple(rng.randrange(3, 300) for _ in range(length)), seeds), decoding)


async def read(made: LocalEngine, what: Asked, name: str = "one") -> list[int]:
    return [token.id async for piece in made.stream(name, what) for token in piece.tokens]


def _step_behind(gate: threading.Event, stream: Any) -> None:
    """The model writes only while the gate is open."""
    step, this = type(stream).step, weakref.proxy(stream)
    stream.step = lambda: step(this) if gate.wait(0.001) else None


def test_a_model_that_goes_while_it_is_asked_leaves_nobody_waiting(
    engine: LocalEngine, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look-up of a name and the queue the model is unloaded, or replaced, and let go."""
    check, changes = engine_module._check_ids, [lambda: engine.load_model("two", str(folders["one"]))]

    def late(hosted: Any, what: Asked) -> None:
        check(hosted, what)
        if changes:
            changes.pop()()
            while engine._retired:
                time.sleep(0.001)

    engine.load_model("two", str(folders["other"]))
    monkeypatch.setattr(engine_module, "_check_ids", late)
    what = asked(Decoding(5))
    assert len(asyncio.run(asyncio.wait_for(read(engine, what, "two"), 10))) == 5
    assert engine.model("two").root == str(folders["one"])
    changes.append(lambda: engine.unload("two"))
    with pytest.raises(UnknownModel):
        asyncio.run(asyncio.wait_for(read(engine, what, "two"), 10))


def test_a_request_that_cannot_be_made_leaves_no_trace(engine: LocalEngine) -> None:
    """The third seed is none: answers in flight are counted down once, and not below nothing."""

    async def go() -> Any:
        (found,) = await asyncio.gather(read(engine, asked(FOREVER, seeds=(1, 2, 1 << 70))), return_exceptions=True)
        assert not await read(engine, asked(FOREVER, seeds=()))
        await read(engine, asked(Decoding(3)))
        return found

    assert isinstance(asyncio.run(go()), ModelError)
    assert engine._hosted["one"].in_flight == 0
    assert not engine._leaving


def test_anothers_long_prompts_do_not_stall_a_stream(engine: LocalEngine, folders: dict[str, Path]) -> None:
    """While one model writes, the prompts of another go in parts as well."""
    engine.load_model("two", str(folders["other"]))
    one, two = (engine._hosted[name].stream for name in ("one", "two"))
    gate, parts = threading.Event(), []
    _step_behind(gate, one)
    read_part, held = two._read, weakref.proxy(two)

    def watched() -> None:
        before, held.s_per_token = held.counts.prefill_tokens, 1.0  # as if the model were slow
        read_part()
        parts.append(held.counts.prefill_tokens - before)

    two._read = watched  # type: ignore[method-assign]

    async def go() -> None:
        gate.set()
        talks = engine.stream("one", asked(FOREVER))
        await anext(talks)
        gate.clear()
        await read(engine, asked(Decoding(1), length=300), "two")
        gate.set()
        await talks.aclose()  # type: ignore[attr-defined]

    asyncio.run(go())
    assert max(parts) <= 64
    assert sum(parts) == 300
