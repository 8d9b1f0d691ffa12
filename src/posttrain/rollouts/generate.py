"""Answers from a policy, in padded batches, through transformers' `generate`."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessorList, TextStreamer

from posttrain.models.attention import ordinary_attention
from posttrain.models.load import Policy
from posttrain.models.logprobs import causal_lm
from posttrain.rollouts.draws import Draws


def generate(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop_token_ids: Sequence[int],
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int | None = None,
    row_seeds: Sequence[int] | None = None,
    batch_size: int = 64,
    on_text: Callable[[str], None] | None = None,
) -> list[list[int]]:
    """The new ids of each prompt, without the stop token. Temperature 0 takes the likeliest token.

    Prompts of like length share a batch; `on_text` receives the text of a single prompt as it grows. The same seed
    gives the same answers; without one they differ from call to call. Global random state is left as it was.
    `row_seeds` gives every prompt a seed of its own: then its answer does not depend on the others (see Draws).
    """
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers: list[list[int]] = [[] for _ in prompts]
    # Draws chooses the token itself, and the likeliest of what it leaves is that one.
    sampled = 0.0 if row_seeds is not None else temperature
    config = _config(policy, max_new_tokens, stop_token_ids, sampled, top_p)
    was_training = policy.model.training
    policy.model.eval()
    with ordinary_attention(causal_lm(policy.model)), torch.no_grad(), torch.random.fork_rng(enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            rows = [list(prompts[i]) for i in chosen]
            draws = None
            if row_seeds is not None and temperature > 0:
                draws = Draws(
                    [row_seeds[i] for i in chosen],
                    max_new_tokens,
                    temperature=temperature,
                    top_p=top_p,
                    width=max(map(len, rows)),
                )
            found = _generate_batch(policy, rows, config, draws, on_text)
            for index, ids in zip(chosen, found, strict=True):
                answers[index] = ids
    policy.model.train(was_training)
    return answers


def _config(
    policy: Policy, max_new_tokens: int, stop_token_ids: Sequence[int], temperature: float, top_p: float
) -> GenerationConfig:
    stops = list(stop_token_ids)
    pad = policy.tokenizer.pad_token_id
    options: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        options = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    return GenerationConfig(
        max_new_tokens=max_new_tokens, eos_token_id=stops, pad_token_id=stops[0] if pad is None else pad, **options
    )


def _generate_batch(
    policy: Policy,
    prompts: list[list[int]],
    config: GenerationConfig,
    draws: Draws | None,
    on_text: Callable[[str], None] | None,
) -> list[list[int]]:
    width = max(len(prompt) for prompt in prompts)
    pad = config.pad_token_id
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=policy.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=policy.device)
    streamer = _Callback(policy.tokenizer, on_text) if on_text else None
    model: Any = policy.model
    out = model.generate(
        input_ids=ids,
        attention_mask=mask,
        generation_config=config,
        logits_processor=LogitsProcessorList([draws] if draws else []),
        streamer=streamer,
    )
    stops = set(config.eos_token_id)
    return [_until(row, stops) for row in out[:, width:].tolist()]


def _until(ids: list[int], stops: set[int]) -> list[int]:
    end = next((i for i, token in enumerate(ids) if token in stops), len(ids))
    return ids[:end]


class _Callback(TextStreamer):
    """Hands out text as soon as its words are whole."""

    def __init__(self, tokenizer: Any, on_text: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.on_text = on_text

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:  # noqa: ARG002 (the base's signature)
        self.on_text(text)
