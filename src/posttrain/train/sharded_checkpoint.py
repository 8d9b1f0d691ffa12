"""The trained tensors of a checkpoint in shards, one file a process, by torch.distributed.checkpoint (DCP).

Any number of processes reads what any other number has written: DCP cuts the shards anew.
"""

import logging
import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from posttrain.errors import TrainError
from posttrain.train import distributed

FOLDER = "sharded"

logging.getLogger("torch.distributed.checkpoint").setLevel(logging.ERROR)  # it has news where one process reads


def has_shards(checkpoint: Path) -> bool:
    """Whether the tensors of this checkpoint are in shards."""
    return (checkpoint / FOLDER).is_dir()


def save_shards(checkpoint: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors, shared out or not. All processes must call it. Raises OSError where a process cannot write."""
    try:
        dcp.save(dict(tensors), storage_writer=_Writer(checkpoint / FOLDER), no_dist=distributed.world() == 1)
    except dcp.CheckpointException as error:
        raise OSError(_reason(error)) from error


class _Writer(dcp.FileSystemWriter):  # type: ignore[misc]
    """One that says that the disk is full, and not what torch's own file format makes of it."""

    def write_data(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().write_data(*args, **kwargs)
        except RuntimeError as error:
            first: BaseException | None = error
            while first is not None and not isinstance(first, OSError):
                first = first.__cause__ or first.__context__
            raise first or error from None


def load_weights_of(checkpoint: Path, named: dict[str, nn.Parameter]) -> None:
    """Put the weights back into these parameters, however they are laid out now."""
    _load(checkpoint, {f"model/{name}": p.detach() for name, p in named.items() if p.requires_grad})


def load_optimizer_of(checkpoint: Path, named: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    """Put the optimiser's state back, laid out as its parameters are now."""
    optimizer.state.clear()
    held: dict[str, Tensor] = {}
    for path, kept in _metadata(checkpoint).items():
        kind, _, rest = path.partition("/")
        if kind != "optimizer" or not isinstance(kept, TensorStorageMetadata):
            continue
        key, _, name = rest.partition("/")
        parameter, dtype = named[name], kept.properties.dtype
        if kept.size == parameter.shape and len(kept.size):
            value = torch.zeros_like(parameter, dtype=dtype).detach()
        else:
            value = torch.zeros(kept.size, dtype=dtype)
        optimizer.state[parameter][key] = held[path] = value
    _load(checkpoint, held)
    for owner, entries in optimizer.state.items():
        for key, value in entries.items():
            if value.ndim == 0:  # the count of steps
                entries[key] = value.to(owner.device)


def _metadata(checkpoint: Path) -> dict[str, object]:
    try:
        return dict(dcp.FileSystemReader(checkpoint / FOLDER).read_metadata().state_dict_metadata)
    except (OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise TrainError(
            f"{checkpoint / FOLDER}: the list of its shards (.metadata) cannot be read ({error}); go back to an older "
            "checkpoint: delete this one and resume."
        ) from error


def _load(checkpoint: Path, tensors: dict[str, Tensor]) -> None:
    known = _metadata(checkpoint)
    missing = [name for name in tensors if name not in known]
    if missing:
        raise TrainError(f"{checkpoint / FOLDER}: it has no {missing[0]!r}; it is a checkpoint of another model.")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # one process, and meant to be
            dcp.load(tensors, checkpoint_id=checkpoint / FOLDER, no_dist=distributed.world() == 1)
    except (dcp.CheckpointException, OSError, RuntimeError, ValueError) as error:
        if distributed.is_loss(error):
            raise distributed.Lost(distributed.lost(error)) from error
        raise TrainError(
            f"{checkpoint / FOLDER}: a shard is missing or broken ({_reason(error)}). Every file that the processes "
            "wrote must be there: copy the missing one back, or delete this checkpoint and resume from an older one."
        ) from error


def _reason(error: BaseException) -> str:
    """What failed first in whichever process."""
    failures = getattr(error, "failures", None)
    if failures:
        error = next(iter(failures.values()))[0]
    return str(error).strip().split("\n")[0][:200] or type(error).__name__
