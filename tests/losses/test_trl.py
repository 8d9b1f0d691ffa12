"""Every loss that TRL 1.16 has, against TRL's own trainer: the same tiny random model, the same tokens, fp32.

Their trainer tokenises, batches, pads and computes; here the same rows become packed trees with one copy of each
prompt. Value and gradient of every parameter must agree to 1e-4 relative. Where the two differ by intent:

| what | TRL 1.16 | here | the test's adapter |
|---|---|---|---|
| unit | mean over a micro-batch | sum, divided once by the whole step's weights | divide by the number of pairs |
| `sft`, and CPO's likelihood | mean over all chosen tokens of the micro-batch, which depends on the split | mean over \
each answer's tokens | weights in proportion to the chosen length |
| ORPO's likelihood | token mean over prompt and chosen | the chosen answer's own tokens | `sft_loss` over both |
| `ipo` | mean over tokens | as in the paper, a sum; `ipo_norm` is the mean | `ipo_norm` |
| alpha divergence | `(u^(a-1) - 1) / (a - 1)` | the paper's `(1 - u^-alpha) / alpha` | alpha = 1 - a |
| f-divergences of single rewards | ignored in silence (nca, bco, sppo, apo) | refused | none |
| SimPO's gamma under label smoothing | asked for in the direction of the label | asked of whichever answer is said \
to be better | gamma = 0 and a margin of gamma |
| label smoothing of CPO's hinge, DPO's sigmoid | ignored in silence | softens the label | none |
| WPO | aligned by the collision probability | the same where that is given | given |
| KTO's baseline | of each micro-batch | of the whole step | one micro-batch |
| `aot`, `aot_unpaired` | sorted within a micro-batch | left out: a sort depends on the split | none |
| CPO with `ipo` | squared, without a reference | left out | none |
"""

from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch

from posttrain.data.batch import pack
from posttrain.losses.answers import Answers, Pairs, answer_lengths, answer_sums
from posttrain.losses.kto import kto_baseline, kto_loss
from posttrain.losses.pairs import pair_loss
from posttrain.losses.reward import reward_loss
from posttrain.losses.sft import sft_loss
from posttrain.models.attention import install_attention
from posttrain.models.logprobs import token_logps
from posttrain.types import Batch, Sample, Segment

pytest.importorskip("trl")

pytestmark = [
    # TRL and transformers use an option that transformers renames; TRL says that its experiments are experiments.
    pytest.mark.filterwarnings("ignore:.(is_)?gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:You are importing from 'trl.experimental'"),
]
TOLERANCE = 1e-4
BETA = 0.3
VOCABULARY = 400
ROWS = [
    {"prompt": "The capital of France is", "chosen": " Paris it has 24 hours.", "rejected": " user"},
    {"prompt": "How many hours", "chosen": " a day", "rejected": " system assistant France capital"},
    {"prompt": "It has", "chosen": " 24 hours Paris", "rejected": " hours France is"},
]
Row = tuple[tuple[int, ...], tuple[int, ...]]  # prompt, answer


class Peer(NamedTuple):
    """TRL's trainer with one batch of its own, and both models once more for us."""

    trainer: Any
    inputs: dict[str, Any]
    policy: Any
    reference: Any


def options(folder: Any, size: int) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": size,
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
    }


def with_batch(trainer: Any, tiny: ModuleType, policy: int = 0, reference: int = 1) -> Peer:
    ours = [tiny.model("llama", seed=seed, vocab_size=VOCABULARY) for seed in (policy, reference)]
    for model in ours:
        install_attention(model)
    return Peer(trainer, next(iter(trainer.get_train_dataloader())), *ours)


