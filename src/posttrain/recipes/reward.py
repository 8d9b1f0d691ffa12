"""`posttrain reward`: a reward model from compared answers, and figures on how far to trust it."""

from functools import partial
from typing import Any

import numpy as np
import torch
from rich.console import Console

from posttrain.data.store import TokenStore
from posttrain.data.template import stop_token_ids
from posttrain.evals.reward_lines import reward_lines
from posttrain.models.load import Policy
from posttrain.models.reward import load_reward, set_padding
from posttrain.recipes.mixing import open_stream
from posttrain.recipes.policy import fit_length, load_policy
from posttrain.recipes.processes import in_processes
from posttrain.recipes.reward_config import RewardConfig
from posttrain.recipes.scoring import NULL_ANSWERS, compared, pair_report, score_null_answers, score_samples
from posttrain.recipes.training import finish, fit, uses_bf16
from posttrain.recipes.training_data import held_batches, load_data
from posttrain.train.objectives import reward_objective
from posttrain.train.runlog import RunFolder

MAX_NULL_PROMPTS = 200


@in_processes
def run(config: RewardConfig, console: Console) -> int:
    """Load, read, train, save; then score the held-out answers."""
    folder = RunFolder(config.output_dir, resume=config.resume_from_checkpoint, overwrite=config.overwrite_output_dir)
    torch.manual_seed(config.seed)

    policy, _ = load_policy(config, partial(load_reward, seed=config.seed))
    set_padding(policy, stop_token_ids(policy.tokenizer))
    config = fit_length(config, policy, console.print)
    data = load_data(config, policy.tokenizer, console.print)

    stream = open_stream(config, data.train, data.parts, console.print, may_exceed=True)
    held_out = held_batches(data.held_out, data.held_out.length_S, config.max_length)
    objective = reward_objective(center_coef=config.center_rewards_coefficient)
    done = fit(config, policy, objective, stream, held_out, data.inputs, folder, console)
    if done.status == "interrupted":
        return 130
    if len(data.held_out):
        report = _report(config, policy, data.train, data.held_out)
        folder.save("reward.json", report)
        folder.save("pairs.jsonl", _shown(config, policy, data.held_out))
        for line in reward_lines(report):
            console.print(line)
    finish(done, folder, console, say="use it to rank answers, or as the reward of a later stage: {}")
    return 0


def _report(config: RewardConfig, policy: Policy, train: TokenStore, held_out: TokenStore) -> dict[str, Any]:
    rows: dict[str, Any] = {"row_length": config.max_length, "bf16": uses_bf16(config, policy)}
    scores = score_samples(policy, held_out, **rows)
    rng = np.random.default_rng(config.seed)
    places = np.sort(rng.permutation(len(held_out))[:MAX_NULL_PROMPTS])
    asked = held_out.select(places)
    real = compared(asked, [scores[place] for place in places.tolist()])
    nulls = score_null_answers(policy, asked, max_length=config.max_length, **rows)
    return pair_report(
        train,
        held_out,
        scores,
        null_scores={name: scores[real["sample_M"]] for name, scores in zip(NULL_ANSWERS, nulls.T, strict=True)},
        null_score_chosen_M=real["score_chosen_M"],
        null_score_rejected_M=real["score_rejected_M"],
        null_group_M=real["group_M"],
    )


def _shown(config: RewardConfig, policy: Policy, store: TokenStore) -> list[dict[str, Any]]:
    """A few held-out pairs with their scores."""
    few = store.select(range(min(config.num_preview_samples, len(store))))
    rows = []
    found = score_samples(policy, few, row_length=config.max_length, bf16=uses_bf16(config, policy))
    for sample, scores in zip(few, found, strict=True):
        texts = [policy.tokenizer.decode(segment.token_ids, skip_special_tokens=True) for segment in sample.segments]
        answers = [{"content": text, "score": float(s)} for text, s in zip(texts[1:], scores, strict=True)]
        rows.append({"source": sample.source, "prompt": texts[0], "answers": answers})
    return rows
