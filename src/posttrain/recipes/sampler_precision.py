"""The precision that a policy is sampled in."""

import torch

from posttrain.models.load import Policy
from posttrain.recipes.rollout_config import RolloutConfig
from posttrain.recipes.training import uses_bf16


def sampler_dtype(config: RolloutConfig, policy: Policy) -> torch.dtype:
    """The precision of the weights that are sampled from."""
    if config.sampler_dtype != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[config.sampler_dtype]
    return torch.bfloat16 if uses_bf16(config, policy) else torch.float32
