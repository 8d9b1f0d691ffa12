"""The models that stand beside the policy in PPO: what grades its answers, and what expects their reward."""

from pathlib import Path
from typing import Any

from posttrain.models.load import Policy
from posttrain.models.value import ValueModel, adapter_reward, adapter_value, own_value, shared_value
from posttrain.recipes.policy import checkpoint_activations, resolve_model
from posttrain.recipes.ppo_config import PpoConfig
from posttrain.rollouts.grading import Weighted
from posttrain.rollouts.rewards.model import model_reward


def load_models(config: PpoConfig, policy: Policy) -> tuple[ValueModel, list[Weighted]]:
    """The value model and, where a reward model is named, the reward that it gives."""
    folder = None if config.reward_model is None else resolve_model(config.reward_model)
    on_base = config.use_peft and folder is not None and (Path(folder) / "adapter_config.json").is_file()
    rewards = []
    if folder is not None:
        # What is shared out takes the base's tensors apart, and gives the reward's own to no device.
        shares_base = on_base and config.strategy != "fsdp"
        scorer: Any = adapter_reward(policy, folder, attn=config.attn) if shares_base else folder
        rewards.append(model_reward(scorer, tokenizer=policy.tokenizer))
    value = _value(config, policy, folder, on_base)
    if config.gradient_checkpointing and not value.is_shared:
        checkpoint_activations(value.policy.model)
        value.train()  # transformers recomputes in that mode alone; there is no dropout left to mind
    return value, rewards


def _value(config: PpoConfig, policy: Policy, folder: str | None, on_base: bool) -> ValueModel:
    make = config.value_model
    if make == "auto":
        make = "policy" if folder is None else "reward"
    shape: dict[str, Any] = {"seed": config.seed, "attn": config.attn}
    place: dict[str, Any] = {"device": str(policy.device), "tokenizer": policy.tokenizer}
    if make == "shared":
        return shared_value(policy, seed=config.seed)
    if not config.use_peft:
        return own_value(policy if make == "policy" or folder is None else folder, **place, **shape)
    if make == "reward" and folder is not None:
        if on_base:
            return adapter_value(policy, reward=folder, **shape)
        return own_value(folder, lora=_lora(config), **place, **shape)
    return adapter_value(policy, lora=_lora(config), **shape)


def _lora(config: PpoConfig) -> dict[str, Any]:
    return {
        "r": config.lora_r,
        "alpha": config.lora_alpha,
        "dropout": config.lora_dropout,
        "targets": config.lora_target_modules,
        "use_rslora": config.use_rslora,
        "use_dora": config.use_dora,
    }
