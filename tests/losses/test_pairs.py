"""The DPO family against hand-computed numbers, twins in Python floats, identities and finite differences."""

import math
from typing import Any

import pytest
import torch

from posttrain.losses.answers import Answers, Pairs
from posttrain.losses.pairs import pair_loss
from posttrain.losses.terms import PAIR_TERMS, WITH_IMITATION, log_odds

NAMES = [*PAIR_TERMS, *WITH_IMITATION]
CONTRASTS = [name for name, term in PAIR_TERMS.items() if term.contrast]
WITH_REFERENCE = [name for name, term in PAIR_TERMS.items() if "ratio" in term.scale]
KNOBS: dict[str, Any] = {"beta": 0.7, "gamma": 0.3, "discopop_tau": 0.6, "bco_shift": 0.2, "alphapo_alpha": 0.4}


def number(value: torch.Tensor) -> float:
    """A scalar that may have a gradient."""
    return float(value.detach())


def smoothing(name: str, value: float = 0.0) -> dict[str, float]:
    """EXO takes the logarithm of its label smoothing."""
    return {"label_smoothing": value or (0.15 if name == "exo_pair" else 0.0)}


# --- twins ------------------------------------------------------------------------------------------------------


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def reward(tokens: list[tuple[float, float]], shorter: int, scale: str, options: dict[str, Any]) -> float:
    """One answer's reward before beta, from its tokens (log-probability, reference's)."""
    if scale == "likelihood":
        return sum(logp for logp, _ in tokens) / len(tokens)
    total = 0.0
    for place, (logp, reference) in enumerate(tokens):
        value = logp - reference if "ratio" in scale else logp
        total += value if place < shorter else options.get("ld_alpha", 1.0) * value
    if "ratio" in scale:
        u, alpha = math.exp(total), options.get("alpha", 0.5)
        total = {
            "reverse_kl": math.log(u),
            "forward_kl": 1 - 1 / u,
            "js": math.log(2 * u / (1 + u)),
            "alpha": (1 - u**-alpha) / alpha,
        }[options.get("f_divergence", "reverse_kl")]
    return total / len(tokens) if scale.startswith("mean") else total


def cost(name: str, b: float, w: float, margin: float, options: dict[str, Any]) -> float:
    """What one term says of one order of two rewards, as the paper writes it."""
    beta, e = options["beta"], options["label_smoothing"]
    d = beta * b - beta * w - margin
    plain = beta * (b - w)
    if name in ("sigmoid", "sigmoid_norm", "sigmoid_free"):
        return -math.log(sigmoid(d))
    if name == "robust":
        return ((1 - e) * -math.log(sigmoid(d)) - e * -math.log(sigmoid(-d))) / (1 - 2 * e)
    if name == "simpo":
        return -math.log(sigmoid(d - options["gamma"]))
    if name == "alphapo":
        alpha = options["alphapo_alpha"]
        b, w = (1 - math.exp(b) ** -alpha) / alpha, (1 - math.exp(w) ** -alpha) / alpha
        return -math.log(sigmoid(beta * b - beta * w - margin - options["gamma"]))
    if name in ("hinge", "slic"):
        return max(0.0, 1 - d)
    if name == "discopop":
        mix = sigmoid(plain / options["discopop_tau"])
        return (1 - mix) * -math.log(sigmoid(plain)) + mix * math.exp(-plain)
    if name == "odds_ratio":
        p, q = math.exp(b), math.exp(w)
        return -math.log(sigmoid(math.log((p / (1 - p)) / (q / (1 - q)))))
    if name == "exo_pair":
        p = math.exp(beta * b) / (math.exp(beta * b) + math.exp(beta * w))
        return p * math.log(p / (1 - e)) + (1 - p) * math.log((1 - p) / e)
    return {
        "ipo": lambda: (b - w - 1 / (2 * beta)) ** 2,
        "ipo_norm": lambda: (b - w - 1 / (2 * beta)) ** 2,
        "nca_pair": lambda: (
            -math.log(sigmoid(beta * b)) - 0.5 * math.log(sigmoid(-beta * b)) - 0.5 * math.log(sigmoid(-beta * w))
        ),
        "bco_pair": lambda: (
            -math.log(sigmoid(beta * b - options["bco_shift"])) - math.log(1 - sigmoid(beta * w - options["bco_shift"]))
        ),
        "sppo_hard": lambda: (b - 1 / (2 * beta)) ** 2 + (w + 1 / (2 * beta)) ** 2,
        "apo_zero": lambda: 1 - sigmoid(beta * b) + sigmoid(beta * w),
        "apo_down": lambda: sigmoid(beta * b) + 1 - sigmoid(beta * (b - w)),
        "sft": lambda: -b,
    }[name]()


