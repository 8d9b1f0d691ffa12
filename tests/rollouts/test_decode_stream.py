"""A batch that lives on, against the sampler asked for one request alone and against transformers' logits."""

import math
import random
from collections import defaultdict
from types import ModuleType
from typing import Any

import pytest
import torch

from posttrain.errors import ModelError
from posttrain.models.attention import ordinary_attention
from posttrain.models.decoding_pages import PAGE
from posttrain.models.load import Policy
from posttrain.rollouts import decode_stream
from posttrain.rollouts.decode_draw import Ways, choose, choose_each, filtered
from posttrain.rollouts.decode_rows import Growth, Job, Numbers
from posttrain.rollouts.decode_stream import Stream
from posttrain.rollouts.policy import PolicySampler
from posttrain.rollouts.sampling import Completion, Decoding, Request

STOP, GREEDY = 7, Decoding(35, temperature=0, stop_token_ids=(7,))
WAYS = [
    GREEDY,
    Decoding(25, temperature=0.9, top_p=0.95, top_k=40, min_p=0.01, stop_token_ids=(STOP,)),
    Decoding(20),
    Decoding(30, top_p=0.5),
    Decoding(30, temperature=1.3, top_k=5),
    Decoding(12, min_p=0.1),
]


class Heard:
    """A job and what it told."""

    def __init__(self, prompt: tuple[int, ...], decoding: Decoding, seeds: tuple[int, ...] = (1,), **more: Any) -> None:
        self.told: dict[int, list[Growth]] = defaultdict(list)
        request = Request(prompt, seeds)
        self.job = Job(request, decoding, decoding.max_new_tokens, lambda g: self.told[g.number].append(g), **more)

    def ids(self, number: int = 0) -> tuple[int, ...]:
        return tuple(growth.token_id for growth in self.told[number])

    def completions(self) -> list[Completion]:
        return [
            Completion(
                self.ids(number), tuple(growth.logp for growth in told), told[-1].finish, "".join(g.text for g in told)
            )
            for number, told in sorted(self.told.items())
        ]


def prompt(length: int, seed: int = 0) -> tuple[int, ...]:
    """Those of one seed begin alike."""
    rng = random.Random(seed)
    return tuple(rng.randrange(8, 97) for _ in range(length))


def sampler(policy: Policy, slots: int = 1) -> PolicySampler:
    made = PolicySampler(policy, slots=slots, dtype=torch.float32)
    made.refresh(0)
    return made


def stream(policy: Policy, *, slots: int = 5, positions: int = 4096, kept: int = 1024) -> Stream:
    decoder = sampler(policy).decoder
    assert decoder is not None
    return Stream(
        decoder, policy.tokenizer, slots=slots, max_positions=positions, kept_positions=kept, device=policy.device
    )


def run(made: Stream, jobs: list[Heard]) -> None:
    for each in jobs:
        made.submit(each.job)
    while made.is_busy:
        made.step()


def assert_same(found: list[Completion], wanted: list[Completion]) -> None:
    assert [(one.token_ids, one.finish, one.text) for one in found] == [
        (one.token_ids, one.finish, one.text) for one in wanted
    ]
    for one, other in zip(found, wanted, strict=True):
        assert one.logps == pytest.approx(other.logps, abs=1e-5)


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2"])
def test_an_answer_in_a_crowd_is_the_answer_alone(tiny: ModuleType, family: str) -> None:
    """Requests come at any time, each drawn in its own way; with room for few they are thrown out and come again."""
    policy, rng = tiny.policy(family), random.Random(0)
    jobs = [
        Heard(prompt(rng.choice([1, 63, 64, 65, 200]), n % 2), way, tuple(range(n, n + 1 + n % 3)))
        for n, way in enumerate(WAYS)
    ]
    alone = sampler(policy, slots=3)
    wanted = [alone.sample([each.job.request], each.job.decoding)[0] for each in jobs]
    for positions in (4096, 6 * PAGE):
        made = stream(policy, positions=positions, kept=0 if positions == 4096 else 512)
        coming = list(jobs)
        while coming or made.is_busy:
            if coming and rng.random() < 0.4:
                made.submit(coming.pop(0).job)
            made.step()
        for each, answers in zip(jobs, wanted, strict=True):
            assert_same(each.completions(), answers)
            each.told.clear()
        assert made.counts.peak_positions <= positions + (512 if positions < 4096 else 0)
        assert not made.pool.in_use
        assert policy.model.config._attn_implementation != "posttrain_decode", "as it was found"


