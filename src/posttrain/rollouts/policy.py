"""A policy in this process as a sampler."""

import copy
from collections.abc import Sequence
from contextlib import nullcontext

import torch

from posttrain.errors import ModelError
from posttrain.models.bitsandbytes import plain_
from posttrain.models.decoding import Decoder, PlainDecoder, decode_mode
from posttrain.models.decoding_lean import lean_decoder
from posttrain.models.load import Policy, context_length
from posttrain.models.precision import has_fast_bf16
from posttrain.rollouts.decode_batch import Counts, DecodeBatch
from posttrain.rollouts.decode_probe import TOLERANCE, check
from posttrain.rollouts.sampling import Completion, Decoding, Request


class PolicySampler:
    """Answers from a policy, any causal LM of transformers, with adapters or without.

    `dtype` of the decoding; by default bfloat16 where the device is fast at it, else fp32. `slots`: answers that are
    in the batch at once. Memory for keys and values is taken in pages as answers grow and given back after the call.
    """

    def __init__(self, policy: Policy, *, dtype: torch.dtype | None = None, slots: int = 64) -> None:
        if slots < 1:
            raise ValueError(f"slots is {slots}, expected at least 1")
        self.policy, self.slots, self.version = policy, slots, 0
        if dtype is not None and dtype not in TOLERANCE:
            raise ValueError(f"dtype is {dtype}, expected float32, bfloat16 or float16")
        self.dtype = dtype or (torch.bfloat16 if has_fast_bf16(policy.device) else torch.float32)
        self.decoder: Decoder | None = None
        self.counts = Counts()

    @torch.no_grad()
    def refresh(self, version: int) -> None:
        """Take over the policy's present weights, and check that they are what is served: a few tokens are scored by
        the sampler's path and by the training path. Raises ModelError where the two do not agree."""
        self.decoder = None  # its memory is wanted for the next
        with torch.autocast(self.policy.device.type, enabled=False):
            decoder = self._hand_over()
            check(decoder, self.policy, self.dtype)
        self.decoder = decoder
        self.version = version

    def release(self) -> None:
        """Give back the copy of the weights, where there is one; the next `refresh` makes another."""
        self.decoder = None

    def _hand_over(self) -> Decoder:
        model = self.policy.model
        lean = lean_decoder(model, self.dtype)
        if lean is not None:
            return lean
        if next(model.parameters()).dtype == self.dtype:
            return PlainDecoder(model)  # the trainer's own weights
        return PlainDecoder(_copied(model, self.dtype))

    @torch.no_grad()
    def sample(self, requests: Sequence[Request], decoding: Decoding) -> list[list[Completion]]:
        """See Sampler. Raises ModelError where a prompt leaves no room in the context, or logits are not numbers."""
        limits = [self._limit(number, request, decoding) for number, request in enumerate(requests)]
        if self.decoder is None:
            self.refresh(self.version)
        assert self.decoder is not None
        batch = DecodeBatch(
            self.decoder, self.policy.tokenizer, requests, decoding, limits, slots=self.slots, device=self.policy.device
        )
        plain = decode_mode(self.decoder.model) if isinstance(self.decoder, PlainDecoder) else nullcontext()
        with plain, torch.autocast(self.policy.device.type, enabled=False):
            found = batch.run()
        self.counts = batch.counts
        return found

    def _limit(self, number: int, request: Request, decoding: Decoding) -> int:
        """New tokens that an answer may have: what was asked, cut to the context."""
        context = context_length(self.policy)
        room = context - len(request.prompt_ids)
        if room < 1:
            raise ModelError(
                f"prompt {number} has {len(request.prompt_ids)} tokens and the model's context {context}: no room for "
                "an answer; shorten the prompt, or leave such prompts out."
            )
        return min(room, decoding.max_new_tokens, request.max_new_tokens or decoding.max_new_tokens)


def _copied(model: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    """A copy in another dtype, its adapter merged in fp32 before it is rounded."""
    found = copy.deepcopy(model)
    for module in found.modules():
        module.__dict__.pop("forward", None)  # a fused twin's, which would compute with the original's weights
    if hasattr(found, "peft_config"):
        found = plain_(found).float().merge_and_unload()  # type: ignore[operator]
    return found.to(dtype).eval().requires_grad_(False)