def twin(name: str, answers: Answers, pairs: Pairs, **options: Any) -> float:
    """The whole loss in loops."""
    if name in WITH_IMITATION:
        own = options["beta"] if name == "orpo" else 1.0
        other = options.get("nll_coef", 1.0) * twin("sft", answers, pairs, **options)
        return own * twin(WITH_IMITATION[name], answers, pairs, **options) + other
    assert answers.reference_N is not None
    texts: list[list[tuple[float, float]]] = [[] for _ in range(answers.num)]
    for logp, reference, owner in zip(
        answers.logp_N.tolist(), answers.reference_N.tolist(), answers.answer_N.tolist(), strict=True
    ):
        texts[owner].append((logp, reference))
    total, e = 0.0, options["label_smoothing"]
    for better, worse, label, margin, weight in zip(*(column.tolist() for column in pairs), strict=True):
        shorter = min(len(texts[better]), len(texts[worse]))
        scale = PAIR_TERMS[name].scale
        b = reward(texts[better], shorter, scale, options)
        w = reward(texts[worse], shorter, scale, options)
        p = label if name in ("robust", "exo_pair", "sft") else label * (1 - e) + (1 - label) * e
        value = p * cost(name, b, w, margin, options) + (1 - p) * cost(name, w, b, -margin, options)
        if options.get("wpo"):
            for text in (texts[better], texts[worse]):
                value *= math.exp(sum(logp for logp, _ in text) / len(text))
        total += weight * value
    return total


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", NAMES)
def test_twin(name: str, seed: int, comparisons: Any) -> None:
    answers, pairs = comparisons(seed)
    for options in (
        smoothing(name),
        smoothing(name, 0.2),
        smoothing(name) | {"ld_alpha": 0.4},
        smoothing(name) | {"ld_alpha": 0.0, "nll_coef": 0.3},
        smoothing(name) | {"wpo": True},
    ):
        found = number(pair_loss(answers, pairs, terms=[(name, 1.0)], **KNOBS, **options).sum)
        expected = twin(name, answers, pairs, **KNOBS, **options)
        assert found == pytest.approx(expected, rel=1e-12), (name, options)


@pytest.mark.parametrize("divergence", ["reverse_kl", "forward_kl", "js", "alpha"])
@pytest.mark.parametrize("name", [name for name in CONTRASTS if name in WITH_REFERENCE])
def test_twin_of_divergences(name: str, divergence: str, comparisons: Any) -> None:
    answers, pairs = comparisons(3)
    options = KNOBS | smoothing(name) | {"f_divergence": divergence, "alpha": 0.3}
    found = number(pair_loss(answers, pairs, terms=[(name, 1.0)], **options).sum)
    assert found == pytest.approx(twin(name, answers, pairs, **options), rel=1e-11)


def test_terms_add_up(comparisons: Any) -> None:
    answers, pairs = comparisons()
    both = pair_loss(answers, pairs, terms=[("sigmoid", 0.7), ("sft", 0.2)], **KNOBS).sum
    expected = 0.7 * pair_loss(answers, pairs, **KNOBS).sum
    expected = expected + 0.2 * pair_loss(answers, pairs, terms=[("sft", 1.0)], **KNOBS).sum
    assert number(both) == pytest.approx(number(expected), rel=1e-14)


