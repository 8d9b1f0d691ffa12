"""`posttrain ppo`: reinforcement learning from a reward with a value model and a leash to the start (RLHF)."""

from functools import partial
from typing import Any

import torch
from rich.console import Console

from posttrain.losses.policy import policy_loss
from posttrain.models.reference import Reference, reference_logps
from posttrain.recipes.policy import load_policy
from posttrain.recipes.ppo_config import PpoConfig
from posttrain.recipes.ppo_models import load_models
from posttrain.recipes.ppo_replay import replay_of
from posttrain.recipes.processes import in_processes
from posttrain.recipes.rollout_samples import shower
from posttrain.recipes.rollout_setup import set_up
from posttrain.recipes.rollout_watch import collector, evaluation, note_hacking, peak, recorder
from posttrain.recipes.training import finish, fit, uses_bf16
from posttrain.train.credit import ValueCredit
from posttrain.train.objectives import Objective
from posttrain.train.rollout_objective import ValueTerm, rollout_objective
from posttrain.train.rollout_steps import Leash, RolloutSteps, Shape
from posttrain.train.runlog import RunFolder


@in_processes
def run(config: PpoConfig, console: Console) -> int:
    """Load policy, reference, reward and value models, sample and learn, save."""
    folder = RunFolder(config.output_dir, resume=config.resume_from_checkpoint, overwrite=config.overwrite_output_dir)
    torch.manual_seed(config.seed)

    policy, _ = load_policy(config)
    reference = Reference(policy)
    value, rewards = load_models(config, policy)
    setup = set_up(config, policy, console, rewards)
    steps = RolloutSteps(
        policy,
        setup.sampler,
        collector(config, setup),
        credit_of(config),
        recorder(config, policy),
        shape=shape_of(config, uses_bf16(config, policy)),
        leash=Leash(config.kl_coef, config.target_reference_kl, config.kl_horizon),
        reference=partial(reference_logps, reference, temperature=config.temperature),
        value=value.values,
        replay=replay_of(config, policy, console),
        show=shower(folder, policy.tokenizer, config.sample_steps),
        say=partial(console.print, markup=False),
        is_past_peak=peak(config, folder, partial(console.print, markup=False)),
    )
    done = fit(
        config,
        policy,
        objective_of(config, value),
        steps,
        [],
        setup.inputs,
        folder,
        console,
        companion=steps,
        measure=evaluation(config, setup),
        parts={"value": value},
        reference=reference,
    )
    if done.status == "interrupted":
        return 130
    note_hacking(config, folder, partial(console.print, markup=False))
    finish(done, folder, console)
    return 0


def objective_of(config: PpoConfig, value: Any) -> Objective:
    """The clipped losses of policy and value model."""
    loss = partial(
        policy_loss,
        epsilon=config.cliprange,
        entropy_coef=config.entropy_coef,
        correction=config.correction,
        correction_cap=config.correction_cap,
    )
    return rollout_objective(
        "ppo",
        loss,
        temperature=config.temperature,
        entropy_coef=config.entropy_coef,
        value=ValueTerm(value, config.vf_coef, config.cliprange_value or None),
        replay_coef=config.ptx_coef if config.replay else 0.0,
    )


def credit_of(config: PpoConfig) -> ValueCredit:
    """How rewards become advantages and returns."""
    return ValueCredit(
        gamma=config.gamma,
        lam=config.lam,
        kl_estimator=config.kl_estimator,
        missing_eos_penalty=config.missing_eos_penalty,
        normalise=config.normalise_rewards,
        clip=config.reward_clip,
        whiten_rewards=config.whiten_rewards,
        whiten_advantages=config.whiten_advantages,
    )


def shape_of(config: PpoConfig, bf16: bool) -> Shape:
    """How rollouts become optimiser steps."""
    return Shape(
        num_epochs=config.num_ppo_epochs,
        num_mini_batches=config.num_mini_batches,
        row_length=config.micro_batch_tokens,
        target_kl=config.target_kl,
        keep_idle=True,
        temperature=config.temperature,
        bf16=bf16,
        seed=config.seed,
    )
