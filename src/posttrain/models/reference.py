"""The policy as it was before training, which the KL of reinforcement learning is measured from."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from posttrain.errors import ModelError
from posttrain.models.attention import install_attention
from posttrain.models.copies import adapter_off, copy_model
from posttrain.models.fused import fuse
from posttrain.models.load import Policy, load
from posttrain.models.logprobs import KNOWN, Head, causal_lm, head_of, hidden_states, token_logps
from posttrain.models.lora import merge_lora
from posttrain.models.within import within
from posttrain.types import Batch


class Reference:
    """To be made before the first step. Of a LoRA policy it is the same model with the adapter off, without a copy;
    else a frozen copy of the weights, or the model of another folder (`path`), in `dtype` where one is given.

    Raises ModelError where that other model speaks another vocabulary.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        path: str | Path | None = None,
        dtype: torch.dtype | None = None,
        attn: str = "auto",
    ) -> None:
        self.is_policy = path is None and causal_lm(policy.model) is not policy.model
        if self.is_policy:
            self.model: Any = policy.model
            return
        self.model = copy_model(policy.model) if path is None else _other(policy, path, attn)
        self.model.requires_grad_(False)
        self.model.eval()
        if dtype is not None:
            for parameter in self.model.parameters():  # not the buffers: rotary frequencies need their digits
                parameter.data = parameter.data.to(dtype)


@torch.no_grad()
def reference_logps(
    reference: Reference, batch: Batch, *, temperature: float = 1.0, bf16: bool | None = None
) -> Tensor:
    """Log-probability [N] (fp32) of every trained token under the reference, at `temperature` as the policy's are.
    `bf16`: products in bfloat16; left out, as around the call."""
    device = batch.input_ids_T.device.type
    enabled = torch.is_autocast_enabled(device) if bf16 is None else bf16
    with torch.autocast(device, torch.bfloat16, enabled=enabled), _as_reference(reference) as model:
        return token_logps(model, batch, temperature=temperature)


@torch.no_grad()
def reference_states(reference: Reference, batch: Batch) -> tuple[Tensor, Head]:
    """Final hidden states [T, D] under the reference, and the head that makes distributions of them."""
    with _as_reference(reference) as model:
        return within(model, lambda: (hidden_states(model, batch), head_of(model)))


@contextmanager
def _as_reference(reference: Reference) -> Iterator[Any]:
    """The model of the reference, without dropout and without the adapter that the policy has; hidden states that are
    known are the policy's."""
    model = reference.model
    was_training = model.training
    model.eval()
    token = KNOWN.set(None)
    try:
        with adapter_off(model) if reference.is_policy else nullcontext():
            yield model
    finally:
        KNOWN.reset(token)
        model.train(was_training)


def _other(policy: Policy, path: str | Path, attn: str) -> Any:
    found = load(path, device=str(policy.device))
    if causal_lm(found.model) is not found.model:
        found = merge_lora(found)
    ours, theirs = policy.tokenizer.get_vocab(), found.tokenizer.get_vocab()
    # Tokens that only the policy knows are its chat template's; its answers are read by a reference that has them too.
    differing = [token for token, id in theirs.items() if ours.get(token) != id]
    rows = found.model.get_input_embeddings().weight.shape[0]
    if differing or len(policy.tokenizer) > rows:
        raise ModelError(
            f"{path}: as a reference its token ids must be those of {policy.name}; "
            + (f"{differing[0]!r} is another id there." if differing else f"it has {rows} rows of embeddings.")
        )
    install_attention(found.model, attn)
    fuse(found.model)
    return found.model