# --- by hand ----------------------------------------------------------------------------------------------------

LN = math.log
S = math.sqrt(3 / 8)
# The better answer has the tokens (policy 3/4, reference 1/4) and (1/2, 1/2), the worse (1/4, 3/4); beta = 1. So the
# log-ratios are ln 3 and -ln 3, their sigmoids 3/4 and 1/4, that of their difference 9/10; the policy's
# probabilities are 3/8 and 1/4, the better's mean S.
BY_HAND: list[tuple[str, float, dict[str, float]]] = [
    ("sigmoid", -LN(0.9), {}),
    ("sigmoid", -(0.8 * LN(0.9) + 0.2 * LN(0.1)), {"label_smoothing": 0.2}),
    ("sigmoid_norm", LN(1 + 3**-1.5), {}),
    ("ipo", (2 * LN(3) - 0.5) ** 2, {}),
    ("ipo_norm", (1.5 * LN(3) - 0.5) ** 2, {}),
    ("hinge", 3 - LN(9), {"margin": 2.0}),
    ("robust", (0.1 * LN(0.1) - 0.9 * LN(0.9)) / 0.8, {"label_smoothing": 0.1}),
    ("exo_pair", 0.9 * LN(0.9 / 0.8) + 0.1 * LN(0.1 / 0.2), {"label_smoothing": 0.2}),
    ("discopop", 0.1 * -LN(0.9) + 0.9 / 9, {"discopop_tau": 1.0}),
    ("nca_pair", -1.5 * LN(3 / 4) - 0.5 * LN(1 / 4), {}),
    ("bco_pair", -2 * LN(3 / 4), {}),
    ("bco_pair", -LN(0.5) - LN(0.9), {"bco_shift": LN(3)}),
    ("sppo_hard", 2 * (LN(3) - 0.5) ** 2, {}),
    ("apo_zero", 0.5, {}),
    ("apo_down", 0.85, {}),
    ("sigmoid_free", -LN(0.6), {}),
    ("slic", 1 - LN(1.5), {}),
    ("simpo", LN(2), {"gamma": LN(6) / 2}),
    ("alphapo", LN(1 + math.exp(1 / S - 3)), {"gamma": 1.0, "alphapo_alpha": 1.0}),
    ("odds_ratio", LN(1 + (1 - S) / (3 * S)), {}),
    ("sft", -LN(S), {}),
    ("cpo", -LN(0.6) - LN(S), {}),
    ("orpo", LN(1 + (1 - S) / (3 * S)) - 2 * LN(S), {"nll_coef": 2.0}),
]


@pytest.mark.parametrize(("name", "expected", "options"), BY_HAND)
def test_by_hand(name: str, expected: float, options: dict[str, float]) -> None:
    probability = torch.tensor([3 / 4, 1 / 2, 1 / 4], dtype=torch.float64)
    reference = torch.tensor([1 / 4, 1 / 2, 3 / 4], dtype=torch.float64)
    answers = Answers(probability.log(), torch.tensor([0, 0, 1]), 2, reference.log())
    one = torch.ones(1, dtype=torch.float64)
    margin = torch.tensor([options.get("margin", 0.0)], dtype=torch.float64)
    pairs = Pairs(torch.tensor([0]), torch.tensor([1]), one, margin, one)
    knobs = {key: value for key, value in options.items() if key != "margin"}
    assert number(pair_loss(answers, pairs, terms=[(name, 1.0)], beta=1.0, **knobs).sum) == pytest.approx(
        expected, rel=1e-14
    )


def test_every_term_has_a_number_by_hand() -> None:
    assert {name for name, _, _ in BY_HAND} == set(NAMES)


