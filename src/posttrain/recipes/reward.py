"""`posttrain reward`: a reward model from compared answers, and figures on how far to trust it."""

from functools import partial
from typing import Any

import numpy as np
import torch
from rich.console import Console

from posttrain.data.store import TokenStore
from posttrain.evals.reward_lines import reward_lines
from posttrain.evals.reward_model import reward_report
from posttrain.models.load import Policy
from posttrain.models.reward import load_reward
from posttrain.recipes.mixing import open_stream
from posttrain.recipes.policy import fit_length, load_policy
from posttrain.recipes.reward_config import RewardConfig
from posttrain.recipes.scoring import NULL_ANSWERS, score_null_answers, score_samples
from posttrain.recipes.training import finish, fit, uses_bf16
from posttrain.recipes.training_data import held_batches, load_data
from posttrain.train.objectives import reward_objective
from posttrain.train.runlog import RunFolder

MAX_NULL_PROMPTS = 200


def run(config: RewardConfig) -> int:
    """Load, read, train, save; then score the held-out answers."""
    console = Console(highlight=False, soft_wrap=True)
    folder = RunFolder(config.output_dir, resume=config.resume_from_checkpoint, overwrite=config.overwrite_output_dir)
    torch.manual_seed(config.seed)

    policy, _ = load_policy(config, partial(load_reward, seed=config.seed))
    config = fit_length(config, policy, console.print)
    data = load_data(config, policy.tokenizer, console.print)

    row_length = max([config.max_length, *data.train.length_S.tolist(), *data.held_out.length_S.tolist()])
    stream = open_stream(config, data.train, data.parts, console.print, row_length=row_length)
    held_out = held_batches(data.held_out, data.held_out.length_S, row_length)
    objective = reward_objective(center_coef=config.center_rewards_coefficient)
    done = fit(config, policy, objective, stream, held_out, data.inputs, folder, console)
    if done.status == "interrupted":
        return 130
    if len(data.held_out):
        report = _report(config, policy, data.train, data.held_out, row_length)
        folder.save("reward.json", report)
        folder.save("pairs.jsonl", _shown(policy, data.held_out, row_length, config.num_preview_samples))
        for line in reward_lines(report):
            console.print(line)
    finish(done, folder, console, say="use it to rank answers, or as the reward of a later stage: {}")
    return 0


def _report(
    config: RewardConfig, policy: Policy, train: TokenStore, held_out: TokenStore, row_length: int
) -> dict[str, Any]:
    bf16 = uses_bf16(config, policy)
    pairs = compared(held_out, score_samples(policy, held_out, row_length=row_length, bf16=bf16))
    rng = np.random.default_rng(config.seed)
    asked = held_out.select(np.sort(rng.permutation(len(held_out))[:MAX_NULL_PROMPTS]))
    real = compared(asked, score_samples(policy, asked, row_length=row_length, bf16=bf16))
    nulls = score_null_answers(policy, asked, max_length=config.max_length, row_length=row_length, bf16=bf16)
    train_pairs = compared(train, [np.zeros(len(sample.segments) - 1) for sample in train])
    return reward_report(
        pairs["score_chosen_M"],
        pairs["score_rejected_M"],
        label_M=pairs["label_M"],
        weight_M=pairs["weight_M"],
        group_M=pairs["group_M"],
        length_chosen_M=pairs["length_chosen_M"],
        length_rejected_M=pairs["length_rejected_M"],
        train_length_chosen_M=train_pairs["length_chosen_M"],
        train_length_rejected_M=train_pairs["length_rejected_M"],
        train_label_M=train_pairs["label_M"],
        null_scores={name: scores[real["sample_M"]] for name, scores in zip(NULL_ANSWERS, nulls.T, strict=True)},
        null_score_chosen_M=real["score_chosen_M"],
        null_score_rejected_M=real["score_rejected_M"],
        null_group_M=real["group_M"],
    )


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


def _shown(policy: Policy, store: TokenStore, row_length: int, count: int) -> list[dict[str, Any]]:
    """A few held-out pairs with their scores."""
    few = store.select(range(min(count, len(store))))
    rows = []
    for sample, scores in zip(few, score_samples(policy, few, row_length=row_length), strict=True):
        texts = [policy.tokenizer.decode(segment.token_ids, skip_special_tokens=True) for segment in sample.segments]
        answers = [{"content": text, "score": float(s)} for text, s in zip(texts[1:], scores, strict=True)]
        rows.append({"source": sample.source, "prompt": texts[0], "answers": answers})
    return rows
