"""Whoever answers when an exported model is checked: a policy here, or llama.cpp's runtime with the same face."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from posttrain.models.attention import install_attention, ordinary_attention
from posttrain.models.load import Policy
from posttrain.models.replies import Reply
from posttrain.rollouts.asking import Ask
from posttrain.rollouts.policy import PolicySampler
from posttrain.rollouts.sampling import Decoding, Request
from posttrain.rollouts.text_ids import AskIds


class Reader(Protocol):
    """A model as its file gives it. `name`: how reports call it. `stop_ids`: what ends an answer by the file."""

    name: str

    @property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end an answer."""
        ...

    def prompt_ids(self, ask: Ask) -> list[int]:
        """A prompt through the file's own template and tokenizer."""
        ...

    def text_ids(self, text: str) -> list[int]:
        """A text through the file's tokenizer, nothing before or behind it."""
        ...

    def logps(self, prompt_ids: Sequence[int], answer_ids: Sequence[int]) -> Tensor:
        """Log-probabilities [n, V] in fp32 of the next token at every place of the answer."""
        ...

    def replies(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> Iterator[Reply]:
        """The greedy answer to each prompt, until one of `stop_ids`."""
        ...


class PolicyReader:
    """A policy that computes in fp32 here."""

    def __init__(self, name: str, policy: Policy, stop_ids: Sequence[int], *, slots: int = 64) -> None:
        self.name, self.policy, self._stop_ids = name, policy, frozenset(stop_ids)
        install_attention(policy.model)
        policy.model.eval()
        self._asking = AskIds(policy.tokenizer)
        self.sampler = PolicySampler(policy, dtype=torch.float32, slots=slots)

    @property
    def stop_ids(self) -> frozenset[int]:
        """See Reader."""
        return self._stop_ids

    def prompt_ids(self, ask: Ask) -> list[int]:
        """See Reader."""
        return self._asking.prompt(ask)

    def text_ids(self, text: str) -> list[int]:
        """See Reader."""
        found: list[int] = self.policy.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        return found

    @torch.no_grad()
    def logps(self, prompt_ids: Sequence[int], answer_ids: Sequence[int]) -> Tensor:
        """See Reader."""
        ids = torch.tensor([[*prompt_ids, *answer_ids]], device=self.policy.device)
        with ordinary_attention(self.policy.model):
            logits = self.policy.model(input_ids=ids, use_cache=False).logits[0]
        return logits[len(prompt_ids) - 1 : -1].float().log_softmax(-1).cpu()

    def replies(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> Iterator[Reply]:
        """See Reader."""
        decoding = Decoding(max_new_tokens, 0.0, stop_token_ids=tuple(sorted(self.stop_ids)))
        requests = [Request(tuple(prompt), (0,)) for prompt in prompts]
        for (completion,) in self.sampler.sample(requests, decoding):
            ids = completion.token_ids
            yield Reply(tuple(ids), self.policy.tokenizer.decode(ids, skip_special_tokens=True))