def test_desensitised_by_hand() -> None:
    """Lengths 3 and 1: the first token counts in full, the other two half; 2 of the worse are all shared."""
    logp = torch.tensor([-1.0, -2.0, -4.0, -8.0], dtype=torch.float64)
    answers = Answers(logp, torch.tensor([0, 0, 0, 1]), 2, torch.zeros(4, dtype=torch.float64))
    one = torch.ones(1)
    pairs = Pairs(torch.tensor([0]), torch.tensor([1]), one, 0 * one, one)
    found = number(pair_loss(answers, pairs, beta=1.0, ld_alpha=0.5).sum)
    assert found == pytest.approx(LN(1 + math.exp(-(-4.0 + 8.0))), rel=1e-14)


# --- derivatives ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_gradcheck(name: str, comparisons: Any) -> None:
    answers, pairs = comparisons(5)

    def total(logp_N: torch.Tensor) -> torch.Tensor:
        options = KNOBS | smoothing(name) | {"ld_alpha": 0.4}
        return pair_loss(answers._replace(logp_N=logp_N), pairs, terms=[(name, 1.0)], **options).sum

    assert torch.autograd.gradcheck(total, [answers.logp_N])


@pytest.mark.parametrize("divergence", ["forward_kl", "js", "alpha"])
def test_gradcheck_of_divergences(divergence: str, comparisons: Any) -> None:
    answers, pairs = comparisons(6)

    def total(logp_N: torch.Tensor) -> torch.Tensor:
        return pair_loss(answers._replace(logp_N=logp_N), pairs, f_divergence=divergence).sum

    assert torch.autograd.gradcheck(total, [answers.logp_N])


def test_the_reference_gets_no_gradient(comparisons: Any) -> None:
    answers, pairs = comparisons()
    reference = answers.reference_N.clone().requires_grad_()
    pair_loss(answers._replace(reference_N=reference), pairs).sum.backward()
    assert reference.grad is None
    assert answers.logp_N.grad.abs().sum() > 0


def test_the_weight_of_wpo_is_a_constant(comparisons: Any) -> None:
    """One pair: its gradient is the plain one times the weight, aligned by the collision probability where known."""
    answers, pairs = comparisons(7, trees=(2,))
    (plain,) = torch.autograd.grad(pair_loss(answers, pairs).sum, answers.logp_N)
    for collision in (None, torch.linspace(-2, -0.1, len(answers.logp_N), dtype=torch.float64)):
        weight = 1.0
        for answer in range(2):
            mine = answers.answer_N == answer
            aligned = answers.logp_N.detach()[mine] - (0.0 if collision is None else collision[mine])
            weight *= math.exp(number(aligned.mean()))
        loss = pair_loss(answers._replace(collision_N=collision), pairs, wpo=True)
        (found,) = torch.autograd.grad(loss.sum, answers.logp_N)
        assert torch.allclose(found, weight * plain, rtol=1e-12, atol=0)


# --- identities -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_swapping_the_answers_and_the_label_changes_nothing(name: str, comparisons: Any) -> None:
    answers, pairs = comparisons(8)
    swapped = Pairs(pairs.worse_M, pairs.better_M, 1 - pairs.label_M, -pairs.margin_M, pairs.weight_M)
    options = KNOBS | smoothing(name) | {"ld_alpha": 0.5, "terms": [(name, 1.0)]}
    found, expected = pair_loss(answers, swapped, **options), pair_loss(answers, pairs, **options)
    assert number(found.sum) == pytest.approx(number(expected.sum), rel=1e-13)
    for key, value in expected.metrics.items():
        assert torch.allclose(found.metrics[key], value, rtol=1e-12), key


@pytest.mark.parametrize("name", NAMES)
def test_a_soft_label_is_a_mean_of_two_hard_ones(name: str, comparisons: Any) -> None:
    answers, pairs = comparisons(9, trees=(2,))
    options = KNOBS | smoothing(name) | {"terms": [(name, 1.0)]}
    values = [
        number(pair_loss(answers, pairs._replace(label_M=torch.full_like(pairs.label_M, label)), **options).sum)
        for label in (0.0, 0.3, 1.0)
    ]
    assert values[1] == pytest.approx(0.7 * values[0] + 0.3 * values[2], rel=1e-13)
    assert values[0] != pytest.approx(values[2], rel=1e-3)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("robust", "exo_pair", "sft", "cpo", "orpo")])
