"""One model in several processes: a copy in each (DDP), or a share of all weights in each (FSDP2).

Zhao et al., 2023 (PyTorch FSDP); FSDP2 is its per-parameter form, `torch.distributed.fsdp.fully_shard`. Either engine
wraps a module whose forward computes whatever the loss asks for (models/within.py), so that losses, packed attention
and the head in chunks are the same in one process and in a thousand. Both engines average gradients, and the loop has
divided by the units of all processes already, so `Engines.scale` makes a sum of the average again.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from posttrain.errors import TrainError
from posttrain.models.freezing import layers_of
from posttrain.models.within import Whole, engine_of, set_engine
from posttrain.train import distributed


# What a model keeps beside its weights is the same everywhere; the option has another name before torch 2.13.
_NEW = "forward_sync_buffers"
_OWN_BUFFERS: dict[str, Any] = {
    _NEW if _NEW in signature(DistributedDataParallel.__init__).parameters else "broadcast_buffers": False
}


@dataclass(frozen=True)
class Sharding:
    """How weights are shared out. `bf16`: whole weights and products in bf16, gradients summed in fp32."""

    reshard_after_forward: bool = True
    cpu_offload: bool = False
    bf16: bool = False


@dataclass
class Engines:
    """What runs the models of a training loop. `scale`: what a loss is multiplied by before its backward."""

    scale: float = 1.0
    is_sharded: bool = False
    replicas: list[DistributedDataParallel] = field(default_factory=list)

    @contextmanager
    def accumulating(self, *, is_last: bool) -> Iterator[None]:
        """A micro-batch: replicas sum their gradients over the processes after the last one of a step alone."""
        with ExitStack() as stack:
            for replica in self.replicas if not is_last else ():
                stack.enter_context(replica.no_sync())
            yield


ALONE = Engines()
"""One process."""


def replicate(*models: nn.Module) -> Engines:
    """Keep each model whole in every process; the first ones' weights are everyone's."""
    engines = Engines(scale=float(distributed.world()))
    for model in models:
        if any(parameter.requires_grad for parameter in model.parameters()):
            engine = DistributedDataParallel(Whole(model), find_unused_parameters=_may_idle(model), **_OWN_BUFFERS)
            set_engine(model, engine)
            engines.replicas.append(engine)
    return engines


def shard(model: nn.Module, sharding: Sharding, device: torch.device, *beside: nn.Module) -> None:
    """Share the weights of `model` out over all processes, layer by layer, in place; `beside`: small modules that are
    computed with it. Every process must hold the same whole weights before."""
    precision = MixedPrecisionPolicy()
    if sharding.bf16:
        precision = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    offload = CPUOffloadPolicy(pin_memory=device.type == "cuda") if sharding.cpu_offload else OffloadPolicy()
    mesh = torch.distributed.init_device_mesh(device.type, (distributed.world(),))
    common: dict[str, Any] = {"mesh": mesh, "mp_policy": precision, "offload_policy": offload}
    for layer in layers_of(model):
        fully_shard(layer, reshard_after_forward=sharding.reshard_after_forward, **common)
    whole = Whole(model, *beside)
    fully_shard(whole, **common)
    for name, buffer in model.named_buffers():
        owner, _, own = name.rpartition(".")
        setattr(model.get_submodule(owner), own, buffer.to(device))
    set_engine(model, whole)


def is_sharded(model: nn.Module) -> bool:
    """Whether this process holds a share of its weights alone."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def settle(model: nn.Module) -> None:
    """Leave every process its share of the weights alone: a forward without a backward leaves some of them whole."""
    for module in getattr(engine_of(model), "modules", lambda: ())():
        if isinstance(module, FSDPModule):
            module.reshard()


@torch.no_grad()
def whole_state(model: nn.Module, *, trained_only: bool = False) -> dict[str, Tensor]:
    """Every weight in one piece on the CPU of rank 0, empty elsewhere. All processes must call it."""
    settle(model)
    found: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if trained_only and not parameter.requires_grad:
            continue
        value = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
        if distributed.is_main():
            found[name] = value.detach().cpu()
    if distributed.is_main():
        kept = set(model.state_dict())
        found |= {name: buffer.cpu() for name, buffer in model.named_buffers() if name in kept}
    return found


@torch.no_grad()
def copy_whole(source: nn.Module, target: nn.Module) -> None:
    """Put the weights of `source` into its plain twin in every process. All processes must call it."""
    settle(source)
    held = dict(target.named_parameters())
    for name, parameter in source.named_parameters():
        value = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
        held[name].copy_(value)


@torch.no_grad()
def put(parameter: Tensor, value: Tensor) -> None:
    """Give a weight, shared out or not, the whole `value`, which every process has."""
    parameter.copy_(like(parameter, value))


def whole_norm(norm: Tensor) -> Tensor:
    """The length of a gradient that is shared out."""
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def like(parameter: Tensor, value: Tensor) -> Tensor:
    """A whole tensor laid out over the processes as `parameter` is."""
    if not isinstance(parameter, DTensor):
        return value.to(parameter.device)
    if value.shape != parameter.shape:
        raise TrainError(f"a weight of the shape {tuple(value.shape)} where {tuple(parameter.shape)} is expected.")
    mesh = parameter.device_mesh
    return distribute_tensor(value.to(mesh.device_type), mesh, parameter.placements, src_data_rank=None)


class ReplicaSampler:
    """A sampler of a plain twin of a sharded model, in every process; it takes the weights over before it is handed
    them (see rollouts/policy.py for its doors)."""

    def __init__(self, source: nn.Module, sampler: Any) -> None:
        self.source, self.sampler = source, sampler

    def refresh(self, version: int) -> None:
        """Collect the present weights from all processes, and sample from them."""
        copy_whole(self.source, self.sampler.policy.model)
        self.sampler.refresh(version)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sampler, name)


def _may_idle(model: Any) -> bool:
    """Whether a step may leave weights without a gradient, as experts that no token chose."""
    config = getattr(model, "config", None)
    return any(getattr(config, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts"))
