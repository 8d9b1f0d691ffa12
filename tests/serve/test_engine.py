"""The engine in this process: its pieces against the sampler's answers, and what it does when things go wrong."""

import asyncio
import gc
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from posttrain.errors import ModelError
from posttrain.models.load import Policy, load, save
from posttrain.models.lora import add_lora
from posttrain.rollouts.policy import PolicySampler
from posttrain.rollouts.sampling import Completion, Decoding, Request
from posttrain.serve.doors import Asked, Busy, Load, Piece, Stopped, TooLong, UnknownModel
from posttrain.serve.engine import LocalEngine

F32 = torch.float32
FOREVER = Decoding(400)


@pytest.fixture(scope="module")
def folders(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two models of one shape, an adapter of the first, and one whose weights are no numbers."""
    root = tmp_path_factory.mktemp("models")
    found = {name: tiny.save_base(root / name) for name in ("one", "other", "broken")}
    other, broken = load(found["other"]), load(found["broken"])
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter.add_(0.05)
        broken.model.model.layers[0].mlp.up_proj.weight[0] = torch.nan
    save(other, found["other"])
    save(broken, found["broken"])
    torch.manual_seed(0)
    adapted = add_lora(load(found["one"]), r=2)
    with torch.no_grad():
        for parameter in adapted.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2)
    found["adapter"] = root / "adapter"
    save(adapted, found["adapter"])
    return found


@pytest.fixture
def engine(folders: dict[str, Path]) -> Iterator[LocalEngine]:
    made = LocalEngine({"one": folders["one"]}, slots=4, max_waiting=30, max_positions=4096, dtype=F32)
    yield made
    made.close(0.0)


def prompt(length: int = 9, seed: int = 0) -> tuple[int, ...]:
    rng = random.Random(seed)
    return tuple(rng.randrange(3, 300) for _ in range(length))


def asked(decoding: Decoding, *, length: int = 9, seeds: tuple[int, ...] = (1,), **more: Any) -> Asked:
    return Asked(Request(prompt(length), seeds), decoding, **more)


async def read(made: LocalEngine, what: Asked, name: str = "one") -> list[Completion]:
    pieces: dict[int, list[Piece]] = {number: [] for number in range(len(what.request.seeds))}
    async for piece in made.stream(name, what):
        pieces[piece.number].append(piece)
    return [_joined(grown) for _, grown in sorted(pieces.items())]


def _joined(grown: list[Piece]) -> Completion:
    assert [bool(piece.finish) for piece in grown] == [False] * (len(grown) - 1) + [True]
    tokens = [token for piece in grown for token in piece.tokens]
    text = "".join(piece.text for piece in grown)
    return Completion(tuple(t.id for t in tokens), tuple(t.logp or 0.0 for t in tokens), grown[-1].finish, text)


def said(folder: Path, what: Asked) -> list[Completion]:
    sampler = PolicySampler(load(folder), dtype=F32)
    return sampler.sample([what.request], what.decoding)[0]


def assert_same(found: list[Completion], wanted: list[Completion]) -> None:
    """Up to rounding of the log-probabilities."""
    for one, other in zip(found, wanted, strict=True):
        assert (one.token_ids, one.finish, one.text) == (other.token_ids, other.finish, other.text)
        assert one.logps == pytest.approx(other.logps, abs=1e-5)


async def soon(is_so: Callable[[], bool]) -> None:
    for _ in range(2000):
        if is_so():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come to pass")


def test_answers_are_the_samplers(engine: LocalEngine, folders: dict[str, Path]) -> None:
    """More at once than there are slots; several answers of one request; stop strings and tokens."""
    wishes = [
        asked(Decoding(20, temperature=0), length=70),
        asked(Decoding(25, temperature=0.8, top_p=0.9, stop_strings=("e", "ab"))),
        asked(Decoding(25, top_k=9, stop_token_ids=tuple(range(3, 40))), seeds=(1, 2, 3)),
        *(asked(Decoding(12), seeds=(seed,)) for seed in range(6)),
    ]

    async def all_of_them() -> list[list[Completion]]:
        return await asyncio.gather(*(read(engine, each) for each in wishes))

    for each, found in zip(wishes, asyncio.run(all_of_them()), strict=True):
        assert_same(found, said(folders["one"], each))
    assert engine.load() == Load(0, 0, engine.load().held_positions)
    assert engine.model("one").context == 512
    assert [(each.name, each.root, each.parent) for each in engine.models()] == [("one", str(folders["one"]), "")]


def test_scores_and_likeliest_tokens_come_with_their_ids(engine: LocalEngine) -> None:
    async def go() -> list[Piece]:
        return [piece async for piece in engine.stream("one", asked(Decoding(3), num_top=2, score_prompt=True))]

    pieces = asyncio.run(go())
    assert [token.id for token in pieces[0].prompt] == list(prompt())
    assert pieces[0].prompt[0].logp is None
    assert all(len(token.top) == 2 for piece in pieces for token in (*piece.prompt[1:], *piece.tokens))
    assert not any(piece.prompt for piece in pieces[1:])


def test_what_cannot_be_answered_is_refused_before_the_first_piece(engine: LocalEngine) -> None:
    async def refused(error: type[Exception], what: Asked, name: str = "one") -> Any:
        with pytest.raises(error) as caught:
            engine.stream(name, what)
        return caught.value

    async def go() -> None:
        await refused(UnknownModel, asked(FOREVER), "two")
        await refused(TooLong, asked(FOREVER, length=512))
        await refused(ValueError, Asked(Request((3, 400), (1,)), FOREVER))
        await refused(ValueError, asked(FOREVER, logit_bias={-1: 1.0}))
        busy = await refused(Busy, asked(FOREVER, seeds=tuple(range(35))))
        assert busy.retry_after_s >= 0.5
        held = [engine.stream("one", asked(FOREVER, seeds=tuple(range(17)))) for _ in range(2)]
        await refused(Busy, asked(FOREVER))
        await asyncio.gather(*(each.aclose() for each in held))  # type: ignore[attr-defined]
        await soon(lambda: engine.load().running + engine.load().waiting == 0)
        assert len(await read(engine, asked(Decoding(2)))) == 1, "there is room again"

    asyncio.run(go())


@pytest.mark.parametrize("way", ["closed", "cancelled", "forgotten"])
def test_who_leaves_gives_everything_back(engine: LocalEngine, way: str) -> None:
    async def go() -> None:
        stream = engine.stream("one", asked(FOREVER, seeds=(1, 2, 3, 4, 5, 6)))
        assert (await anext(stream)).tokens
        assert engine.load().running == 4
        assert engine.load().waiting == 2
        if way == "closed":
            await stream.aclose()  # type: ignore[attr-defined]
        elif way == "cancelled":
            task = asyncio.ensure_future(_all(stream))
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        del stream
        gc.collect()
        await soon(lambda: engine.load().running + engine.load().waiting == 0)
        assert not engine._hosted["one"].stream.pool.in_use

    asyncio.run(go())


async def _all(stream: Any) -> list[Piece]:
    return [piece async for piece in stream]


def test_a_crowd_that_comes_and_goes_is_never_mixed_up(folders: dict[str, Path]) -> None:
    """Eighty streams of five prompts; a third leave early; keys and values stay inside a bound that is too small."""
    made = LocalEngine({"one": folders["one"]}, slots=12, max_waiting=80, max_positions=16 * 64, dtype=F32)
    wishes = [asked(Decoding(12 + n), length=20 + 30 * n, seeds=(n,)) for n in range(5)]
    wanted = [said(folders["one"], each)[0] for each in wishes]

    async def user(number: int) -> bool:
        found: list[int] = []
        stream = made.stream("one", wishes[number % 5])
        async for piece in stream:
            found += [token.id for token in piece.tokens]
            if number % 3 == 0 and len(found) > number % 7:
                await stream.aclose()  # type: ignore[attr-defined]
                return tuple(found) == wanted[number % 5].token_ids[: len(found)]
        return tuple(found) == wanted[number % 5].token_ids

    async def crowd() -> list[bool]:
        return await asyncio.gather(*(user(number) for number in range(80)))

    try:
        assert all(asyncio.run(crowd()))
        _idle(made)
        stream = made._hosted["one"].stream
        assert stream.counts.peak_positions <= 16 * 64
        assert stream.counts.prefill_tokens < sum(20 + 30 * (n % 5) for n in range(80)), "known beginnings were used"
        assert made._hosted["one"].in_flight == 0
    finally:
        made.close()


def test_a_slow_reader_finds_the_rest_in_one_piece(engine: LocalEngine, folders: dict[str, Path]) -> None:
    async def go() -> list[Piece]:
        stream = engine.stream("one", asked(Decoding(60)))
        found = [await anext(stream)]
        await asyncio.to_thread(_idle, engine)
        return found + await _all(stream)

    pieces = asyncio.run(go())
    assert len(pieces) == 2
    assert_same([_joined(pieces)], said(folders["one"], asked(Decoding(60))))


def _idle(made: LocalEngine) -> None:
    while made.load().running:
        time.sleep(0.005)


def _step_behind(gate: threading.Event, stream: Any) -> None:
    """The model writes only while the gate is open."""
    step, this = type(stream).step, weakref.proxy(stream)
    stream.step = lambda: step(this) if gate.wait(0.001) else None


def test_a_model_is_replaced_while_it_answers(engine: LocalEngine, folders: dict[str, Path]) -> None:
    """Answers that run end as they began; new ones are of the new weights, and the old weights are let go."""
    what, gate = asked(Decoding(40)), threading.Event()
    gate.set()
    _step_behind(gate, engine._hosted["one"].stream)
    old = weakref.ref(engine._hosted["one"].stream)

    async def go() -> tuple[list[Completion], list[Completion]]:
        stream = engine.stream("one", what)
        first = await anext(stream)
        gate.clear()
        await asyncio.to_thread(engine.load_model, "one", str(folders["other"]))
        new = await read(engine, asked(Decoding(20)))
        assert engine.load().running == 1
        gate.set()
        return [_joined([first, *await _all(stream)])], new

    before, after = asyncio.run(go())
    assert_same(before, said(folders["one"], what))
    assert_same(after, said(folders["other"], asked(Decoding(20))))
    assert engine.model("one").root == str(folders["other"])
    asyncio.run(soon(lambda: old() is None))


def test_a_model_that_is_not_sound_never_gets_the_name(engine: LocalEngine, folders: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match="not numbers"):
        engine.load_model("one", str(folders["broken"]))
    with pytest.raises(ModelError):
        engine.load_model("one", str(folders["one"] / "nothing"))
    assert engine.model("one").root == str(folders["one"])
    assert len(asyncio.run(read(engine, asked(Decoding(2))))) == 1


def test_adapters_come_and_go(engine: LocalEngine, folders: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match="adapter_config"):
        engine.load_adapter("mine", str(folders["other"]))
    with pytest.raises(ValueError, match="one"):
        engine.load_adapter("one", str(folders["adapter"]))
    served = engine.load_adapter("mine", str(folders["adapter"]))
    assert served.parent == str(folders["one"])
    what = asked(Decoding(30, temperature=0))

    async def both() -> tuple[list[Completion], list[Completion]]:
        one, mine = await asyncio.gather(read(engine, what), read(engine, what, "mine"))
        return one, mine

    one, mine = asyncio.run(both())
    assert_same(mine, said(folders["adapter"], what))
    assert mine[0].token_ids != one[0].token_ids
    engine.unload("mine")
    with pytest.raises(UnknownModel, match="one"):
        engine.model("mine")
    with pytest.raises(UnknownModel):
        engine.unload("mine")


def test_a_failing_model_ends_its_answers_and_nothing_else(
    engine: LocalEngine, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.load_model("two", str(folders["other"]))
    what = asked(Decoding(40))

    def fail() -> None:
        raise RuntimeError("out of memory")

    async def go() -> tuple[Any, Any]:
        monkeypatch.setattr(engine._hosted["two"].stream, "step", fail)
        failing, fine = (asyncio.ensure_future(read(engine, what, name)) for name in ("two", "one"))
        done = await asyncio.gather(failing, fine, return_exceptions=True)
        monkeypatch.undo()
        return done[0], [done[1], await read(engine, what, "two")]

    error, (one, two) = asyncio.run(go())
    assert isinstance(error, ModelError)
    assert "out of memory" in str(error)
    assert_same(one, said(folders["one"], what))
    assert_same(two, said(folders["other"], what))
    assert engine.load().running == engine.load().waiting == 0


def test_one_answer_that_fails_ends_its_request(engine: LocalEngine) -> None:
    """A bias that is no number: the answer fails, its slot is free, and others never notice."""
    bad = asked(FOREVER, seeds=(1, 2, 3, 4, 5), logit_bias={5: float("nan")})

    async def go() -> tuple[Any, ...]:
        done = await asyncio.gather(read(engine, bad), read(engine, asked(Decoding(9))), return_exceptions=True)
        engine.stream("one", bad)  # nobody reads that one
        await soon(lambda: engine.load().running + engine.load().waiting == 0)
        return tuple(done)

    failed, fine = asyncio.run(go())
    assert isinstance(failed, ModelError)
    assert len(fine[0].token_ids) == 9
    assert not engine._leaving


def test_closing_ends_what_runs(folders: dict[str, Path]) -> None:
    async def closing(wait_s: float) -> Any:
        made = LocalEngine({"one": folders["one"]}, dtype=F32)
        running = asyncio.ensure_future(read(made, asked(Decoding(60))))
        await soon(lambda: made.load().running == 1)
        shutting = asyncio.ensure_future(asyncio.to_thread(made.close, wait_s))
        await soon(lambda: made._is_closed)
        with pytest.raises(Busy):
            made.stream("one", asked(FOREVER))
        (found,) = await asyncio.gather(running, return_exceptions=True)
        await shutting
        assert not made._thread.is_alive()
        return found

    assert asyncio.run(closing(30.0))[0].finish == "length"
    assert isinstance(asyncio.run(closing(0.0)), Stopped)


def test_an_idle_engine_sleeps(engine: LocalEngine) -> None:
    asyncio.run(read(engine, asked(Decoding(2))))
    steps, before = engine._hosted["one"].stream.counts.steps, time.thread_time()
    turns = []
    wait = engine._condition.wait
    engine._condition.wait = lambda *args: turns.append(1) or wait(*args)  # type: ignore[method-assign]
    time.sleep(0.2)
    assert len(turns) <= 1
    assert engine._hosted["one"].stream.counts.steps == steps
    assert time.thread_time() - before < 0.1


def test_one_policy_under_two_names_is_one_model(folders: dict[str, Path]) -> None:
    policy: Policy = load(folders["one"])
    made = LocalEngine({"a": policy, "b": policy}, dtype=F32)
    try:
        assert [each.name for each in made.models()] == ["a", "b"]
        assert made._hosted["a"] is made._hosted["b"]
        made.unload("a")
        assert_same(asyncio.run(read(made, asked(Decoding(5)), "b")), said(folders["one"], asked(Decoding(5))))
    finally:
        made.close()
