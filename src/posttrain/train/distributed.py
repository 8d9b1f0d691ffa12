"""Several processes that train one model: the only file with collectives. Without a process group every function is
what one process alone would do.

Numbers and records travel over gloo, on the CPU, whatever the gradients travel over. A process that fails leaves the
group; whoever waits for it then fails too, with `Lost`. One of them says why (recipes/parting.py).
"""

import errno
import os
import pickle
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from posttrain.data.sharing import shares
from posttrain.errors import PosttrainError, TrainError

T = TypeVar("T")
U = TypeVar("U")

PATIENCE = timedelta(seconds=10)
_STORE: list[dist.Store] = []
"""Where the processes of torchrun met, which outlives their group; empty where another launcher has made the group."""


class Lost(TrainError):
    """Another process is gone, or does not answer."""


class Elsewhere(Exception):
    """The cause of an error that happened in another process, which says so itself."""


def start(timeout_s: float, *, alone: bool = False) -> None:
    """Join the processes that torchrun has started, if it has; `alone`: make a group of this one process otherwise.
    A group that another launcher has made already is taken as it is. Raises TrainError where they do not meet."""
    if dist.is_initialized():
        return
    if "WORLD_SIZE" not in os.environ and not alone:
        return
    backend, patience = "gloo", timedelta(seconds=timeout_s)
    if torch.cuda.is_available():
        _take_gpu()
        backend = "cpu:gloo,cuda:nccl"
    if "WORLD_SIZE" not in os.environ:
        dist.init_process_group(backend, timeout=patience, store=dist.HashStore(), rank=0, world_size=1)
        return
    try:
        store, number, count = next(rendezvous("env://", timeout=patience))
        # torchrun's store outlives a restart, and the addresses of processes that are gone with it. Machines may have
        # counted different numbers of restarts.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        group = attempt if os.environ.get("GROUP_WORLD_SIZE", "1") == "1" else "0"
        own = dist.PrefixStore(f"group-{group}", store)
        dist.init_process_group(backend, timeout=patience, store=own, rank=number, world_size=count)
    except (RuntimeError, ValueError) as error:
        raise TrainError(_apart(timeout_s, error)) from error
    _STORE[:] = [dist.PrefixStore(f"said-{attempt}", store)]


def _take_gpu() -> None:
    number, found = local_rank(), torch.cuda.device_count()
    if number >= found:
        raise TrainError(
            f"process {number} of this machine has no GPU of its own: there are {found}. Start {found} processes here."
        )
    torch.cuda.set_device(number)


def _apart(timeout_s: float, error: Exception) -> str:
    """Why the processes did not meet."""
    address, port = os.environ.get("MASTER_ADDR", "?"), os.environ.get("MASTER_PORT", "?")
    if "EADDRINUSE" in str(error) or os.strerror(errno.EADDRINUSE) in str(error):
        return (
            f"port {port} of this machine is in use by another program, so the processes cannot meet there: set "
            "another MASTER_PORT (torchrun --master-port) on every node."
        )
    return (
        f"this process did not meet the others at {address}:{port} within {timeout_s:g} seconds "
        f"({_first_line(error)}). Check that every node was started with the same address, port and count, and that "
        "the port is free and open."
    )


def stop() -> None:
    """Leave the group."""
    _STORE.clear()
    if dist.is_initialized():
        dist.destroy_process_group()


def is_running() -> bool:
    """Whether there is a group of processes, if only of this one."""
    return dist.is_initialized()


def rank() -> int:
    """This process's number."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local_rank() -> int:
    """This process's number on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def is_main() -> bool:
    """Whether this is the process that writes and speaks."""
    return rank() == 0


def num_restarts() -> int:
    """How often torchrun has started these processes anew after one of them died, by the machine that knows of most."""
    return int(largest(int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))))


def launch_id() -> str:
    """What all starts of these processes by one launcher have in common; empty where it gives none."""
    return os.environ.get("TORCHELASTIC_RUN_ID", "")


def total(*numbers: float) -> list[float]:
    """Each number summed over all processes, in fp64."""
    if world() == 1:
        return list(numbers)
    sums = torch.tensor(numbers, dtype=torch.float64)
    with _others():
        dist.all_reduce(sums)
    return [float(value) for value in sums]


