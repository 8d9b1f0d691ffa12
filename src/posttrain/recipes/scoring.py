"""Scores of answers by a reward model: of prepared samples, of what people wrote, and of answers that say nothing."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from posttrain.data.batch import pack
from posttrain.data.judged import Choice, render_choices
from posttrain.data.packing import plan_rows
from posttrain.data.store import TokenStore
from posttrain.data.template import stop_token_ids
from posttrain.errors import DataError, ModelError
from posttrain.evals.reward_model import reward_report
from posttrain.models.attention import install_attention
from posttrain.models.load import Policy, context_length, is_reward_model
from posttrain.models.reward import answer_scores, load_reward
from posttrain.recipes.policy import resolve_model
from posttrain.types import Message, Sample, Segment

NULL_ANSWERS = {
    "a full stop": ".",
    "I don't know": "I don't know.",
    "thanks": "Thank you for your question.",
    "a promise": "Sure, here is a detailed and helpful answer to your question.",
    "a refusal": "I'm sorry, but I can't help with that.",
    "empty words": " ".join(["This is a very good question, and there are many things to say about it."] * 8),
}
"""Answers that fit every prompt and answer none: a sound reward model puts them below real ones."""
MAX_LENGTH_ROWS = 20_000  # training samples that the length-only baseline is fitted on


@torch.no_grad()
def score_samples(
    policy: Policy, samples: Sequence[Sample], *, row_length: int, bf16: bool = False
) -> list[np.ndarray]:
    """The rewards of every sample's answers, in packed rows of `row_length` positions."""
    found: list[np.ndarray] = [np.zeros(0)] * len(samples)
    was_training = policy.model.training
    policy.model.eval()
    lengths = [sample.num_tokens for sample in samples]
    for row in plan_rows([min(length, row_length) for length in lengths], row_length, seed=0) if lengths else []:
        batch = pack([_judged(samples[index]) for index in row]).to(policy.device)
        with torch.autocast(policy.device.type, torch.bfloat16, enabled=bf16):
            scores = answer_scores(policy.model, batch).double().cpu().numpy()
        for index in row:
            count = len(samples[index].segments) - 1
            found[index], scores = scores[:count], scores[count:]
    policy.model.train(was_training)
    return found


def score_null_answers(
    policy: Policy, store: TokenStore, *, max_length: int, row_length: int, bf16: bool = False
) -> np.ndarray:
    """[samples, null answers]: what each of NULL_ANSWERS gets behind the prompt of every sample."""
    tails, stop = [], stop_token_ids(policy.tokenizer)[0]
    for text in NULL_ANSWERS.values():
        ids = policy.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        tails.append([*ids, stop])
    samples = []
    for sample in store:
        room = max(1, max_length - len(sample.segments[0].token_ids))
        answers = [Segment(tuple(tail[:room]), (1.0,) * len(tail[:room]), 0) for tail in tails]
        samples.append(Sample((sample.segments[0], *answers), sample.source, (), (0.0,) * len(answers)))
    return np.stack(score_samples(policy, samples, row_length=row_length, bf16=bf16))


def score_answers(
    model: str, asked: Sequence[tuple[tuple[Message, ...], Sequence[tuple[Message, ...]]]], *, max_length: int = 1024
) -> list[np.ndarray]:
    """The rewards of answers to prompts by a reward model's folder, for each (prompt, answers)."""
    place = resolve_model(model)
    if not is_reward_model(place):
        raise ModelError(f"{model}: this is no reward model; train one with `posttrain reward`.")
    policy = load_reward(place)
    install_attention(policy.model)
    max_length = min(max_length, context_length(policy))
    choices = [
        Choice(prompt, tuple(answers), (), (0.0,) * len(answers), f"prompt {number}")
        for number, (prompt, answers) in enumerate(asked, 1)
    ]
    samples = []
    for choice, found in zip(
        choices,
        render_choices(choices, policy.tokenizer, max_length=max_length, truncation="keep_start"),
        strict=True,
    ):
        if isinstance(found, DataError):
            raise found
        if found is None:
            raise DataError(
                f"the prompt leaves no room for an answer in {max_length} tokens; shorten it.", file=choice.source
            )
        samples.append(found[0])
    return score_samples(policy, samples, row_length=max_length)


def pair_report(train: TokenStore, held_out: TokenStore, scores: list[np.ndarray], **nulls: Any) -> dict[str, Any]:
    """`reward_report` on the held-out comparisons, whose answers have these scores, beside what the lengths of training
    pairs foretell. `nulls`: what it takes on answers that say nothing."""
    pairs = compared(held_out, scores)
    known = train.select(range(min(len(train), MAX_LENGTH_ROWS)))
    trained = compared(known, [np.zeros(len(sample.segments) - 1) for sample in known])
    kept: dict[str, Any] = {name: pairs[name] for name in pairs if name != "sample_M"}
    lengths: dict[str, Any] = {
        f"train_{name}": trained[name] for name in ("length_chosen_M", "length_rejected_M", "label_M")
    }
    return reward_report(**kept, **lengths, **nulls)


def compared(store: TokenStore, scores: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Every comparison of a store as arrays [M]: scores and lengths of both answers, label, weight, prompt."""
    rows = []
    for index, (sample, score_A) in enumerate(zip(store, scores, strict=True)):
        length_A = [sum(1 for weight in segment.weights if weight) for segment in sample.segments[1:]]
        for pair in sample.pairs:
            chosen, rejected = pair.better, pair.worse
            if pair.label < 0.5:
                chosen, rejected = rejected, chosen
            label = max(pair.label, 1 - pair.label)
            rows.append(
                (score_A[chosen], score_A[rejected], length_A[chosen], length_A[rejected], label, pair.weight, index)
            )
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    names = ("score_chosen_M", "score_rejected_M", "length_chosen_M", "length_rejected_M", "label_M", "weight_M")
    found = dict(zip((*names, "sample_M"), columns, strict=True))
    return found | {"group_M": store.group_S[found["sample_M"]]}


def _judged(sample: Sample) -> Sample:
    """A sample whose answers are numbered when it is packed."""
    if sample.pairs or sample.scores:
        return sample
    return Sample(sample.segments, sample.source, (), (0.0,) * (len(sample.segments) - 1))
