"""What several processes share of a training run: its models, and the settings that all must have been given."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from posttrain.models.load import Policy
from posttrain.models.reference import Reference
from posttrain.models.within import engine_of
from posttrain.recipes.distributed_config import DistributedKeys
from posttrain.train import distributed
from posttrain.train.sharding import Sharding, share_out

# Keys that change nothing of what a resumed run computes.
FREE = {"resume_from_checkpoint", "overwrite_output_dir", "report_to", "output_dir", "num_preview_samples"}
FREE |= {"sampler", "sampler_model", "sampler_api_key_env", "weight_transfer_dir", "sampler_timeout", "min_answered"}
FREE |= {"dataset_num_proc", "data_checks", "reference_cache"}


def share_models(
    config: Any,
    policy: Policy,
    parts: Mapping[str, Any] | None = None,
    references: Sequence[Reference | None] = (),
    *,
    bf16: bool,
) -> None:
    """Put the models of a run under what several processes train them with; once, and only where there are such."""
    if not distributed.is_running() or engine_of(policy.model) is not None:
        return
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    beside = [part.head if part.is_shared else part.policy.model for part in (parts or {}).values()]
    beside += [reference.model for reference in references if reference is not None and not reference.is_policy]
    sharding = None
    if config.strategy == "fsdp":
        sharding = Sharding(config.reshard_after_forward, config.cpu_offload, bf16)
    share_out(policy.model, beside, sharding, device)
    policy.runs_on = device
    torch.manual_seed(config.seed + distributed.rank())  # no two processes drop the same units


def settings_of(config: Any) -> dict[str, Any]:
    """What a resumed run must have been given too. How many processes share a step is free, its rows are not."""
    found = config.model_dump(exclude=FREE | set(DistributedKeys.model_fields))
    if "gradient_accumulation_steps" in found:
        found["gradient_accumulation_steps"] *= distributed.world()
    return dict(found)