def test_thrown_out_rows_are_the_youngest(tiny: ModuleType) -> None:
    made = stream(tiny.policy(), slots=3, positions=3 * PAGE, kept=0)
    jobs = [Heard(prompt(50, n), Decoding(90), (n,)) for n in range(3)]
    order: list[int] = []
    for n, each in enumerate(jobs):
        tell = each.job.tell
        object.__setattr__(each.job, "tell", lambda g, n=n, tell=tell: (tell(g), g.finish and order.append(n)))
    run(made, jobs)
    assert order == [0, 1, 2]
    assert made.counts.prefill_tokens > 3 * 50, "some came again"
    assert all(len(each.ids()) == 90 for each in jobs)


def test_the_next_turn_begins_with_the_pages_of_the_one_before(tiny: ModuleType) -> None:
    policy = tiny.policy("qwen3")
    made, first = stream(policy), Heard(prompt(100), GREEDY)
    run(made, [first])
    said = first.ids()
    assert made.counts.prefill_tokens == 100
    second = Heard(prompt(100) + said + prompt(30, 5), GREEDY)
    length, kept = 130 + len(said), (100 + len(said) - 1) // PAGE * PAGE
    assert kept >= PAGE
    run(made, [second])
    assert made.counts.prefill_tokens == 100 + length - kept
    assert_same(second.completions(), sampler(policy).sample([second.job.request], GREEDY)[0])
    third = Heard(prompt(2 * PAGE), GREEDY)  # all of it may be known, and still the last token must be fed
    run(made, [third])
    assert_same(third.completions(), sampler(policy).sample([third.job.request], GREEDY)[0])


def test_kept_pages_have_a_bound_and_the_least_used_go(tiny: ModuleType) -> None:
    made = stream(tiny.policy(), kept=4 * PAGE)
    one = Decoding(1)
    run(made, [Heard(prompt(2 * PAGE + 1, 1), one)])
    for seed in range(2, 6):
        run(made, [Heard(prompt(PAGE + 1, seed), one), Heard(prompt(2 * PAGE + 1, 1), one)])
        assert len(made.prefixes.pages.in_use) == len(made.prefixes.kept) <= 4
    assert len(made.prefixes.find(prompt(2 * PAGE + 1, 1))) == 2, "used again and again"
    assert not made.prefixes.find(prompt(PAGE + 1, 2))
    run(made, [Heard(prompt(7 * PAGE, 9), one)])
    assert len(made.prefixes.find(prompt(7 * PAGE, 9))) == 4, "of a long one the beginning"
    assert not made.prefixes.find(prompt(PAGE, 9)), "the last token is never among them"


def test_a_prompt_is_read_once_for_all_its_answers(tiny: ModuleType) -> None:
    for kept in (0, 1024):
        made = stream(tiny.policy(), slots=4, kept=kept)
        run(made, [Heard(prompt(90), Decoding(5), (1, 2, 3, 4))])
        assert made.counts.prefill_tokens == 90


def exact_logps(policy: Policy, ids: tuple[int, ...]) -> torch.Tensor:
    with torch.no_grad(), ordinary_attention(policy.model):
        return torch.log_softmax(policy.model(torch.tensor([ids])).logits[0].double(), 1)


@pytest.mark.parametrize("positions", [4096, 5 * PAGE])
def test_prompts_are_scored(tiny: ModuleType, monkeypatch: pytest.MonkeyPatch, positions: int) -> None:
    """Through parts of any length, behind pages that are known, and when the row is thrown out half-way."""
    monkeypatch.setattr(decode_stream, "PREFILL_TOKENS", 70)
    policy = tiny.policy()
    made = stream(policy, slots=4, positions=positions)
    ids = prompt(201)
    run(made, [Heard(ids, Decoding(1))])  # so that its pages are known
    scored = [Heard(ids[:length], GREEDY, num_top=3, score_prompt=True) for length in (201, 64, 1)]
    run(made, [Heard(prompt(3), Decoding(100)), *scored])
    logp_TV = exact_logps(policy, ids)
    for each in scored:
        length = len(each.job.request.prompt_ids)
        (found, *rest) = (growth.prompt for growth in each.told[0])
        assert not any(rest)
        assert len(found) == length
        assert found[0] == (None, ())
        for place, (logp, top) in enumerate(found[1:], 1):
            assert logp == pytest.approx(float(logp_TV[place - 1, ids[place]]), abs=1e-5)
            best = logp_TV[place - 1].topk(3)
            assert [token for token, _ in top] == best.indices.tolist()
            assert [value for _, value in top] == pytest.approx(best.values.tolist(), abs=1e-5)


