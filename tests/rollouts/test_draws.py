"""Drawing by inverse CDF against the distribution itself, and its independence of the batch."""

from typing import Any

import pytest
import torch

from posttrain.rollouts.draws import Draws, draw_seed
from posttrain.rollouts.generate import generate

SCORES = torch.tensor([1.2, -0.3, 0.0, 2.1, -torch.inf, 0.5])
NUM_ROWS = 20_000


def _drawn(temperature: float, top_p: float) -> torch.Tensor:
    """How often each token was drawn among NUM_ROWS rows of the same scores."""
    draws = Draws([draw_seed(0, [1, 2], n) for n in range(NUM_ROWS)], 1, temperature=temperature, top_p=top_p, width=2)
    left = draws(torch.zeros(NUM_ROWS, 2, dtype=torch.long), SCORES.expand(NUM_ROWS, -1))
    assert (left.isfinite().sum(-1) == 1).all(), "one token is left in each row"
    return torch.bincount(left.argmax(-1), minlength=len(SCORES)) / NUM_ROWS


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_are_the_probabilities(temperature: float) -> None:
    wanted = torch.softmax(SCORES / temperature, -1)
    # Five standard errors of a share of NUM_ROWS draws.
    assert (_drawn(temperature, 1.0) - wanted).abs().max() < 5 * (0.25 / NUM_ROWS) ** 0.5
    assert _drawn(temperature, 1.0)[4] == 0


def test_top_p_keeps_the_likeliest_that_make_up_the_share() -> None:
    probability = torch.softmax(SCORES, -1)
    order = probability.argsort(descending=True)
    # 3 has 0.52 and 0 has 0.21 of the probability: 0.6 needs both, 0.5 the first alone.
    assert order[:2].tolist() == [3, 0]
    assert probability[3] > 0.5
    two = _drawn(1.0, 0.6)
    assert set(two.nonzero().flatten().tolist()) == {0, 3}
    assert two[3] == pytest.approx(float(probability[3] / probability[[0, 3]].sum()), abs=0.02)
    assert _drawn(1.0, 0.5).nonzero().flatten().tolist() == [3]


def test_a_seed_depends_on_prompt_and_number() -> None:
    seeds = {draw_seed(s, p, n) for s in (0, 1) for p in ([1, 2], [12], [2, 1]) for n in range(3)}
    assert len(seeds) == 18
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_an_answer_does_not_depend_on_its_batch(tiny: Any) -> None:
    policy = tiny.policy()
    prompts = [[5, 6, 7], [8, 9], [10, 11, 12, 13, 14], [5, 6, 7], [20]]
    seeds = [draw_seed(7, prompt, n) for n, prompt in enumerate(prompts)]
    options: dict[str, Any] = {"max_new_tokens": 12, "stop_token_ids": [0], "temperature": 1.0}
    together = generate(policy, prompts, row_seeds=seeds, **options)
    alone = [generate(policy, [p], row_seeds=[s], **options)[0] for p, s in zip(prompts, seeds, strict=True)]
    assert together == alone == generate(policy, prompts, row_seeds=seeds, batch_size=2, **options)
    assert together[0] != together[3], "the same prompt with another number"
    state = torch.random.get_rng_state()
    generate(policy, prompts, row_seeds=seeds, **options)
    assert torch.equal(state, torch.random.get_rng_state())
    greedy = generate(policy, prompts, row_seeds=seeds, **options | {"temperature": 0.0})
    assert greedy == generate(policy, prompts, **options | {"temperature": 0.0})
