"""One model in several processes: a copy in each (DDP), or a share of all weights in each (FSDP2).

Zhao et al., 2023 (PyTorch FSDP); FSDP2 is its per-parameter form, `torch.distributed.fsdp.fully_shard`. Either engine
wraps a module whose forward computes whatever the loss asks for (models/within.py), so that losses, packed attention
and the head in chunks are the same in one process and in a thousand. Both engines average gradients, and the loop has
divided by the units of all processes already, so `Engines.scale` makes a sum of the average again.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from inspect import signature
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from posttrain.errors import TrainError
from posttrain.models.copies import copy_model
from posttrain.models.freezing import layers_of
from posttrain.models.load import Policy
from posttrain.models.logprobs import causal_lm
from posttrain.models.within import Whole, engine_of, forget_engines, set_engine
from posttrain.train import distributed
from posttrain.train.offloading import offloading

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
    """What runs the models of a training loop. `scale`: what a loss is multiplied by before its backward. `away_from`:
    the device whose activations wait for the backward in the CPU's memory."""

    scale: float = 1.0
    away_from: torch.device | None = None
    replicas: list[DistributedDataParallel] = field(default_factory=list)

    @contextmanager
    def accumulating(self, *, is_last: bool) -> Iterator[None]:
        """A micro-batch: replicas sum their gradients over the processes after the last one of a step alone."""
        with ExitStack() as stack:
            for replica in self.replicas if not is_last else ():
                stack.enter_context(replica.no_sync())
            if self.away_from is not None:
                stack.enter_context(offloading(self.away_from))
            yield


_OWN: WeakKeyDictionary[nn.Module, Engines] = WeakKeyDictionary()


def engines_of(policy: nn.Module) -> Engines:
    """What runs a policy and the models beside it; in one process, nothing."""
    return _OWN.get(policy) or Engines()


def offload_activations(policy: nn.Module, device: torch.device) -> None:
    """Keep in the CPU's memory what a training step of this policy saves on `device` for its backward."""
    _OWN.setdefault(policy, Engines()).away_from = device


def share_out(policy: nn.Module, beside: Sequence[nn.Module], sharding: Sharding | None, device: torch.device) -> None:
    """Put a policy, and the models that are trained or asked beside it, under engines: shares of all weights, or
    replicas where `sharding` is None. Every process must hold the same whole weights; of replicas, those of rank 0
    become everyone's. A linear map on the policy's own states goes with the policy."""
    heads = [module for module in beside if isinstance(module, nn.Linear)]
    engines = _OWN[policy] = Engines(scale=float(distributed.world()))
    for model in (policy, *(module for module in beside if not isinstance(module, nn.Linear))):
        engine: nn.Module = Whole(model, *(heads if model is policy else ()))
        if sharding is not None:
            _shard(model, engine, heads if model is policy else [], sharding, device)
        elif any(parameter.requires_grad for parameter in model.parameters()):
            replica = DistributedDataParallel(engine, find_unused_parameters=_may_idle(model), **_OWN_BUFFERS)
            engines.replicas.append(replica)
            engine = replica
        else:
            continue
        set_engine(model, engine, device)


def _shard(
    model: nn.Module, engine: nn.Module, heads: Sequence[nn.Module], sharding: Sharding, device: torch.device
) -> None:
    """Layer by layer, and what is around the layers with the whole; heads of one number, which are read in fp32, each
    by itself."""
    precision = MixedPrecisionPolicy()
    if sharding.bf16:
        precision = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    offload = CPUOffloadPolicy(pin_memory=device.type == "cuda") if sharding.cpu_offload else OffloadPolicy()
    mesh = torch.distributed.init_device_mesh(device.type, (distributed.world(),))
    common: dict[str, Any] = {"mesh": mesh, "mp_policy": precision, "offload_policy": offload}
    score = getattr(causal_lm(model), "score", None)
    for head in heads if score is None else (*heads, score):
        fully_shard(head, mesh=mesh, offload_policy=offload)
    for layer in layers_of(model):
        fully_shard(layer, reshard_after_forward=sharding.reshard_after_forward, **common)
    fully_shard(engine, **common)


def forget() -> None:
    """Let go of every model that is under an engine."""
    _OWN.clear()
    forget_engines()


def is_sharded(model: nn.Module) -> bool:
    """Whether this process holds a share of its weights alone, also while a forward has left them whole."""
    return isinstance(engine_of(model), FSDPModule)


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
        value = whole(parameter)
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
        held[name].copy_(whole(parameter))


def whole(value: Tensor) -> Tensor:
    """A tensor in one piece, on every process. All of them must call it."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def like(parameter: Tensor, value: Tensor) -> Tensor:
    """A whole tensor laid out over the processes as `parameter` is."""
    if not isinstance(parameter, DTensor):
        return value.to(parameter.device)
    if value.shape != parameter.shape:
        raise TrainError(f"a weight of the shape {tuple(value.shape)} where {tuple(parameter.shape)} is expected.")
    mesh = parameter.device_mesh
    return distribute_tensor(value.to(mesh.device_type), mesh, parameter.placements, src_data_rank=None)


def plain_twin(policy: Policy) -> Policy:
    """A whole copy of a policy that is about to be shared out, on the device of this process."""
    place = "cuda" if torch.cuda.is_available() else "cpu"
    return Policy(copy_model(policy.model).to(place), policy.tokenizer, policy.name)


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
