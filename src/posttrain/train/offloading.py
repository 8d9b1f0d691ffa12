"""Activations in the CPU's memory from the forward to the backward that needs them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

SMALLEST = 1 << 16
"""Bytes; what is smaller is not worth the way."""


def to_cpu(tensor: Tensor) -> Tensor:
    """A copy in pinned memory: nothing waits for it, since the way back is on the same stream."""
    kept = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
    return kept.copy_(tensor, non_blocking=True)


@contextmanager
def offloading(
    device: torch.device, *, away: Callable[[Tensor], Tensor] = to_cpu, smallest: int = SMALLEST
) -> Iterator[None]:
    """A forward whose saved activations go to the CPU; on a CPU they stay. Weights stay as well: they are there anyway,
    and an engine that shares them out makes them whole again by itself. Recomputation (gradient checkpointing) saves
    the inputs of layers alone, and these are what goes then. `away`: brings a tensor there."""

    def pack(tensor: Tensor) -> tuple[torch.device, Tensor]:
        stays = _is_weight(tensor) or tensor.nbytes < smallest
        return tensor.device, tensor if stays else away(tensor)

    def unpack(packed: tuple[torch.device, Tensor]) -> Tensor:
        place, kept = packed
        return kept.to(place, non_blocking=True)

    if device.type == "cpu":
        yield
        return
    with saved_tensors_hooks(pack, unpack):
        yield


def _is_weight(tensor: Tensor) -> bool:
    """A parameter, a view of one, or the copy of one that autocast keeps for the whole forward."""
    base = tensor if tensor._base is None else tensor._base
    cast = base.grad_fn
    if cast is not None and cast.name() == "ToCopyBackward0":
        (source, _), *_ = cast.next_functions
        return hasattr(source, "variable")
    return isinstance(base, nn.Parameter)
