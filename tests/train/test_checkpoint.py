"""A resumed run equals an uninterrupted one to the last bit, and the last good checkpoint outlives a full disk."""

import errno
import json
import os
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from torch import Tensor

from posttrain.data.batch import pack
from posttrain.data.stream import Stream
from posttrain.errors import TrainError
from posttrain.models.attention import install_attention
from posttrain.models.load import Policy, load
from posttrain.models.lora import add_lora
from posttrain.train import checkpoint
from posttrain.train.checkpoint import Checkpoints, State
from posttrain.train.evaluation import Evaluation
from posttrain.train.loop import Run, train
from posttrain.train.objectives import SFT
from posttrain.train.optim import adamw, schedule

TOTAL_STEPS = 11


@pytest.fixture(scope="module")
def base(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Attention has dropout, so that the random state matters in full fine-tuning too."""
    return tiny.save_base(tmp_path_factory.mktemp("base"), attention_dropout=0.1)


def start(base: Path, kind: str, seed: int) -> Policy:
    torch.manual_seed(seed)
    policy = load(base, device="cpu")
    if kind == "lora":
        policy = add_lora(policy, r=4, dropout=0.3)
    install_attention(policy.model)
    return policy


def optimiser(policy: Policy) -> torch.optim.AdamW:
    return adamw(policy.model, learning_rate=3e-3, weight_decay=0.1)


def rows(tiny: ModuleType) -> Stream:
    samples = tiny.trees([[(length, -1)] for length in (5, 9, 14, 3, 22, 8, 17, 11, 6, 30)], trained="half")
    return Stream(samples, max_length=32, accumulation=2, seed=3)


def go(
    tiny: ModuleType,
    policy: Policy,
    folder: Path,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    stop_after: int = 0,
    stream: Any = None,
    log: Any = None,
    **options: Any,
) -> tuple[Run, list[dict[str, Any]]]:
    """Train to the end, or until somebody asks to stop after so many steps of this call."""
    calls, log = [0], log or tiny.Lines()

    def should_stop() -> bool:
        calls[0] += 1
        return calls[0] == stop_after

    held_out = [pack(rows(tiny).samples[:2])]
    done = train(
        policy,
        stream or rows(tiny),
        SFT,
        optimizer=optimizer or optimiser(policy),
        rate=schedule("cosine", peak=3e-3, total_steps=TOTAL_STEPS, warmup_steps=3),
        total_steps=TOTAL_STEPS,
        checkpoints=Checkpoints(folder, fingerprint="abc"),
        log=log,
        evaluation=Evaluation(held_out, every=3),
        logging_steps=1,
        should_stop=should_stop,
        **options,
    )
    return done, log.lines


def weights(policy: Policy) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in policy.model.state_dict().items()}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    different = [name for name in expected if not torch.equal(found[name], expected[name])]
    assert not different


@pytest.fixture(scope="module", params=["full", "lora"])
def whole(
    request: pytest.FixtureRequest, tiny: ModuleType, base: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, dict[str, Tensor], list[dict[str, Any]]]:
    """A run that nothing interrupts: what was trained, its final weights, its metrics."""
    policy = start(base, request.param, seed=7)
    before = weights(policy)
    done, lines = go(tiny, policy, tmp_path_factory.mktemp("whole"))
    assert done.status == "finished"
    after = weights(policy)
    assert sum(not torch.equal(before[name], after[name]) for name in after) >= 14
    return request.param, after, lines


def test_the_runs_meet_an_epoch_boundary(tiny: ModuleType) -> None:
    stream = rows(tiny)
    assert stream.num_steps(1) == 3, "choose the steps below again: 3 and 6 must end an epoch"
    assert {len(stream.step(step)) for step in range(6)} == {1, 2}, "one step of an epoch should be a short one"


@pytest.mark.parametrize("stop_after", [1, 2, 3, 6, 10])
def test_resumed_equals_uninterrupted(
    tiny: ModuleType,
    base: Path,
    tmp_path: Path,
    whole: tuple[str, dict[str, Tensor], list[dict[str, Any]]],
    stop_after: int,
) -> None:
    kind, expected, expected_lines = whole
    done, lines = go(tiny, start(base, kind, seed=7), tmp_path, stop_after=stop_after)
    assert (done.status, done.state.step) == ("interrupted", stop_after)
    # As in a new process: other random numbers so far, other adapter weights, a fresh optimiser and stream.
    policy = start(base, kind, seed=1000)
    again, more = go(tiny, policy, tmp_path, resume=True)
    assert again.status == "finished"
    assert_same(weights(policy), expected)
    assert lines + more == expected_lines


def test_dropout_makes_the_random_state_matter(
    tiny: ModuleType, base: Path, tmp_path: Path, whole: tuple[str, dict[str, Tensor], list[dict[str, Any]]]
) -> None:
    """The control: forget the random state alone, and the resumed run is another one."""
    kind, expected, _ = whole
    go(tiny, start(base, kind, seed=7), tmp_path, stop_after=4)
    policy = start(base, kind, seed=1000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "_restore_random", lambda _: None)
        go(tiny, policy, tmp_path, resume=True)
    assert any(not torch.equal(value, expected[name]) for name, value in weights(policy).items())


class Killed(Exception):
    pass


class UntilKilled:
    """A stream whose process dies when it asks for a certain step."""

    def __init__(self, stream: Stream, at: int) -> None:
        self.stream, self.at, self.epoch_of = stream, at, stream.epoch_of

    def step(self, step: int) -> Any:
        if step == self.at:
            raise Killed
        return self.stream.step(step)


def test_a_killed_run_goes_on_from_its_last_checkpoint(
    tiny: ModuleType, base: Path, tmp_path: Path, whole: tuple[str, dict[str, Tensor], list[dict[str, Any]]]
) -> None:
    kind, expected, expected_lines = whole
    log = tiny.Lines()
    with pytest.raises(Killed):
        go(tiny, start(base, kind, seed=7), tmp_path, stream=UntilKilled(rows(tiny), 7), save_steps=4, log=log)
    assert log.lines[-1]["step"] == 7
    policy = start(base, kind, seed=1000)
    _, lines = go(tiny, policy, tmp_path, resume=True, save_steps=4, log=log)
    assert_same(weights(policy), expected)
    assert lines == expected_lines  # what was written after the checkpoint is written again, once


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_everything_comes_back(tiny: ModuleType, base: Path, tmp_path: Path, kind: str) -> None:
    policy = start(base, kind, seed=7)
    optimizer = optimiser(policy)
    done, _ = go(tiny, policy, tmp_path, optimizer=optimizer, stop_after=5)
    random_state = torch.get_rng_state()
    names = {id(parameter): name for name, parameter in policy.model.named_parameters()}
    moments = {(names[id(p)], k): v for p, entries in optimizer.state.items() for k, v in entries.items()}
    assert {key for _, key in moments} == {"step", "exp_avg", "exp_avg_sq"}

    other = start(base, kind, seed=8)
    fresh = optimiser(other)
    state = Checkpoints(tmp_path, fingerprint="abc").resume(other, fresh)
    assert asdict(state) == asdict(done.state)
    assert state.num_trained > 0
    assert state.best_step == 3
    assert torch.equal(torch.get_rng_state(), random_state)
    assert_same(weights(other), weights(policy))
    names = {id(parameter): name for name, parameter in other.model.named_parameters()}
    found = {(names[id(p)], k): v for p, entries in fresh.state.items() for k, v in entries.items()}
    assert found.keys() == moments.keys()
    assert all(torch.equal(found[key], moments[key]) for key in moments)


def test_a_checkpoint_is_a_plain_folder_without_pickles(base: Path, tmp_path: Path) -> None:
    policy = start(base, "full", seed=0)
    made = Checkpoints(tmp_path).save(policy, optimiser(policy), State(step=4))
    assert made.name == "checkpoint-00000004"
    names = {path.name for path in made.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "training.json", "training.safetensors"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
    assert json.loads((made / "training.json").read_text())["state"]["step"] == 4
    assert_same(weights(load(made, device="cpu")), weights(policy))


def test_partial_folders_are_ignored_and_removed(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-00000003").mkdir()
    checkpoints = Checkpoints(tmp_path)
    partial = tmp_path / "checkpoint-00000005.partial"
    partial.mkdir()
    (tmp_path / "checkpoint-notes.txt").write_text("not a folder")
    (partial / "model.safetensors").write_bytes(b"half")
    assert [path.name for path in checkpoints.found()] == ["checkpoint-00000003"]
    assert [path.name for path in Checkpoints(tmp_path).found()] == ["checkpoint-00000003"]
    assert not partial.exists()


def test_pruning_keeps_the_newest_and_the_best(base: Path, tmp_path: Path) -> None:
    policy = start(base, "lora", seed=0)
    checkpoints, optimizer = Checkpoints(tmp_path, keep=2), optimiser(policy)
    for step in range(1, 7):
        checkpoints.save(policy, optimizer, State(step=step, best_step=min(step, 2)))
    assert [int(path.name[-8:]) for path in checkpoints.found()] == [2, 5, 6]


def test_saving_the_same_step_again_replaces_it(base: Path, tmp_path: Path) -> None:
    policy = start(base, "lora", seed=0)
    checkpoints, optimizer = Checkpoints(tmp_path), optimiser(policy)
    checkpoints.save(policy, optimizer, State(step=1, num_tokens=10))
    made = checkpoints.save(policy, optimizer, State(step=1, num_tokens=20))
    assert checkpoints.found() == [made]
    assert json.loads((made / "training.json").read_text())["state"]["num_tokens"] == 20


def test_another_recipe_is_refused(base: Path, tmp_path: Path) -> None:
    policy = start(base, "lora", seed=0)
    optimizer = optimiser(policy)
    made = Checkpoints(tmp_path, fingerprint="this").save(policy, optimizer, State(step=1))
    with pytest.raises(TrainError, match="other data, model or settings") as caught:
        Checkpoints(tmp_path, fingerprint="that").resume(policy, optimizer)
    assert str(made) in str(caught.value)


@pytest.mark.parametrize("name", ["training.json", "training.safetensors"])
@pytest.mark.parametrize("left", [None, 20])
def test_a_checkpoint_that_lost_a_file_is_named(base: Path, tmp_path: Path, name: str, left: int | None) -> None:
    policy = start(base, "full", 0)
    path = Checkpoints(tmp_path).save(policy, optimiser(policy), State(step=1)) / name
    path.unlink() if left is None else os.truncate(path, left)
    with pytest.raises(TrainError, match=r"checkpoint-00000001: .*missing or broken .*older one"):
        Checkpoints(tmp_path).resume(policy, optimiser(policy))


def test_nothing_to_resume_is_said(base: Path, tmp_path: Path) -> None:
    policy = start(base, "lora", seed=0)
    with pytest.raises(TrainError, match="no checkpoint to resume from"):
        Checkpoints(tmp_path).resume(policy, optimiser(policy))


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def full_disk_in_rust(*_: Any, **__: Any) -> None:
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize(
    ("module", "name", "fails"),
    [
        (checkpoint, "save", full_disk_in_rust),
        (checkpoint, "save_file", full_disk),
        (checkpoint, "save_file", full_disk_in_rust),
        (os, "fsync", full_disk),
        (os, "rename", full_disk),
    ],
    ids=["weights", "moments", "moments in rust", "fsync", "rename"],
)
def test_a_full_disk_keeps_the_last_good_checkpoint(
    base: Path, tmp_path: Path, module: Any, name: str, fails: Any
) -> None:
    policy = start(base, "lora", seed=0)
    checkpoints, optimizer = Checkpoints(tmp_path), optimiser(policy)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, name, fails)
        with pytest.raises(TrainError, match=r"No space left on device.*no checkpoint had been written before"):
            checkpoints.save(policy, optimizer, State(step=1))
    good = checkpoints.save(policy, optimizer, State(step=2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, name, fails)
        with pytest.raises(TrainError, match=f"the last good checkpoint is {good}: free some space"):
            checkpoints.save(policy, optimizer, State(step=3))
    assert [path.name for path in tmp_path.iterdir()] == [good.name]
    assert checkpoints.resume(policy, optimizer).step == 2


def test_a_full_disk_at_the_very_end_names_the_last_checkpoint(base: Path, tmp_path: Path) -> None:
    policy = start(base, "lora", seed=0)
    checkpoints = Checkpoints(tmp_path)
    good = checkpoints.save(policy, optimiser(policy), State(step=2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", full_disk)
        with pytest.raises(TrainError, match=f"the model cannot be written .*the last good checkpoint is {good}"):
            checkpoints.export(policy, [0])
    checkpoints.export(policy, [0])
    assert (tmp_path / "adapter_model.safetensors").exists()


def test_every_byte_is_durable_before_the_name_is(base: Path, tmp_path: Path) -> None:
    """A kill between two system calls leaves either a partial folder or a whole checkpoint."""
    policy = start(base, "lora", seed=0)
    opened: dict[int, str] = {}
    events: list[str] = []
    real_open, real_sync, real_rename = os.open, os.fsync, os.rename

    def note_open(path: Any, *args: Any, **kwargs: Any) -> int:
        descriptor = real_open(path, *args, **kwargs)
        opened[descriptor] = Path(os.fsdecode(path)).name
        return descriptor

    def note_sync(descriptor: int) -> None:
        events.append(opened.get(descriptor, "?"))
        real_sync(descriptor)

    def note_rename(source: Any, target: Any) -> None:
        events.append("rename")
        real_rename(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", note_open)
        patch.setattr(os, "fsync", note_sync)
        patch.setattr(os, "rename", note_rename)
        made = Checkpoints(tmp_path).save(policy, optimiser(policy), State(step=1))
    assert events.count("rename") == 1
    before = events[: events.index("rename")]
    assert {path.name for path in made.rglob("*")} <= set(before)
    assert made.name + ".partial" in before