def test_likeliest_tokens_are_those_of_what_was_drawn_from(tiny: ModuleType) -> None:
    """After bias, temperature and filters; rows that ask for more and for none beside it."""
    policy, ids = tiny.policy(), prompt(9)
    bias = {5: 3.0, 11: -100.0}
    jobs = [
        Heard(ids, Decoding(1, temperature=0.5, top_k=4), num_top=6, logit_bias=bias),
        Heard(ids, Decoding(1, temperature=0), num_top=2),
        Heard(ids, Decoding(1)),
    ]
    run(stream(policy), jobs)
    logp_V = exact_logps(policy, ids)[-1]
    moved = logp_V.clone()
    moved[5] += 3.0
    moved[11] -= 100.0
    best = (moved / 0.5).topk(4)
    wanted = torch.log_softmax(best.values, 0).tolist()
    (growth,) = jobs[0].told[0]
    assert [token for token, _ in growth.top] == best.indices.tolist(), "none of those that were dropped"
    assert [logp for _, logp in growth.top] == pytest.approx(wanted, abs=1e-5)
    assert growth.logp == pytest.approx(dict(growth.top)[growth.token_id], abs=1e-5)
    (growth,) = jobs[1].told[0]
    assert [logp for _, logp in growth.top] == pytest.approx(logp_V.topk(2).values.tolist(), abs=1e-5)
    assert jobs[2].told[0][0].top == ()


def test_no_end_before_min_tokens(tiny: ModuleType) -> None:
    """The likeliest token is made the stop token: it comes at once, or as soon as it may."""
    policy, ids = tiny.policy(), prompt(9)
    stop = int(exact_logps(policy, ids)[-1].argmax())
    ending = Decoding(9, temperature=0, stop_token_ids=(stop,))
    jobs = [Heard(ids, ending), Heard(ids, ending, min_tokens=4, logit_bias={stop: 50.0})]
    run(stream(policy), jobs)
    assert jobs[0].ids() == (stop,)
    assert len(jobs[1].ids()) == 5
    assert jobs[1].ids().index(stop) == 4


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 7])
def test_a_cancelled_answer_gives_everything_back_at_once(tiny: ModuleType, steps: int) -> None:
    policy = tiny.policy()
    made = stream(policy, slots=4, kept=0)
    stays, goes = Heard(prompt(70), Decoding(40), (1,)), Heard(prompt(90, 1), Decoding(99), (2, 3, 4, 5))
    made.submit(stays.job)
    made.submit(goes.job)
    for _ in range(steps):
        made.step()
    made.cancel(goes.job)
    assert made.num_rows == 1
    assert len(made.pool.in_use) <= 2
    told = len(goes.told[0])
    while made.is_busy:
        made.step()
    assert len(goes.told[0]) == told
    assert_same(stays.completions(), sampler(policy).sample([stays.job.request], Decoding(40))[0])


