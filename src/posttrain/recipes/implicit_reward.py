"""What a policy that learned preferences thinks of held-out answers: its own reward, looked at as a reward model's."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from posttrain.data.packing import plan_rows
from posttrain.data.store import TokenStore
from posttrain.losses.answers import answer_lengths, answer_sums
from posttrain.models.load import Policy
from posttrain.recipes.scoring import pair_report
from posttrain.train.objectives import answers_of
from posttrain.types import Batch

SUBJECT = "The policy's implicit reward"


def implicit_report(
    policy: Policy,
    train: TokenStore,
    held_out: TokenStore,
    collate: Callable[[list[int]], Batch],
    *,
    row_length: int,
    beta: float,
    bf16: bool,
) -> dict[str, Any]:
    """`reward_report` on beta * log(policy / reference) of held-out answers (Rafailov et al., 2023, section 5), without
    a reference on beta times their mean log-probability a token. `collate` makes the batches of `held_out`."""
    scores = _scores(policy, held_out, collate, row_length=row_length, beta=beta, bf16=bf16)
    return {"subject": SUBJECT} | pair_report(train, held_out, scores)


@torch.no_grad()
def _scores(
    policy: Policy,
    store: TokenStore,
    collate: Callable[[list[int]], Batch],
    *,
    row_length: int,
    beta: float,
    bf16: bool,
) -> list[np.ndarray]:
    found: list[np.ndarray] = [np.zeros(0)] * len(store)
    policy.model.eval()
    for row in plan_rows(np.minimum(store.length_S, row_length).tolist(), row_length, seed=0):
        with torch.autocast(policy.device.type, torch.bfloat16, enabled=bf16):
            answers = answers_of(policy.model, collate(row).to(policy.device))
        if answers.reference_N is None:
            scores_A = answer_sums(answers.logp_N, answers) / answer_lengths(answers)
        else:
            scores_A = answer_sums(answers.logp_N - answers.reference_N, answers)
        scores = (beta * scores_A).double().cpu().numpy()
        for index in row:
            count = len(store[index].segments) - 1
            found[index], scores = scores[:count], scores[count:]
    return found
