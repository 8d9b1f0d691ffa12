"""From a recipe to what the formulas of `planning` take."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from posttrain.errors import PosttrainError
from posttrain.planning.hardware import Hardware
from posttrain.planning.job import NF4_BITS, PLAIN4_BITS, Beside, Job, Lora
from posttrain.planning.memory import standing
from posttrain.recipes.good_model import good_model
from posttrain.recipes.plan_rollouts import rollout_batches, rollouts_of
from posttrain.recipes.plan_rows import Batches, read_batches
from posttrain.recipes.plan_shape import shape_named

Say = Callable[[str], None]
REFERENCED = ("dpo", "kto")


def job_of(config: Any, stage: str, hardware: Hardware, *, has_fast_bf16: bool, say: Say) -> Job:
    """The run that a recipe describes, on this hardware."""
    shape = shape_named(config.model)
    rolls = rollouts_of(config, stage, has_fast_bf16, say) if stage in ("ppo", "grpo") else None
    if rolls is None:
        batches, rows = read_batches(config, shape.context, say), config.per_device_train_batch_size
    else:
        batches, rows = rollout_batches(config, rolls, hardware.count)
    steps = _steps(config, batches, hardware.count)
    job = Job(
        stage,
        shape,
        batches.most,
        batches.mean,
        batches.micros,
        lora=_lora(config),
        bf16=has_fast_bf16 if config.bf16 is None else config.bf16,
        checkpointing=config.gradient_checkpointing,
        processes=hardware.count,
        fsdp=config.strategy == "fsdp",
        reshard=config.reshard_after_forward,
        cpu_offload=config.cpu_offload,
        activation_offloading=config.activation_offloading,
        is_reward=stage == "reward",
        is_hinted=stage == "sft",
        has_entropy=rolls is not None,
        forwards=1.0 if stage == "kto" else 0.0,
        before=0.0 if stage not in REFERENCED else batches.tokens or 0.0,
        rollouts=rolls,
        steps=steps,
        checkpoints=_checkpoints(config, steps),
        kept=config.save_total_limit,
        rows=rows,
        accumulated=getattr(config, "gradient_accumulation_steps", 1),
        max_length=getattr(config, "max_length", 0),
        optim=config.optim,
    )
    return _with_others(job, config, stage)


def _lora(config: Any) -> Lora | None:
    if not config.use_peft:
        return None
    targets = config.lora_target_modules
    names = () if targets == "all-linear" else tuple([targets] if isinstance(targets, str) else targets)
    bits = (NF4_BITS if config.bnb_4bit_use_double_quant else PLAIN4_BITS) if config.load_in_4bit else None
    return Lora(config.lora_r, names, bits, config.use_dora)


def _steps(config: Any, batches: Batches, processes: int) -> int | None:
    """Optimiser steps: each of more processes brings its rows, so an epoch takes fewer steps."""
    by_epochs = batches.steps is not None and config.max_steps <= 0
    return -(-batches.steps // processes) if by_epochs and batches.steps else batches.steps


def _checkpoints(config: Any, steps: int | None) -> int:
    return 0 if not config.save_steps else 1000 if steps is None else steps // config.save_steps


def _with_others(job: Job, config: Any, stage: str) -> Job:
    """The models that stand beside the policy."""
    beside: list[Beside] = []
    if stage == "grpo" and (config.beta or config.measure_kl) and job.lora is None:
        beside.append(standing("reference", job, learns=False))
    if stage == "ppo":
        beside += _of_ppo(job, config)
    if stage in REFERENCED and config.reference_model is not None:
        other = shape_named(config.reference_model)
        beside.append(Beside("reference model", other, 4.0 * other.parameters, leaves=True))
    return replace(job, beside=tuple(beside))


def _of_ppo(job: Job, config: Any) -> list[Beside]:
    found = [] if job.lora is not None else [standing("reference", job, learns=False)]
    if config.value_model != "shared":
        trained = None if job.lora is None else job.lora.parameters(job.shape) + job.shape.width
        found.append(standing("value model", job, learns=True, trained=trained, adapter=trained is not None))
    is_on_base = job.lora is not None and not job.fsdp  # as ppo_models.py reads one that is an adapter
    if config.reward_model is not None and not (is_on_base and _is_adapter(config.reward_model)):
        try:
            other = shape_named(config.reward_model)
        except PosttrainError:  # not trained yet: it will be of the policy's kind
            other = job.shape
        found.append(Beside("reward model", other, 4.0 * other.trunk, is_shared=False))
    return found


def _is_adapter(name: str) -> bool:
    return (Path(good_model(name)) / "adapter_config.json").is_file()