def test_numbers_that_are_none_end_their_own_answers_alone(tiny: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """One token's embedding is NaN: who says it fails, and whoever gets its pages next is sound."""
    policy = tiny.policy("gpt2")  # runs as it is, so that the weights may be spoilt here
    sound = prompt(70)
    made = stream(policy, slots=2, positions=4 * PAGE, kept=2 * PAGE)
    wanted = sampler(policy).sample([Request(sound, (1,))], GREEDY)[0]
    spoilt = next(token for token in range(8, 97) if token not in (*sound, *wanted[0].token_ids))
    bad = (*prompt(9, 2), spoilt, *prompt(80, 3))
    with torch.no_grad():
        policy.model.transformer.wte.weight[spoilt] = torch.nan
    policy.model.lm_head.weight = torch.nn.Parameter(policy.model.transformer.wte.weight.nan_to_num())
    jobs = [Heard(sound, GREEDY), Heard(bad, GREEDY), Heard(sound, GREEDY)]
    run(made, jobs)
    (growth,) = jobs[1].told[0]
    assert isinstance(growth.error, ModelError)
    for each in (jobs[0], jobs[2]):
        assert each.completions()[0].token_ids == wanted[0].token_ids
    assert not made.prefixes.find(bad)
    monkeypatch.setattr(decode_stream, "PREFILL_TOKENS", PAGE)
    made.submit((left := Heard(bad, GREEDY)).job)
    made.step()
    assert made.reading
    made.cancel(left.job)  # before anyone could see
    run(made, after := [Heard(sound, GREEDY) for _ in range(3)])
    assert all(each.completions()[0].token_ids == wanted[0].token_ids for each in after)


def test_a_long_prompt_does_not_stall_those_that_answer(tiny: ModuleType) -> None:
    made = stream(tiny.policy())
    talks, reads = Heard(prompt(5), Decoding(60)), Heard(prompt(400, 1), Decoding(1))
    made.submit(talks.job)
    made.step()
    made.submit(reads.job)
    while made.reading or not reads.told:
        made.s_per_token = 1.0  # as if the model were slow: one page at a time
        before = len(talks.told[0])
        made.step()
        assert len(talks.told[0]) == before + 1
    assert made.counts.steps >= 400 // PAGE


def test_a_long_answer_alone_does_not_keep_the_pool_wide(tiny: ModuleType) -> None:
    """Its pages move to the front when most others are free."""
    policy = tiny.policy()
    made = stream(policy, slots=60, kept=0)
    last = Heard(prompt(9, 99), Decoding(80), (3,))
    for n in range(50):
        made.submit(Heard(prompt(5, n), Decoding(2), (n,)).job)
    made.submit(last.job)
    made.step()
    assert made.pool.extent > 48
    while made.is_busy:
        made.step()
    assert made.pool.extent == 0
    assert made.counts.steps == 79
    assert_same(last.completions(), sampler(policy).sample([last.job.request], Decoding(80))[0])


def test_rows_drawn_together_are_drawn_as_alone() -> None:
    """Of a vocabulary of several blocks, top-p beyond the likeliest that are sorted first, ties, tokens at -inf."""
    logits = torch.randn(len(WAYS) * 3, 700, generator=torch.Generator().manual_seed(0)).mul_(0.3)
    logits[:, 7], logits[:, 20:30] = -torch.inf, logits.amax()
    ways = [*WAYS, *WAYS, *(Decoding(1, temperature=0.7, top_p=0.99, top_k=k, min_p=0.02) for k in (0, 600, 2, 9, 700))]
    ways.append(Decoding(1, temperature=0, top_k=3))
    numbers = torch.rand(len(ways), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for chosen in (range(len(ways)), [0, 6, 17], [2, 8], [1, 2, 3]):
        rows = list(chosen)
        each = Ways.of([ways[row] for row in rows], logits.device)
        token_B, logp_B = choose_each(filtered(logits[rows].clone(), each), numbers[rows], each)
        for place, row in enumerate(rows):
            token, logp = choose(logits[row : row + 1].clone(), numbers[row : row + 1], ways[row])
            assert token_B[place] == token[0]
            assert torch.allclose(logp_B[place], logp[0], atol=1e-6)


def test_numbers_are_the_samplers() -> None:
    from posttrain.rollouts.decode_draw import uniform_numbers

    numbers = Numbers(5)
    assert [numbers[n] for n in range(200)] == uniform_numbers(5, 200).tolist()


def test_the_coldest_temperature_is_greedy_and_its_log_probabilities_numbers(tiny: ModuleType) -> None:
    """Below what fp32 can divide logits by."""
    policy = tiny.policy()
    jobs = [Heard(prompt(9), Decoding(6, temperature=t), num_top=2) for t in (0, 1e-40, 1e-320)]
    run(stream(policy), jobs)
    for each in jobs[1:]:
        assert each.ids() == jobs[0].ids()
        assert [growth.logp for growth in each.told[0]] == [0.0] * 6
        for growth in each.told[0]:
            assert growth.top[0] == (growth.token_id, 0.0)
            assert all(-math.inf < logp <= 0 for _, logp in growth.top)


def test_short_prompts_need_not_wait_for_all_long_ones(tiny: ModuleType) -> None:
    """Every other part goes to those with the least left; the rest in the order of arrival, so that none starves."""
    made = stream(tiny.policy(), slots=9)
    made.submit((talks := Heard(prompt(5), Decoding(200))).job)
    made.step()
    floods, short = [Heard(prompt(300, n), Decoding(1)) for n in range(1, 6)], Heard(prompt(9, 9), Decoding(1))
    for each in (*floods, short):
        made.submit(each.job)
    steps = 0
    while not short.told:
        made.s_per_token = 1.0  # as if the model were slow: one page at a time
        made.step()
        steps += 1
    assert steps <= 2
    for n in range(3 * 300 // PAGE):
        made.submit(Heard(prompt(9, 10 + n), Decoding(1)).job)
        made.s_per_token = 1.0
        made.step()
    assert floods[0].told, "it was not overtaken for ever"
    made.cancel(talks.job)
    run(made, [])
