"""Embeddings for tokens that a chat template adds."""

from typing import Any

import torch
from torch import Tensor


def grow_embeddings(model: Any, num_tokens: int, *, seed: int) -> list[int]:
    """Make room for `num_tokens` ids and give every new row its own start; returns the new ids.

    Each new row is drawn around the mean of the old rows with their spread. Distinct rows matter: tokens that all
    start at the mean cannot be told apart by the first layers, and a short fine-tune never separates them.
    """
    old = model.get_input_embeddings().weight.shape[0]
    if num_tokens <= old:
        return []
    model.resize_token_embeddings(num_tokens, mean_resizing=False)
    generator = torch.Generator().manual_seed(seed)
    embedding: Tensor = model.get_input_embeddings().weight
    head = model.get_output_embeddings()  # a reward model has none
    for weight in [embedding] if head is None or head.weight is embedding else [embedding, head.weight]:
        _draw_rows(weight, old, generator)
    return list(range(old, num_tokens))


@torch.no_grad()
def _draw_rows(weight_VD: Tensor, old: int, generator: torch.Generator) -> None:
    known = weight_VD[:old].float()
    mean, spread = known.mean(0), known.std(0)
    noise = torch.randn(weight_VD.shape[0] - old, weight_VD.shape[1], generator=generator)
    weight_VD[old:] = (mean + spread * noise.to(mean.device)).to(weight_VD.dtype)