def test_label_smoothing_is_a_softer_label(name: str, comparisons: Any) -> None:
    answers, pairs = comparisons(10)
    softer = pairs._replace(label_M=0.9 * pairs.label_M + 0.1 * (1 - pairs.label_M))
    found = pair_loss(answers, pairs, terms=[(name, 1.0)], **KNOBS, label_smoothing=0.1).sum
    assert number(found) == pytest.approx(
        number(pair_loss(answers, softer, terms=[(name, 1.0)], **KNOBS).sum), rel=1e-13
    )


def test_robust_is_unbiased_under_flipped_labels(comparisons: Any) -> None:
    """Its mean over flips of probability e is the loss of the clean labels."""
    answers, pairs = comparisons(11, trees=(2, 2))
    hard = pairs._replace(label_M=torch.ones_like(pairs.label_M))
    noisy = pairs._replace(label_M=torch.full_like(pairs.label_M, 0.8))
    found = pair_loss(answers, noisy, terms=[("robust", 1.0)], label_smoothing=0.2).sum
    assert number(found) == pytest.approx(number(pair_loss(answers, hard).sum), rel=1e-13)


def test_divergences_meet_at_their_limits(comparisons: Any) -> None:
    answers, pairs = comparisons(12)
    plain, forward = (number(pair_loss(answers, pairs, f_divergence=f).sum) for f in ("reverse_kl", "forward_kl"))
    assert number(pair_loss(answers, pairs, f_divergence="alpha", alpha=0.0).sum) == plain
    assert number(pair_loss(answers, pairs, f_divergence="alpha", alpha=1e-9).sum) == pytest.approx(plain, rel=1e-7)
    assert number(pair_loss(answers, pairs, f_divergence="alpha", alpha=1.0).sum) == forward
    assert abs(plain - forward) > 0.01


@pytest.mark.parametrize("name", NAMES)
def test_equal_answers_give_no_gradient_but_imitation(name: str) -> None:
    """Chosen = rejected, a tie: every comparison says nothing; losses of single rewards hold a regulariser."""
    logp = torch.tensor([-0.3, -1.2, -0.3, -1.2], dtype=torch.float64, requires_grad=True)
    answers = Answers(logp, torch.tensor([0, 0, 1, 1]), 2, torch.full((4,), -0.5, dtype=torch.float64))
    half = torch.full((1,), 0.5, dtype=torch.float64)
    pairs = Pairs(torch.tensor([0]), torch.tensor([1]), half, 0 * half, torch.ones(1))
    loss = pair_loss(answers, pairs, terms=[(name, 1.0)], **KNOBS, **smoothing(name))
    loss.sum.backward()
    assert logp.grad is not None
    if name in CONTRASTS:
        assert logp.grad.abs().max() <= 1e-15
    assert torch.allclose(logp.grad[:2], logp.grad[2:])
    assert loss.metrics["accuracy"].tolist() == [0.0, 0.0]  # a tie is no chance to be right


@pytest.mark.parametrize("name", NAMES)
def test_any_split_gives_the_same_gradient(name: str, comparisons: Any, joined: Any) -> None:
    parts = [comparisons(seed, trees=trees) for seed, trees in enumerate([(2, 4), (3,), (2, 2, 2)])]
    options = KNOBS | smoothing(name) | {"terms": [(name, 1.0)], "ld_alpha": 0.5, "wpo": True}
    answers, pairs = joined(parts)
    whole = pair_loss(answers, pairs, **options)
    whole.sum.backward()
    losses = [pair_loss(*part, **options) for part in parts]
    for loss in losses:
        loss.sum.backward()
    assert number(whole.sum) == pytest.approx(sum(number(loss.sum) for loss in losses), rel=1e-13)
    gradient = torch.cat([part[0].logp_N.grad for part in parts])
    assert (answers.logp_N.grad - gradient).abs().max() <= 1e-13
    for key, value in whole.metrics.items():
        assert torch.allclose(value, torch.stack([loss.metrics[key] for loss in losses]).sum(0), rtol=1e-12), key


