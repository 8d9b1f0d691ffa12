"""`posttrain grpo`: a policy learns from groups of its own graded answers, without a value model."""

from functools import partial
from typing import Any

import torch
from rich.console import Console

from posttrain.losses.policy import policy_loss
from posttrain.models.reference import Reference, reference_logps
from posttrain.recipes.grpo_config import GrpoConfig
from posttrain.recipes.policy import load_policy
from posttrain.recipes.processes import in_processes
from posttrain.recipes.rollout_samples import shower
from posttrain.recipes.rollout_setup import Setup, set_up
from posttrain.recipes.rollout_watch import collector, evaluation, note_hacking, peak, recorder
from posttrain.recipes.training import finish, fit, uses_bf16
from posttrain.train.credit import GroupCredit
from posttrain.train.objectives import Objective
from posttrain.train.rollout_objective import rollout_objective
from posttrain.train.rollout_steps import Leash, RolloutSteps, Shape
from posttrain.train.runlog import RunFolder

SCALES = {"none": "none", "group": "group_std", "batch": "batch_std"}


@in_processes
def run(config: GrpoConfig, console: Console) -> int:
    """Load, read prompts, sample and learn, save."""
    folder = RunFolder(config.output_dir, resume=config.resume_from_checkpoint, overwrite=config.overwrite_output_dir)
    torch.manual_seed(config.seed)

    policy, _ = load_policy(config)
    setup = set_up(config, policy, console)
    reference = Reference(policy) if config.beta or config.measure_kl else None
    steps = RolloutSteps(
        policy,
        setup.sampler,
        collector(config, setup, dynamic=config.dynamic_sampling),
        credit_of(config, setup),
        recorder(config, policy),
        shape=shape_of(config, uses_bf16(config, policy)),
        leash=Leash(config.beta),
        reference=None if reference is None else partial(reference_logps, reference, temperature=config.temperature),
        show=shower(folder, policy.tokenizer, config.sample_steps),
        say=partial(console.print, markup=False),
        is_past_peak=peak(config, folder, partial(console.print, markup=False)),
    )
    measured = evaluation(config, setup)
    done = fit(
        config,
        policy,
        objective_of(config),
        steps,
        [],
        setup.inputs,
        folder,
        console,
        companion=steps,
        measure=measured,
        reference=reference,
    )
    if done.status == "interrupted":
        return 130
    note_hacking(config, folder, partial(console.print, markup=False))
    finish(done, folder, console)
    return 0


def objective_of(config: GrpoConfig) -> Objective:
    """The policy's loss, as the recipe puts it together."""
    level: str = config.importance_sampling_level
    if config.loss_type == "rloo" and level == "token":
        level = "sequence_sum"  # the whole answer is one action
    loss = partial(
        policy_loss,
        ratio=level,
        clip=config.policy_loss,
        epsilon=config.epsilon,
        epsilon_high=config.epsilon_high,
        dual_clip=config.delta,
        kl_coef=config.beta if config.kl_in == "loss" else 0.0,
        kl_estimator=config.kl_estimator,
        kl_correction=config.kl_estimator != "k2",
        entropy_coef=config.entropy_coef,
        correction=config.correction,
        correction_level=config.correction_level,
        correction_cap=config.correction_cap,
    )
    return rollout_objective("grpo", loss, temperature=config.temperature, entropy_coef=config.entropy_coef)


def credit_of(config: GrpoConfig, setup: Setup) -> GroupCredit:
    """How rewards become advantages."""
    scale = SCALES[config.scale_rewards]
    if scale == "batch_std" and config.advantage in ("group_mean", "leave_one_out"):
        scale = "advantage_std"
    return GroupCredit(
        baseline=config.advantage,
        scale=scale,
        kl_in=config.kl_in,
        kl_estimator=config.kl_estimator,
        combine=config.combine_rewards,
        weights={weighted.name: weighted.weight for weighted in setup.rewards},
    )


def shape_of(config: Any, bf16: bool) -> Shape:
    """How rollouts become optimiser steps."""
    return Shape(
        num_epochs=config.num_updates,
        num_mini_batches=config.num_mini_batches,
        row_length=config.micro_batch_tokens,
        aggregation=config.aggregation,
        constant=float(config.max_completion_length) if config.aggregation == "constant" else None,
        mask_truncated=config.mask_truncated_completions,
        target_kl=config.target_kl,
        keep_idle=bool(config.entropy_coef or (config.beta and config.kl_in == "loss") or "kl" in config.protection),
        temperature=config.temperature,
        bf16=bf16,
        seed=config.seed,
    )
