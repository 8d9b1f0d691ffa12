"""Objectives of preference training: references, baselines, and independence of how a step is split."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from posttrain.data.batch import pack
from posttrain.losses.pairs import pair_loss
from posttrain.models.load import Policy
from posttrain.models.lora import add_lora
from posttrain.models.within import forget_engines, set_engine
from posttrain.train import objectives
from posttrain.train.objectives import Objective, answers_of, kto_objective, pair_objective
from posttrain.train.reference import Referenced, with_reference
from posttrain.types import Batch, Pair, Sample, Segment

SHAPES = ([(7, -1), (4, 0), (6, 0)], [(5, -1), (3, 0), (8, 0)], [(6, -1), (9, 0), (2, 0)], [(4, -1), (5, 0), (5, 0)])


def compared(tiny: ModuleType) -> list[Sample]:
    return [
        Sample(
            tuple(replace(s, weights=(float(s.parent >= 0),) * len(s.token_ids)) for s in tree.segments), tree.source
        )
        for tree in tiny.trees(SHAPES)
    ]


def paired(tiny: ModuleType) -> list[Sample]:
    return [replace(sample, pairs=(Pair(0, 1, 0.9, weight=1 + i),)) for i, sample in enumerate(compared(tiny))]


def rated(tiny: ModuleType) -> list[Sample]:
    return [
        Sample(sample.segments[:2], sample.source, scores=(float(i % 2),)) for i, sample in enumerate(compared(tiny))
    ]


def moved(policy: Policy, seed: int = 5) -> Policy:
    """The same policy after some steps, as it were."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return policy


def referenced(policy: Policy, samples: list[Sample]) -> Referenced:
    return with_reference(policy, samples, row_length=40, bf16=False)


def gradient(policy: Policy, objective: Objective, batches: list[Batch]) -> tuple[float, torch.Tensor]:
    policy.model.zero_grad()
    step, units = objective.at_step(policy.model, batches), sum(map(objective.units, batches))
    total = 0.0
    for batch in batches:
        loss = step.loss(policy.model, batch).sum / units
        loss.backward()
        total += float(loss.detach())
    return total, torch.cat([p.grad.flatten() for p in policy.model.parameters() if p.grad is not None])


def test_the_reference_is_the_policy_as_it_was(tiny: ModuleType) -> None:
    policy = tiny.policy("llama")
    samples = paired(tiny)
    kept = referenced(policy, samples)
    oracle = tiny.padded_logps(tiny.model("llama"), samples)
    asked = torch.tensor([logp for sample in kept for logp in sample.reference_logps])
    assert torch.allclose(asked, oracle.detach(), atol=2e-5)
    batch = pack([kept[2], kept[0]])
    answers = answers_of(policy.model, batch)
    assert answers.reference_N is not None
    assert torch.allclose(answers.logp_N, answers.reference_N, atol=1e-5)
    assert not torch.allclose(answers_of(moved(policy).model, batch).logp_N, answers.reference_N, atol=1e-3)


def test_the_reference_of_an_adapter_is_its_base(tiny: ModuleType) -> None:
    samples = paired(tiny)
    wanted = [sample.reference_logps for sample in referenced(tiny.policy("llama"), samples)]
    policy = moved(add_lora(tiny.policy("llama"), r=4))
    for found, base in zip(referenced(policy, samples), wanted, strict=True):
        assert found.reference_logps == pytest.approx(base, abs=1e-5)
    assert policy.model.active_adapter  # the adapter is on again
    batch = pack([referenced(policy, samples)[0]])
    answers = answers_of(policy.model, batch)
    assert answers.reference_N is not None
    assert not torch.allclose(answers.logp_N, answers.reference_N, atol=1e-3)


def test_references_are_kept_by_content(tiny: ModuleType, tmp_path: Path) -> None:
    policy, samples, said = tiny.policy("llama"), paired(tiny), list[str]()
    ask = partial(with_reference, row_length=40, bf16=False, folder=tmp_path, say=said.append)
    first = [sample.reference_logps for sample in ask(policy, samples)]
    assert not said
    assert [sample.reference_logps for sample in ask(policy, samples)] == first
    assert len(said) == 1
    assert "4 samples found" in said[0]
    (file,) = tmp_path.glob("*.npy")
    np.save(file, np.load(file) - 1)  # what is found is what is used
    assert ask(policy, samples)[0].reference_logps == pytest.approx([logp - 1 for logp in first[0]])
    other = replace(samples[0], segments=(*samples[0].segments[:2], Segment((9,) * 6, (1.0,) * 6, 0)))
    for changed in (partial(ask, moved(policy), samples), partial(ask, policy, [other, *samples[1:]])):
        changed()
    assert len(list(tmp_path.glob("*.npy"))) == 3