# --- far out ----------------------------------------------------------------------------------------------------

FAR = [(-1e3, -1e-9), (-1e-9, -1e3), (-1e3, -1e3), (-1e-9, -1e-9), (-1e3, -2e3), (0.0, -1e3)]


def far(dtype: torch.dtype, label: float) -> tuple[Answers, Pairs]:
    """All pairs of answers of one token, with log-ratios of up to +-1000."""
    logp, reference = torch.tensor(FAR, dtype=dtype).unbind(1)
    number = torch.arange(len(FAR))
    pairs = torch.cartesian_prod(number, number)
    one = torch.ones(len(pairs), dtype=dtype)
    answers = Answers(logp.clone().requires_grad_(), number, len(FAR), reference)
    return answers, Pairs(pairs[:, 0], pairs[:, 1], label * one, 0 * one, one)


@pytest.mark.parametrize("label", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("name", NAMES)
def test_extreme_ratios_in_fp32(name: str, label: float) -> None:
    divergences = ["reverse_kl", "forward_kl", "js", "alpha"] if name in CONTRASTS else ["reverse_kl"]
    for divergence in divergences:
        options = smoothing(name) | {"terms": [(name, 1.0)], "beta": 1.0, "f_divergence": divergence}
        answers, pairs = far(torch.float32, label)
        loss = pair_loss(answers, pairs, **options)
        loss.sum.backward()
        assert torch.isfinite(loss.sum), divergence
        assert answers.logp_N.grad is not None
        assert torch.isfinite(answers.logp_N.grad).all(), divergence
        exact, same = far(torch.float64, label)
        if name not in ("odds_ratio", "orpo"):  # there p is kept below 1 by a step of the dtype
            wide = number(pair_loss(exact, same, **options).sum)
            assert number(loss.sum) == pytest.approx(wide, rel=1e-5), divergence


def test_extreme_values_by_hand() -> None:
    """-log sigmoid(-2000) = 2000 with slope -1, and 0 with slope 0 on the other side."""
    logp = torch.tensor([-1e3, 0.0], requires_grad=True)
    answers = Answers(logp, torch.tensor([0, 1]), 2, torch.tensor([0.0, -1e3]))
    one = torch.ones(1)
    for label, expected, slope in ((1.0, 2000.0, -1.0), (0.0, 0.0, 0.0)):
        logp.grad = None
        pairs = Pairs(torch.tensor([0]), torch.tensor([1]), label * one, 0 * one, one)
        loss = pair_loss(answers, pairs, beta=1.0).sum
        loss.backward()
        assert number(loss) == expected
        assert logp.grad is not None
        assert logp.grad.tolist() == [slope, -slope]


def test_log_odds_near_0_and_1() -> None:
    logp = torch.tensor([-1e3, -50.0, -1.0, -0.5, -1e-3, -1e-12], dtype=torch.float64)
    found = log_odds(logp)
    for x, value in zip(logp.tolist(), found.tolist(), strict=True):
        assert value == pytest.approx(x - math.log(-math.expm1(x)), rel=1e-13)
    assert torch.isfinite(log_odds(torch.zeros(1))).all()


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_a_number_is_not_hidden(name: str, bad: float, comparisons: Any) -> None:
    """Bounded losses have a limit at minus infinity; then the metrics say it."""
    answers, pairs = comparisons(13, trees=(2,))
    hard = pairs._replace(label_M=torch.ones_like(pairs.label_M))
    logp = answers.logp_N.detach().clone()
    logp[answers.answer_N == 0] = bad
    loss = pair_loss(answers._replace(logp_N=logp), hard, terms=[(name, 1.0)], **KNOBS, **smoothing(name))
    if math.isnan(bad):
        assert math.isnan(number(loss.sum))
    assert not math.isfinite(number(loss.sum)) or not torch.isfinite(loss.metrics["rewards_chosen"]).all()
    assert not torch.isfinite(loss.metrics["logp_chosen"]).all()
