"""Reward models: the same transformer with one number in place of the vocabulary, read at an answer's last token."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import logging

from posttrain.errors import ModelError
from posttrain.models.load import (
    Policy,
    base_of,
    check_place,
    is_reward_model,
    load,
    load_tokenizer,
    load_weights,
    quiet_peft,
)
from posttrain.models.logprobs import causal_lm, hidden_states
from posttrain.models.lora import merge_lora
from posttrain.models.within import within
from posttrain.types import Batch


def load_reward(
    path: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | None = None,
    seed: int = 0,
    **options: Any,
) -> Policy:
    """A model folder or a Hugging Face name with a scalar head. A language model's head gives way to a new one, drawn
    from N(0, 1 / (D + 1)) (Stiennon et al., 2020, appendix B); a reward model keeps its own, adapters are read too.
    `options`: more of `from_pretrained`, for a model that is no adapter.

    Raises ModelError where the family has no sequence classifier with a linear `score`, or the head has several labels.
    """
    folder = check_place(path)
    if (folder / "adapter_config.json").exists():
        policy = _load_adapter(folder, dtype, seed)
    else:
        policy = Policy(_classifier(path, dtype, **options), load_tokenizer(path), str(path))
        if not is_reward_model(path):
            _draw_head(policy.model, seed)
    policy.model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return policy


def answer_scores(model: nn.Module, batch: Batch) -> Tensor:
    """The reward [A] (fp32) of every answer of a batch of preference data."""
    assert batch.judged is not None, "only preference data has answers to score"
    return within(model, partial(_answer_scores, model, batch, batch.judged.last_A))


def _answer_scores(model: nn.Module, batch: Batch, last_A: Tensor) -> Tensor:
    last_AD = hidden_states(model, batch).index_select(0, last_A)
    # In bf16 a score of 4 moves in steps of 0.03, and answers would tie.
    with torch.autocast(last_AD.device.type, enabled=False):
        scores_A: Tensor = causal_lm(model).score(last_AD.float())[:, 0]
    return scores_A


def set_padding(policy: Policy, stop_token_ids: Sequence[int]) -> None:
    """Choose the id that pads rows for transformers, which reads the score at the last token that is another: it must
    not be one that ends an answer."""
    tokenizer, lm = policy.tokenizer, causal_lm(policy.model)
    choices = [tokenizer.pad_token_id, *sorted(tokenizer.all_special_ids, reverse=True), *range(len(tokenizer))]
    pad = next(id for id in choices if id is not None and id not in stop_token_ids)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad)
    lm.config.pad_token_id = pad


def _classifier(path: str | Path, dtype: torch.dtype, **options: Any) -> Any:
    from transformers import AutoConfig, AutoModelForSequenceClassification

    num_labels = AutoConfig.from_pretrained(path).num_labels if is_reward_model(path) else 1
    if num_labels != 1:
        raise ModelError(f"{path}: its head gives {num_labels} numbers, and a reward is one.")
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # it would warn of the new head, which is what was asked for
    try:
        model = load_weights(path, dtype, AutoModelForSequenceClassification, num_labels=1, **options)
    finally:
        logging.set_verbosity(level)
    _require_head(model, str(path))
    return model


def _require_head(model: Any, name: str) -> None:
    head = getattr(model, "score", None)
    if not isinstance(head, nn.Linear):
        raise ModelError(f"{name}: {type(model).__name__} has no linear head `score`; train another family.")


@torch.no_grad()
def _draw_head(model: Any, seed: int) -> None:
    weight: Tensor = model.score.weight
    drawn = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))
    weight.copy_(drawn / (weight.shape[1] + 1) ** 0.5)


def _load_adapter(folder: Path, dtype: torch.dtype, seed: int) -> Policy:
    from peft import PeftModel

    if not is_reward_model(folder):
        return _headed(merge_lora(load(folder, dtype=dtype, device="cpu")), seed)
    tokenizer = load_tokenizer(folder)
    model = _classifier(base_of(folder), dtype)
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with quiet_peft():
        return Policy(PeftModel.from_pretrained(model, folder), tokenizer, str(folder))


def _headed(policy: Policy, seed: int) -> Policy:
    """A language model's transformer under a new scalar head."""
    from transformers import AutoModelForSequenceClassification

    lm = policy.model
    lm.config.num_labels = 1
    model = AutoModelForSequenceClassification.from_config(lm.config, dtype=lm.dtype)
    model.base_model.load_state_dict(lm.base_model.state_dict())
    _require_head(model, policy.name)
    _draw_head(model, seed)
    return replace(policy, model=model)
