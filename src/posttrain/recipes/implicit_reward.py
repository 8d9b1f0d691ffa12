"""What a policy that learned preferences thinks of held-out answers: its own reward, looked at as a reward model's."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from posttrain.data.packing import plan_rows
from posttrain.data.store import TokenStore
from posttrain.evals.reward_model import reward_report
from posttrain.losses.answers import answer_lengths, answer_sums
from posttrain.models.load import Policy
from posttrain.recipes.scoring import MAX_LENGTH_ROWS, compared
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
    pairs = compared(held_out, _scores(policy, held_out, collate, row_length=row_length, beta=beta, bf16=bf16))
    known = train.select(range(min(len(train), MAX_LENGTH_ROWS)))
    trained = compared(known, [np.zeros(len(sample.segments) - 1) for sample in known])
    report = reward_report(
        pairs["score_chosen_M"],
        pairs["score_rejected_M"],
        label_M=pairs["label_M"],
        weight_M=pairs["weight_M"],
        group_M=pairs["group_M"],
        length_chosen_M=pairs["length_chosen_M"],
        length_rejected_M=pairs["length_rejected_M"],
        train_length_chosen_M=trained["length_chosen_M"],
        train_length_rejected_M=trained["length_rejected_M"],
        train_label_M=trained["label_M"],
    )
    return {"subject": SUBJECT} | report


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