def summed(array: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """An array summed over all processes."""
    if world() == 1:
        return array
    sums = torch.from_numpy(array)
    with _others():
        dist.all_reduce(sums)
    return sums.numpy()


def largest(number: float) -> float:
    """The largest of all processes' numbers."""
    if world() == 1:
        return number
    found = torch.tensor([number], dtype=torch.float64)
    with _others():
        dist.all_reduce(found, dist.ReduceOp.MAX)
    return float(found)


def gather(record: T) -> list[T]:
    """What every process has, by rank."""
    if world() == 1:
        return [record]
    found: list[Any] = [None] * world()
    with _others():
        dist.all_gather_object(found, record)
    return found


def from_main(record: T) -> T:
    """What rank 0 has, for all."""
    if world() == 1:
        return record
    held = [record]
    with _others():
        dist.broadcast_object_list(held, src=0)
    return held[0]


def together(work: Callable[[], T]) -> T:
    """`work()` of every process; where it fails in one it fails in all, with the words of the first that failed, so
    that none is left waiting for the others."""
    if world() == 1:
        return work()
    found, failure = None, None
    try:
        found = work()
    except Exception as error:
        failure = error
    failures = [each for each in gather(None if failure is None else _sendable(failure)) if each is not None]
    if failure is not None:
        raise failure
    if failures:
        raise failures[0] from Elsewhere()
    return found  # type: ignore[return-value]


def by_main(work: Callable[[], T]) -> T | None:
    """`work()` of rank 0 alone, and what it gave there; the others wait for it and fail where it fails."""
    return together(lambda: work() if is_main() else None)


MEND = "Start all of them with one recipe, the same flags and the same version."


def agree(what: Mapping[str, Any], told: str, mend: str = MEND) -> None:
    """Raises TrainError on every process where these values are not the same on all; `told`: what they are."""
    everyone = gather(dict(what))
    for number, other in enumerate(everyone):
        for key in sorted({*everyone[0], *other}):
            ours, theirs = everyone[0].get(key), other.get(key)
            if ours != theirs:
                raise TrainError(
                    f"the processes were started with different {told}: {key} is {ours!r} in process 0 and {theirs!r} "
                    f"in process {number}. {mend}"
                )


def merged(metrics: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Sums and counts of metrics, [2] each, over all processes; of a name that ends in `_max` the largest."""
    if world() == 1:
        return dict(metrics)
    found: dict[str, torch.Tensor] = {}
    for each in gather({name: value.detach().double().cpu() for name, value in metrics.items()}):
        for name, value in each.items():
            join = torch.maximum if name.endswith("_max") else torch.add
            found[name] = join(found[name], value) if name in found else value
    return found


def share(sizes: Sequence[int]) -> list[tuple[int, bool]]:
    """The numbers of the micro-batches that are this process's, of all those with these sizes, and whether each is a
    filler: all processes get as many, since each forward of a sharded model is one of all of them. A filler is the
    smallest of all, and counts for nothing."""
    parts = shares(sizes, world())
    own = parts[rank()]
    smallest = min(range(len(sizes)), key=sizes.__getitem__) if sizes else 0
    missing = max(map(len, parts)) - len(own)
    return [(number, False) for number in own] + [(smallest, True)] * missing


def evened(items: Sequence[T]) -> list[tuple[T, bool]]:
    """What this process has, and whether it is a filler: with its first again until all processes have as many."""
    count = int(largest(len(items)))
    assert items or not count, "a process without anything has nothing to fill up with"
    return [(item, False) for item in items] + [(items[0], True)] * (count - len(items))


def spread(items: Sequence[T], work: Callable[[list[T]], Sequence[U]], keys: Sequence[Any] | None = None) -> list[U]:
    """What `work` makes of every item, in order: each process does a part, those of one key together, and all get
    everything. An error in one process is an error in all."""
    if world() == 1:
        return list(work(list(items)))
    own = own_part(list(range(len(items)) if keys is None else keys))
    found = together(lambda: list(work([items[number] for number in own])) if own else [])
    everything: dict[int, U] = {}
    for part in gather(dict(zip(own, found, strict=True))):
        everything |= part
    return [everything[number] for number in range(len(items))]


def own_part(keys: Sequence[Any]) -> list[int]:
    """Of items with these keys, the numbers of those that `spread` gives to this process."""
    places = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    return [number for number, key in enumerate(keys) if places[key] % world() == rank()]


def everyone(tensor: torch.Tensor) -> torch.Tensor:
    """The tensors of all processes, one behind the other, on the device of this one's."""
    if world() == 1:
        return tensor
    return torch.cat(gather(tensor.detach().cpu())).to(tensor.device)


def has_met() -> bool:
    """Whether `start` has joined processes that were started side by side, and not made by a library."""
    return bool(_STORE)


def is_first_to_tell() -> bool:
    """Whether no other process says already why the run ends: then this one is to."""
    try:
        _STORE[0].set_timeout(PATIENCE)
        return int(_STORE[0].add("telling", 1)) == 1
    except RuntimeError:  # the process that kept the store is gone
        return True


def has_told(words: str = "") -> None:
    """This process has said why the run ends, in these words; empty where it knows no more than that one is gone."""
    with suppress(RuntimeError):
        _STORE[0].set("told", words)


def told() -> str:
    """The words in which another process has said why the run ends, before it left; empty where none has."""
    with suppress(RuntimeError):
        if has_met() and _STORE[0].check(["told"]):
            return _STORE[0].get("told").decode()
    return ""


def wait_for_told() -> None:
    """Stay until another one has said it: a launcher stops all processes as soon as one of them is gone."""
    with suppress(RuntimeError):
        _STORE[0].wait(["told"], PATIENCE)


def is_loss(error: BaseException) -> bool:
    """Whether an error of torch says that another process is gone."""
    if isinstance(error, Lost):
        return True
    said = str(error).lower()
    marks = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe", "timed out")
    return world() > 1 and isinstance(error, RuntimeError) and any(mark in said for mark in marks)


def _sendable(error: Exception) -> Exception:
    """The error itself where it can travel and its kind matters, else its words."""
    told = f"{type(error).__name__}: {error}"
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return TrainError(told)
    return error if isinstance(error, PosttrainError | OSError) else TrainError(told)


@contextmanager
def _others() -> Iterator[None]:
    """A wait for the others that ends in one sentence where they are gone."""
    try:
        yield
    except RuntimeError as error:
        raise Lost(lost(error)) from error


def lost(error: BaseException) -> str:
    """The sentence for a process that the others have left."""
    if isinstance(error, Lost):
        return str(error)
    if words := told():
        return f"another process of this run ended: {words}"
    return (
        f"another process of this run ended or does not answer ({_first_line(error)}). What was saved up to the last "
        "checkpoint is whole: go on with --resume-from-checkpoint, or start with --max-restarts to do so by itself."
    )


def _first_line(error: BaseException) -> str:
    """Without the place in torch's own sources, and what it thinks of it."""
    line = re.sub(r"^\[[^\]]*\]\s*", "", str(error).strip().split("\n")[0])
    return line.partition(". ")[0].rstrip(". ")[:200]
