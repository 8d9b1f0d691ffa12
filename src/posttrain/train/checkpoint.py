"""Checkpoints: a plain model folder plus what training needs to go on as if it had never stopped.

A checkpoint is written beside its final name and renamed when it is whole and on the disk, so a kill or a full disk
at any moment leaves the last good one. Optimiser moments and random states are safetensors; nothing is pickled.
"""

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor

from posttrain.errors import TrainError
from posttrain.models.load import Policy, restore, restore_laid, save
from posttrain.train import distributed
from posttrain.train.resumable import difference
from posttrain.train.sharded_checkpoint import has_shards, load_optimizer_of, load_weights_of, save_shards
from posttrain.train.sharding import is_sharded, like, settle, whole, whole_state

PREFIX, PARTIAL = "checkpoint-", ".partial"


@dataclass
class State:
    """Where a run stands after `step` optimiser steps."""

    step: int = 0
    num_tokens: int = 0  # positions that passed the model
    num_trained: int = 0  # tokens that passed the head
    elapsed_s: float = 0.0
    best_loss: float = float("inf")
    best_step: int = -1
    evals_since_best: int = 0


class Part(Protocol):
    """A model that is trained beside the policy, as a value model is."""

    def named_parameters(self) -> Iterable[tuple[str, torch.nn.Parameter]]: ...

    def save(self, folder: Path) -> None: ...

    def restore(self, folder: Path) -> None: ...