SPLITS = pytest.mark.parametrize("split", [[[0, 1, 2], [3]], [[0], [1], [2], [3]], [[3, 1], [2, 0]]])


@SPLITS
@pytest.mark.parametrize(
    "terms",
    [
        (("sigmoid", 1.0),),
        (("ipo", 1.0), ("sft", 0.5)),
        (("orpo", 1.0),),
        (("simpo", 1.0),),
        (("bco_pair", 1.0),),
    ],
)
def test_pairs_may_be_split_in_any_way(
    tiny: ModuleType, split: list[list[int]], terms: tuple[tuple[str, float], ...]
) -> None:
    policy = tiny.policy("llama", torch.float64)
    samples = referenced(policy, paired(tiny))
    shift = 0.3 * (terms[0][0] == "bco_pair")
    objective = pair_objective("dpo", partial(pair_loss, terms=terms, beta=0.3), shift_beta=shift)
    with tiny.exactly(torch.float64):
        moved(policy)
        whole, wanted = gradient(policy, objective, [pack(list(samples))])
        value, found = gradient(policy, objective, [pack([samples[i] for i in part]) for part in split])
    assert value == pytest.approx(whole, rel=1e-12)
    assert torch.allclose(found, wanted, rtol=1e-10, atol=1e-12)


def test_a_baseline_is_asked_where_the_model_computes(tiny: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under FSDP2 with cpu_offload that is not where its weights wait."""
    policy = tiny.policy("llama")
    batch = pack([referenced(policy, rated(tiny))[0]])

    def asked(_: object, batch: Batch) -> None:
        raise LookupError(batch.input_ids_T.device.type)

    monkeypatch.setattr(objectives, "answers_of", asked)
    set_engine(policy.model, lambda call: call(), torch.device("meta"))
    with pytest.raises(LookupError, match="meta"):
        objectives._log_ratios(policy.model, batch)
    forget_engines()
    with pytest.raises(LookupError, match="cpu"):
        objectives._log_ratios(policy.model, batch)


@SPLITS
def test_ktos_baseline_is_of_the_whole_step(tiny: ModuleType, split: list[list[int]]) -> None:
    policy = tiny.policy("llama", torch.float64)
    own, others = rated(tiny), [replace(sample) for sample in rated(tiny)]
    others = [replace(own[i], segments=(own[i].segments[0], others[i - 1].segments[1])) for i in range(4)]
    samples, mixed = referenced(policy, own), referenced(policy, others)
    objective = kto_objective(beta=0.5, desirable_weight=1.0, undesirable_weight=1.3)

    def batch(part: list[int]) -> Batch:
        return replace(pack([samples[i] for i in part]), baseline=(pack([mixed[i] for i in part]),))

    with tiny.exactly(torch.float64):
        moved(policy, seed=8)
        whole, wanted = gradient(policy, objective, [batch([0, 1, 2, 3])])
        value, found = gradient(policy, objective, [batch(part) for part in split])
        alone = [gradient(policy, objective, [batch(part)])[0] * len(part) / 4 for part in split]
        step = objective.at_step(policy.model, [batch([0, 1, 2, 3])])
        assert float(step.loss(policy.model, batch([0])).metrics["baseline"][0]) > 0.01
    assert value == pytest.approx(whole, rel=1e-12)
    assert torch.allclose(found, wanted, rtol=1e-10, atol=1e-12)
    assert sum(alone) != pytest.approx(whole, rel=1e-4)  # a baseline of each micro-batch would be another loss


def test_a_batch_moves_with_all_that_is_known_of_it(tiny: ModuleType) -> None:
    own = rated(tiny)
    batch = replace(pack(own), baseline=(pack(own),)).to(torch.device("meta"))
    assert batch.judged is not None
    assert batch.judged.score_A.is_meta
    (mixed,) = batch.baseline
    assert mixed.judged is not None
    assert mixed.judged.answer_N.is_meta