@pytest.fixture(scope="module")
def dpo(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Peer:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    policy, reference = (tiny.model("llama", seed=seed, vocab_size=VOCABULARY) for seed in (0, 1))
    config = DPOConfig(**options(tmp_path_factory.mktemp("dpo"), len(ROWS)), beta=BETA, use_weighting=True)
    data = Dataset.from_list(ROWS)
    return with_batch(DPOTrainer(policy, reference, config, None, data, processing_class=tiny.tokenizer()), tiny)


def free_peer(name: str, tiny: ModuleType, folder: Any) -> Peer:
    """A trainer without a reference."""
    from datasets import Dataset
    from trl.experimental.cpo import CPOConfig, CPOTrainer
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    trainer, config = {"cpo": (CPOTrainer, CPOConfig), "orpo": (ORPOTrainer, ORPOConfig)}[name]
    extra = {"loss_type": "simpo"} if name == "cpo" else {}
    made = trainer(
        tiny.model("llama", vocab_size=VOCABULARY),
        config(**options(folder, len(ROWS)), beta=BETA, remove_unused_columns=False, **extra),
        train_dataset=Dataset.from_list(ROWS),
        processing_class=tiny.tokenizer(),
    )
    return with_batch(made, tiny)


# --- their padded rows as our packed trees --------------------------------------------------------------------------


def rows_of(ids: torch.Tensor, answer_mask: torch.Tensor, attention_mask: torch.Tensor) -> list[Row]:
    """Prompt and answer of every padded row."""
    rows: list[Row] = []
    for row, said, real in zip(ids, answer_mask.bool(), attention_mask.bool(), strict=True):
        rows.append((tuple(row[real & ~said].tolist()), tuple(row[said].tolist())))
    return rows


def trees_of(chosen: list[Row], rejected: list[Row]) -> Batch:
    """Pairs that share their prompt."""
    samples = []
    for (prompt, better), (same, worse) in zip(chosen, rejected, strict=True):
        assert prompt == same
        segments = [Segment(prompt, (0.0,) * len(prompt))]
        segments += [Segment(answer, (1.0,) * len(answer), 0) for answer in (better, worse)]
        samples.append(Sample(tuple(segments)))
    return pack(samples)


def single(rows: list[Row]) -> Batch:
    """One answer a prompt."""
    return pack(
        [
            Sample((Segment(prompt, (0.0,) * len(prompt)), Segment(answer, (1.0,) * len(answer), 0)))
            for prompt, answer in rows
        ]
    )


def answers_of(batch: Batch, policy: Any, reference: Any = None) -> Answers:
    """The trained tokens by answer; the prompt's span, the first of every tree, is none."""
    number, answer_of = -1, []
    for span in batch.spans:
        number += span.parent >= 0
        answer_of.append(number)
    answer_N = torch.tensor(answer_of)[batch.span_N]
    with torch.no_grad():
        reference_N = None if reference is None else token_logps(reference, batch)
    return Answers(token_logps(policy, batch), answer_N, number + 1, reference_N)


def hard_pairs(count: int, weight_M: torch.Tensor | None = None, margin: float = 0.0) -> Pairs:
    """Pair m compares the answers 2m and 2m + 1; each weighs 1 / count, as in TRL's mean."""
    number, one = torch.arange(count), torch.ones(count)
    return Pairs(2 * number, 2 * number + 1, one, margin * one, one / count if weight_M is None else weight_M)


def by_chosen_length(answers: Answers) -> Pairs:
    """Weights that turn the mean over answers into the mean over all their tokens."""
    lengths = answer_lengths(answers)[0::2]
    return hard_pairs(len(lengths), lengths / lengths.sum())


def agree(tiny: ModuleType, peer: Peer, ours: torch.Tensor) -> None:
    """Value, and the gradient of every parameter."""
    peer.trainer.model.zero_grad(set_to_none=True)
    peer.policy.zero_grad(set_to_none=True)
    theirs = peer.trainer.compute_loss(peer.trainer.model, peer.inputs)
    theirs.backward()
    ours.backward()
    assert ours.item() == pytest.approx(theirs.item(), rel=TOLERANCE)
    found, expected = (
        {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
        for model in (peer.policy, peer.trainer.model)
    )
    assert max(gradient.abs().max() for gradient in expected.values()) > 1e-3
    assert tiny.worst(found, expected) <= TOLERANCE


# --- DPO --------------------------------------------------------------------------------------------------------

Settings = dict[str, Any]
SAME = ["sigmoid", "hinge", "nca_pair", "bco_pair", "sppo_hard", "apo_zero", "apo_down", "discopop", "sigmoid_norm"]
DPO_CASES: dict[str, tuple[Settings, Settings]] = {
    **{name: ({"loss_types": [name]}, {"terms": [(name, 1.0)]}) for name in SAME},
    "ipo": ({"loss_types": ["ipo"]}, {"terms": [("ipo_norm", 1.0)]}),
    "robust": (
        {"loss_types": ["robust"], "label_smoothing": 0.2},
        {"terms": [("robust", 1.0)], "label_smoothing": 0.2},
    ),
    "exo_pair": (
        {"loss_types": ["exo_pair"], "label_smoothing": 0.1},
        {"terms": [("exo_pair", 1.0)], "label_smoothing": 0.1},
    ),
    "forward_kl": ({"f_divergence_type": "forward_kl"}, {"f_divergence": "forward_kl"}),
    "js": ({"f_divergence_type": "js_divergence"}, {"f_divergence": "js"}),
    "alpha": (
        {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.7},
        {"f_divergence": "alpha", "alpha": 0.3},
    ),
    "js of ipo": (
        {"loss_types": ["ipo"], "f_divergence_type": "js_divergence"},
        {"terms": [("ipo_norm", 1.0)], "f_divergence": "js"},
    ),
    "ld_alpha": ({"ld_alpha": 0.4}, {"ld_alpha": 0.4}),
    "ld_alpha of sigmoid_norm": (
        {"loss_types": ["sigmoid_norm"], "ld_alpha": 0.4},
        {"terms": [("sigmoid_norm", 1.0)], "ld_alpha": 0.4},
    ),
    "wpo": ({"use_weighting": True}, {"wpo": True}),
    "two terms": (
        {"loss_types": ["sigmoid", "apo_zero"], "loss_weights": [0.7, 0.4]},
        {"terms": [("sigmoid", 0.7), ("apo_zero", 0.4)]},
    ),
}


def set_dpo(trainer: Any, settings: Settings) -> None:
    """Every knob anew: the trainer serves all cases."""
    defaults = {
        "loss_types": ["sigmoid"],
        "loss_weights": None,
        "label_smoothing": 0.0,
        "f_divergence_type": "reverse_kl",
        "f_alpha_divergence_coef": 0.5,
        "ld_alpha": None,
        "use_weighting": False,
    }
    for name, value in (defaults | settings).items():
        assert hasattr(trainer, name), f"this version of TRL has no {name}"
        setattr(trainer, name, value)
    trainer.loss_weights = trainer.loss_weights or [1.0] * len(trainer.loss_types)


def dpo_answers(peer: Peer) -> Answers:
    inputs = peer.inputs
    rows = rows_of(inputs["input_ids"], inputs["completion_mask"], inputs["attention_mask"])
    return answers_of(trees_of(rows[: len(ROWS)], rows[len(ROWS) :]), peer.policy, peer.reference)


def collision(peer: Peer, plain: Any) -> torch.Tensor:
    """log sum_v p(v)^2 at every answer token, from the full logits of an unmodified model, in packed order."""
    inputs, found = peer.inputs, []
    with torch.no_grad():
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        squares = (2 * plain(input_ids=ids, attention_mask=mask).logits.log_softmax(-1)).logsumexp(-1)
    for pair in range(len(ROWS)):
        for row in (pair, pair + len(ROWS)):
            found.append(squares[row, :-1][inputs["completion_mask"][row, 1:].bool()])
    return torch.cat(found)


@pytest.mark.parametrize("name", DPO_CASES)
def test_dpo(name: str, dpo: Peer, tiny: ModuleType) -> None:
    theirs, ours = DPO_CASES[name]
    set_dpo(dpo.trainer, theirs)
    answers = dpo_answers(dpo)
    if ours.get("wpo"):
        answers = answers._replace(collision_N=collision(dpo, tiny.model("llama", vocab_size=VOCABULARY)))
    agree(tiny, dpo, pair_loss(answers, hard_pairs(len(ROWS)), beta=BETA, **ours).sum)


def test_dpo_with_imitation(dpo: Peer, tiny: ModuleType) -> None:
    set_dpo(dpo.trainer, {"loss_types": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]})
    answers = dpo_answers(dpo)
    contrast = pair_loss(answers, hard_pairs(len(ROWS)), beta=BETA).sum
    imitation = pair_loss(answers, by_chosen_length(answers), terms=[("sft", 0.5)]).sum
    agree(tiny, dpo, contrast + imitation)


def test_dpo_metrics(dpo: Peer) -> None:
    """Where both report the same thing, they report the same number."""
    set_dpo(dpo.trainer, {})
    dpo.trainer._metrics["train"].clear()
    dpo.trainer.compute_loss(dpo.trainer.model.train(), dpo.inputs)
    theirs = {key: values[-1] for key, values in dpo.trainer._metrics["train"].items()}
    ours = pair_loss(dpo_answers(dpo), hard_pairs(len(ROWS)), beta=BETA).metrics
    for mine, name in {
        "rewards_chosen": "rewards/chosen",
        "rewards_rejected": "rewards/rejected",
        "rewards_margin": "rewards/margins",
        "accuracy": "rewards/accuracies",
        "logp_chosen": "logps/chosen",
        "logp_rejected": "logps/rejected",
    }.items():
        assert (ours[mine][0] / ours[mine][1]).item() == pytest.approx(theirs[name], rel=TOLERANCE), mine


# --- without a reference ----------------------------------------------------------------------------------------

FREE = {
    "sigmoid": ({"loss_type": "sigmoid"}, [("sigmoid_free", 1.0)], {}),
    "sigmoid, smoothed": (
        {"loss_type": "sigmoid", "label_smoothing": 0.1},
        [("sigmoid_free", 1.0)],
        {"label_smoothing": 0.1},
    ),
    "hinge": ({"loss_type": "hinge"}, [("slic", 1.0)], {}),
    "simpo": ({"loss_type": "simpo", "simpo_gamma": 0.4}, [("simpo", 1.0)], {"gamma": 0.4}),
    "simpo, smoothed": (
        {"loss_type": "simpo", "simpo_gamma": 0.4, "label_smoothing": 0.1},
        [("simpo", 1.0)],
        {"gamma": 0.0, "margin": 0.4, "label_smoothing": 0.1},
    ),
    "alphapo": (
        {"loss_type": "simpo", "simpo_gamma": 0.4, "alpha": 0.15},
        [("alphapo", 1.0)],
        {"gamma": 0.4, "alphapo_alpha": 0.15},
    ),
}


@pytest.fixture(scope="module")
def cpo(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Peer:
    return free_peer("cpo", tiny, tmp_path_factory.mktemp("cpo"))


def free_rows(inputs: dict[str, Any]) -> tuple[list[Row], list[Row]]:
    chosen, rejected = (
        rows_of(inputs[f"{side}_input_ids"], inputs[f"{side}_labels"] != -100, inputs[f"{side}_attention_mask"])
        for side in ("chosen", "rejected")
    )
    return chosen, rejected


@pytest.mark.parametrize("nll_coef", [0.0, 0.7])
@pytest.mark.parametrize("name", FREE)
def test_cpo_simpo_alphapo(name: str, nll_coef: float, cpo: Peer, tiny: ModuleType) -> None:
    settings, terms, knobs = FREE[name]
    defaults = {"label_smoothing": 0.0, "simpo_gamma": 0.5, "alpha": 0.0, "cpo_alpha": nll_coef}
    for key, value in (defaults | settings).items():
        assert hasattr(cpo.trainer, key), f"this version of TRL has no {key}"
        setattr(cpo.trainer, key, value)
    answers = answers_of(trees_of(*free_rows(cpo.inputs)), cpo.policy)
    knobs = dict(knobs)
    pairs = hard_pairs(len(ROWS), margin=knobs.pop("margin", 0.0))
    loss = pair_loss(answers, pairs, terms=terms, beta=BETA, **knobs).sum
    agree(tiny, cpo, loss + pair_loss(answers, by_chosen_length(answers), terms=[("sft", nll_coef)]).sum)


def test_orpo(tiny: ModuleType, tmp_path: Any) -> None:
    peer = free_peer("orpo", tiny, tmp_path)
    chosen, rejected = free_rows(peer.inputs)
    answers = answers_of(trees_of(chosen, rejected), peer.policy)
    contrast = pair_loss(answers, hard_pairs(len(ROWS)), terms=[("orpo", 1.0)], beta=BETA, nll_coef=0.0).sum
    whole = pack([Sample((Segment(p + a, (0.0, *(1.0,) * (len(p + a) - 1))),)) for p, a in chosen])
    imitation = sft_loss(token_logps(peer.policy, whole), whole.weight_N).sum / whole.num_trained
    agree(tiny, peer, contrast + imitation)


# --- single answers, and reward models --------------------------------------------------------------------------

KTO_POSITIVE = 0  # the seed of the policy to which the mismatched answers are likelier
KTO_CASES = {
    "kto": {"loss_type": "kto"},
    "weighted": {"loss_type": "kto", "desirable_weight": 1.4, "undesirable_weight": 0.6},
    "apo_zero_unpaired": {"loss_type": "apo_zero_unpaired", "desirable_weight": 0.8},
}


@pytest.mark.parametrize(("policy", "reference"), [(0, 1), (1, 0)])
def test_kto(policy: int, reference: int, tiny: ModuleType, tmp_path: Any) -> None:
    """Once with a positive baseline, once with one that is cut off at 0."""
    from datasets import Dataset
    from trl import KTOConfig, KTOTrainer

    rows = [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for side in ("chosen", "rejected")
        for row in ROWS
    ][:5]
    models = [tiny.model("llama", seed=seed, vocab_size=VOCABULARY) for seed in (policy, reference)]
    config = KTOConfig(**options(tmp_path, len(rows)), beta=0.05)
    made = KTOTrainer(*models, config, train_dataset=Dataset.from_list(rows), processing_class=tiny.tokenizer())
    peer = with_batch(made, tiny, policy, reference)
    inputs = peer.inputs
    answers, others = (
        rows_of(inputs[f"{kind}input_ids"], inputs[f"{kind}completion_mask"], inputs[f"{kind}attention_mask"])
        for kind in ("", "KL_")
    )
    for name, settings in KTO_CASES.items():
        for key, value in ({"desirable_weight": 1.0, "undesirable_weight": 1.0} | settings).items():
            assert hasattr(made, key), f"this version of TRL has no {key}"
            setattr(made, key, value)
        made.calculate_KL = settings["loss_type"] == "kto"
        with torch.no_grad():
            mismatched = answers_of(single(others), peer.policy, peer.reference)
        assert mismatched.reference_N is not None
        sums = (answer_sums(values, mismatched) for values in (mismatched.logp_N, mismatched.reference_N))
        baseline = kto_baseline(*sums)
        assert (baseline > 0) == (policy == KTO_POSITIVE), name
        mine = answers_of(single(answers), peer.policy, peer.reference)
        loss = kto_loss(mine, inputs["label"].float(), baseline, beta=0.05, **settings).sum
        agree(tiny, peer, loss / mine.num)


@pytest.mark.parametrize("center_coef", [0.0, 0.05])
@pytest.mark.parametrize("margins", [False, True])
def test_reward(margins: bool, center_coef: float, tiny: ModuleType, tmp_path: Any) -> None:
    from datasets import Dataset
    from transformers import AutoConfig, AutoModelForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    changes = {"vocab_size": VOCABULARY, "num_labels": 1, "pad_token_id": 0}
    config = AutoConfig.for_model("llama", **(tiny.FAMILIES["llama"][1] | changes))
    torch.manual_seed(0)
    model, mine = (AutoModelForSequenceClassification.from_config(config) for _ in range(2))
    mine.load_state_dict(model.state_dict())
    rows = [row | ({"margin": 0.3 * i} if margins else {}) for i, row in enumerate(ROWS)]
    made = RewardTrainer(
        model,
        RewardConfig(**options(tmp_path, len(ROWS)), center_rewards_coefficient=center_coef or None),
        train_dataset=Dataset.from_list(rows),
        processing_class=tiny.tokenizer(),
    )
    peer = Peer(made, next(iter(made.get_train_dataloader())), mine, None)
    score_A = mine(**{key: peer.inputs[key] for key in ("input_ids", "attention_mask")}).logits[:, 0]
    count = len(ROWS)
    pairs = hard_pairs(count)._replace(better_M=torch.arange(count), worse_M=torch.arange(count) + count)
    pairs = pairs._replace(margin_M=peer.inputs.get("margin", pairs.margin_M))
    loss = reward_loss(score_A, pairs, center_coef=center_coef)
    agree(tiny, peer, loss.sum)
    theirs = {key: values[-1] for key, values in made._metrics["train"].items()}
    for ours, name in {"accuracy": "accuracy", "margin": "margin", "score_mean": "mean_reward"}.items():
        assert (loss.metrics[ours][0] / loss.metrics[ours][1]).item() == pytest.approx(theirs[name], rel=TOLERANCE)