class Checkpoints:
    """The checkpoints of one run folder. `keep`: how many of the newest stay; the best one always does. `parts`: what
    is trained beside the policy, by name; each has a folder of that name in every checkpoint. `fingerprint`: of all
    that a resumed run must have been given too; `settings`: those of it that can be named."""

    def __init__(
        self,
        folder: Path,
        *,
        keep: int = 2,
        fingerprint: str = "",
        settings: Mapping[str, Any] | None = None,
        parts: Mapping[str, Part] | None = None,
    ) -> None:
        self.folder, self.keep, self.fingerprint, self.settings = folder, keep, fingerprint, dict(settings or {})
        self.parts = dict(parts or {})
        for left in folder.glob(f"{PREFIX}*{PARTIAL}") if distributed.is_main() else ():
            shutil.rmtree(left)

    def found(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return sorted(p for p in self.folder.glob(f"{PREFIX}*") if p.is_dir() and not p.name.endswith(PARTIAL))

    def save(
        self, policy: Policy, optimizer: torch.optim.Optimizer, state: State, companion: Any | None = None
    ) -> Path:
        """Write a checkpoint of this step, with the state of `companion` (see train/loop.py). Raises TrainError where
        the disk is full; older checkpoints survive."""
        final = self.folder / f"{PREFIX}{state.step:08d}"
        partial = final.with_name(final.name + PARTIAL)
        told, tensors = companion.state() if companion else ({}, {})
        tensors = {f"companion/{name}": value.cpu().contiguous() for name, value in tensors.items()} | _random_states()
        named = self._names(policy)

        def write() -> None:
            if is_sharded(policy.model):
                policy.model.config.save_pretrained(partial)
                policy.tokenizer.save_pretrained(partial)
            else:
                save(policy, partial)
                for name, part in self.parts.items():
                    part.save(partial / name)
                tensors.update(_optimizer_tensors(named, optimizer))
            save_file(tensors, partial / "training.safetensors")
            record = {"state": asdict(state), "fingerprint": self.fingerprint, "companion": told}
            record["settings"] = self.settings
            (partial / "training.json").write_text(json.dumps(record, indent=2, default=str))

        def publish() -> None:
            _sync(partial)
            shutil.rmtree(final, ignore_errors=True)
            os.rename(partial, final)
            self._prune(state)

        try:
            distributed.by_main(lambda: shutil.rmtree(partial, ignore_errors=True))
            if is_sharded(policy.model):
                self._save_shards(policy, optimizer, partial)
            distributed.by_main(write)
            distributed.by_main(publish)
        except (OSError, SafetensorError) as error:
            if distributed.is_main():
                shutil.rmtree(partial, ignore_errors=True)
            raise TrainError(f"{final}: the checkpoint cannot be written ({error}); {self._survivor()}.") from error
        return final

    def _save_shards(self, policy: Policy, optimizer: torch.optim.Optimizer, partial: Path) -> None:
        """What is trained, in every process its share."""
        named = self._names(policy)
        tensors = {f"model/{name}": p.detach() for name, p in named.items() if p.requires_grad}
        save_shards(partial, tensors | _optimizer_tensors(named, optimizer))

    def modules(self) -> list[torch.nn.Module]:
        """The models that are trained beside the policy."""
        return [part.policy.model for part in self.parts.values() if hasattr(part, "policy")]

    def resume(self, policy: Policy, optimizer: torch.optim.Optimizer, companion: Any | None = None) -> State:
        """Put the newest checkpoint back into models, optimiser, random states and companion."""
        found = self.found()
        if not found:
            raise TrainError(f"{self.folder}: there is no checkpoint to resume from; start without resuming.")
        record, tensors = _kept(found[-1])
        if record["fingerprint"] != self.fingerprint:
            raise TrainError(f"{found[-1]}: {difference(record.get('settings', {}), self.settings)}")
        if has_shards(found[-1]) or not is_sharded(policy.model):
            self._restore(policy, found[-1])
        if has_shards(found[-1]):
            load_optimizer_of(found[-1], self._names(policy), optimizer)
        else:
            _restore_optimizer(self._names(policy), optimizer, tensors)
        _restore_random(tensors)
        if companion:
            mark = "companion/"
            own = {name.removeprefix(mark): value for name, value in tensors.items() if name.startswith(mark)}
            companion.load(record["companion"], own)
        return State(**record["state"])

    def export(self, policy: Policy, stop_token_ids: list[int]) -> None:
        """Write the finished model into the run folder itself. Raises TrainError where it cannot be written."""
        try:
            state = whole_state(policy.model) if is_sharded(policy.model) else None
            distributed.by_main(lambda: save(policy, self.folder, stop_token_ids=stop_token_ids, state_dict=state))
            for name, part in self.parts.items():
                self._export_part(name, part)
        except (OSError, SafetensorError) as error:
            raise TrainError(f"{self.folder}: the model cannot be written ({error}); {self._survivor()}.") from error

    def _export_part(self, name: str, part: Part) -> None:
        model = getattr(getattr(part, "policy", None), "model", None)
        if model is None or not is_sharded(model):
            distributed.by_main(lambda: part.save(self.folder / name))
            return
        if getattr(part, "is_shared", False):
            head = {own: whole(p) for own, p in part.named_parameters()}
            distributed.by_main(lambda: part.save(self.folder / name, state_dict=head))  # type: ignore[call-arg]
            return
        state = whole_state(model)
        distributed.by_main(lambda: part.save(self.folder / name, state_dict=state))  # type: ignore[call-arg]

    def restore_before_sharding(self, policy: Policy) -> None:
        """Whole weights of the newest checkpoint must be put back while every process holds the whole model."""
        found = self.found()
        if found and not has_shards(found[-1]):
            self._restore(policy, found[-1])

    def _restore(self, policy: Policy, folder: Path) -> None:
        """Weights of a checkpoint, in shards or whole."""
        if has_shards(folder):
            load_weights_of(folder, self._names(policy))
            return
        restore(policy, folder)
        for name, part in self.parts.items():
            part.restore(folder / name)

    def _names(self, policy: Policy) -> dict[str, torch.nn.Parameter]:
        """Every parameter by a name that is its own; of a sharded model the shares."""
        for model in (policy.model, *self.modules()):
            settle(model)
        named = dict(policy.model.named_parameters())
        for part, model in self.parts.items():
            # What two parts share, as adapters share their base, has one name.
            held = {id(parameter) for parameter in named.values()}
            named |= {f"{part}:{name}": p for name, p in model.named_parameters() if id(p) not in held}
        return named

    def _survivor(self) -> str:
        good = self.found()
        if not good:
            return "no checkpoint had been written before"
        return f"the last good checkpoint is {good[-1]}: free some space, then go on with --resume-from-checkpoint"

    def restore_best(self, policy: Policy, state: State) -> bool:
        """Load the weights of the best evaluation, if it was saved."""
        best = self.folder / f"{PREFIX}{state.best_step:08d}"
        if state.best_step < 0 or not best.exists():
            return False
        if is_sharded(policy.model) and not has_shards(best):  # a run that was begun with another strategy
            settle(policy.model)
            restore_laid(policy, best, like)
            return True
        self._restore(policy, best)
        return True

    def _prune(self, state: State) -> None:
        for old in self.found()[: -self.keep]:
            if int(old.name.removeprefix(PREFIX)) != state.best_step:
                shutil.rmtree(old)


def _kept(checkpoint: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What a checkpoint says of its run, and the tensors beside the weights."""
    try:
        record = json.loads((checkpoint / "training.json").read_text())
        return record, load_file(checkpoint / "training.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise TrainError(
            f"{checkpoint}: training.json or training.safetensors is missing or broken ({error}). Copy it back, or "
            "delete this checkpoint and resume from an older one."
        ) from error


def _optimizer_tensors(
    named: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer
) -> dict[str, torch.Tensor]:
    names = {id(parameter): name for name, parameter in named.items()}
    return {
        f"optimizer/{key}/{names[id(parameter)]}": _plain(value)
        for parameter, entries in optimizer.state.items()
        for key, value in entries.items()
    }


def _plain(value: torch.Tensor) -> torch.Tensor:
    """On the CPU and in one run of memory; a share stays where it is."""
    return value.detach() if isinstance(value, DTensor) else value.detach().cpu().contiguous()


def _restore_optimizer(
    named: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]
) -> None:
    optimizer.state.clear()
    for path, value in tensors.items():
        kind, _, rest = path.partition("/")
        if kind != "optimizer":
            continue
        key, _, name = rest.partition("/")
        parameter = named[name]
        optimizer.state[parameter][key] = like(parameter, value) if value.shape == parameter.shape else value
        optimizer.state[parameter][key] = optimizer.state[parameter][key].to(parameter.device)


def _random_states() -> dict[str, torch.Tensor]:
    """Of every process, by its rank; rank 0 has no number."""
    own = {"random/cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        own["random/cuda"] = torch.cuda.get_rng_state()
    everyone = enumerate(distributed.gather(own))
    return {f"{name}{f'/{rank}' if rank else ''}": state for rank, states in everyone for name, state in states.items()}


def _restore_random(tensors: dict[str, Any]) -> None:
    """A process that was not there before goes on with what it began with."""
    mark = f"/{distributed.rank()}" if distributed.rank() else ""
    if f"random/cpu{mark}" in tensors:
        torch.set_rng_state(tensors[f"random/cpu{mark}"])
    if f"random/cuda{mark}" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors[f"random/cuda{mark}"])


def _sync(folder: Path) -> None:
    """Make every byte durable before the rename makes the checkpoint visible."""
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
