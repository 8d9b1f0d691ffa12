"""A base whose linear maps are held in four bits, for adapters in full precision (QLoRA; Dettmers et al., 2023)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from posttrain.errors import ModelError
from posttrain.models.bitsandbytes import options_4bit, settle_4bit
from posttrain.models.dequantised import quantisation_of
from posttrain.models.load import Policy, load


def load_4bit(
    path: str | Path,
    *,
    read: Callable[..., Policy] = load,
    quant_type: str = "nf4",
    double_quant: bool = True,
    device: str | None = None,
) -> Policy:
    """A model folder or a Hugging Face name with the linear maps of its layers in four bits; embeddings, head and norms
    are in fp32. The name stays the plain model's, which an adapter on it is then for. `read`: `load`, or another of
    its shape.

    Raises ModelError for an adapter, for a folder that is quantised already, and where a package is missing.
    """
    if (Path(path) / "adapter_config.json").exists():
        raise ModelError(f"{path}: this is an adapter; it is merged into its base before that is held in four bits.")
    if quantisation_of(path) is not None:
        raise ModelError(f"{path}: its weights are quantised already; give the folder that they were made from.")
    device = device or ("cuda:0" if torch.cuda.is_available() else "cpu")
    options: dict[str, Any] = options_4bit(device, quant_type=quant_type, double_quant=double_quant)
    policy = read(path, device=device, **options)
    if not settle_4bit(policy.model):
        kind = type(policy.model).__name__
        raise ModelError(f"{path}: bitsandbytes holds no linear map of {kind} in four bits; leave load_in_4bit out.")
    return policy
