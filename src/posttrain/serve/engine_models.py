"""A model that is served: loaded, proven, with a stream of its own."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from posttrain.models.decoding import Decoder, PlainDecoder
from posttrain.models.decoding_lean import LeanDecoder
from posttrain.models.decoding_pages import PAGE
from posttrain.models.load import Policy, base_of, context_length, load
from posttrain.models.logprobs import causal_lm
from posttrain.rollouts.decode_stream import Stream
from posttrain.rollouts.policy import PolicySampler
from posttrain.serve.doors import Served

KEYS_BYTES = 1 << 30  # of keys and values, where no number of positions is said
KEPT = 4  # one position in so many is for prefixes of answers that are over


@dataclass(eq=False)
class Hosted:
    """`in_flight`: answers that were asked for and have not ended; `mean_s`: of those that have, in the mean."""

    served: Served
    stream: Stream
    vocabulary: int
    in_flight: int = 0
    mean_s: float = 1.0
    names: set[str] = field(default_factory=set)

    def ended(self, took_s: float) -> None:
        """An answer is over."""
        self.in_flight -= 1
        self.mean_s = 0.9 * self.mean_s + 0.1 * took_s


def host(
    name: str, source: Policy | str | Path, *, slots: int, max_positions: int | None, dtype: torch.dtype | None
) -> Hosted:
    """Load a model, prove that its decoder computes what the model does (decode_probe.check), and make its stream. The
    model itself is let go where a lean copy of its weights serves. Raises ModelError."""
    policy = source if isinstance(source, Policy) else load(source)
    sampler = PolicySampler(policy, dtype=dtype, slots=slots)
    sampler.refresh(0)
    assert sampler.decoder is not None
    positions = max_positions or _affordable(policy, sampler.dtype, slots)
    kept = positions // KEPT // PAGE * PAGE
    running = max(PAGE, (positions - kept) // PAGE * PAGE)
    stream = Stream(
        sampler.decoder, policy.tokenizer, slots=slots, max_positions=running, kept_positions=kept, device=policy.device
    )
    context = min(context_length(policy), running)
    served = Served(name, policy.tokenizer, context, policy.name, _parent(policy.name), int(time.time()))
    return Hosted(served, stream, _vocabulary(sampler.decoder), names={name})


def _parent(root: str) -> str:
    folder = Path(root)
    return base_of(folder) if (folder / "adapter_config.json").exists() else ""


def _affordable(policy: Policy, dtype: torch.dtype, slots: int) -> int:
    """Positions that KEYS_BYTES hold, but no more than all slots can fill, and one whole context of up to 4,096."""
    config: Any = causal_lm(policy.model).config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    position = 2 * config.num_hidden_layers * heads * size * dtype.itemsize
    context = context_length(policy)
    affordable = min(KEYS_BYTES // position, slots * context)
    return int(max(affordable, min(context, 4096)) * KEPT / (KEPT - 1)) + KEPT * PAGE


def _vocabulary(decoder: Decoder) -> int:
    """Token ids that the model knows."""
    if isinstance(decoder, LeanDecoder):
        return len(decoder.embedding)
    assert isinstance(decoder, PlainDecoder)
    return len(causal_lm(decoder.model).get_input_embeddings().weight)
