"""The model that is exported: in fp32, in one piece, with everything that ends its answers."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from posttrain.data.template import stop_token_ids
from posttrain.models.load import Policy, load
from posttrain.models.logprobs import causal_lm
from posttrain.models.lora import merge_lora
from posttrain.models.qlora import held_in, merge_held
from posttrain.recipes.export_config import ExportConfig
from posttrain.recipes.policy import resolve_model


@dataclass(frozen=True)
class ExportSource:
    """`policy`: fp32, adapters merged in fp32. `folder`: where it was read from. `name`: for files. `stop_ids`: what
    ends an answer, that of the template first. `dtype`: asked of the format hf. `is_held`: whether the adapter was
    merged into the numbers that its base stood for in four bits."""

    policy: Policy
    folder: str
    name: str
    stop_ids: tuple[int, ...]
    dtype: torch.dtype
    config: ExportConfig
    is_held: bool = False

    @property
    def is_adapter(self) -> bool:
        """Whether the folder holds an adapter."""
        return (Path(self.folder) / "adapter_config.json").is_file()


def load_source(config: ExportConfig) -> ExportSource:
    """Raises ModelError for what is no language model with a tokenizer, ConfigError for a pipeline without a model."""
    folder = resolve_model(config.model)
    is_held = config.merges_held and held_in(folder) is not None
    policy = merge_held(folder) if is_held else load(folder, dtype=torch.float32)
    if causal_lm(policy.model) is not policy.model:
        policy = merge_lora(policy)
    policy.model.eval().requires_grad_(False)
    stops = stop_ids_of(policy)
    name = re.sub(r"[^\w.-]+", "-", Path(config.model.rstrip("/")).name) or "model"
    return ExportSource(policy, folder, name, stops, getattr(torch, config.dtype), config, is_held)


def stop_ids_of(policy: Policy) -> tuple[int, ...]:
    """What ends a turn by the template, the tokenizer's end of text, and what the generation settings add."""
    more: Any = getattr(policy.model.generation_config, "eos_token_id", None)
    more = [] if more is None else more if isinstance(more, list) else [more]
    return tuple(dict.fromkeys([*stop_token_ids(policy.tokenizer), *map(int, more)]))
