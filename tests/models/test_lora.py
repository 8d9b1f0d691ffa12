"""Adapters: what is trained, what is not, and that packed log-probabilities see all of it."""

from types import ModuleType

import pytest
import torch
from torch import Tensor

from posttrain.data.batch import pack
from posttrain.errors import ModelError
from posttrain.models.fused import fuse
from posttrain.models.load import Policy
from posttrain.models.logprobs import token_logps
from posttrain.models.lora import add_lora
from posttrain.models.vocabulary import grow_embeddings
from posttrain.types import Batch

TIES = pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])


def with_new_tokens(
    tiny: ModuleType, tied: bool, dtype: torch.dtype = torch.float32
) -> tuple[Policy, list[int], Batch]:
    """A LoRA policy with two added tokens that stand in the batch, as input and as target."""
    policy = tiny.policy("llama", dtype, tie_word_embeddings=tied)
    new = grow_embeddings(policy.model, tiny.VOCABULARY + 2, seed=0)
    samples = tiny.trees([[(9, -1), (4, 0), (3, 0)]])
    batch = pack(samples)
    for place, token in ((2, new[0]), (5, new[1])):
        batch.input_ids_T[place] = batch.target_ids_N[place - 1] = token
    torch.manual_seed(0)
    return add_lora(policy, r=4, new_token_ids=new), new, batch


def dense(policy: Policy, batch: Batch) -> Tensor:
    """The whole prompt and first branch through peft's own forward, ordinary attention, full logits."""
    length = batch.spans[1].stop
    lm = policy.model
    lm.get_base_model().set_attn_implementation("eager")
    logits = lm(input_ids=batch.input_ids_T[None, :length]).logits[0]
    lm.get_base_model().set_attn_implementation("posttrain_segments")
    inside = batch.span_N < 2
    return torch.log_softmax(logits, -1)[batch.source_N[inside], batch.target_ids_N[inside]]


def shake(policy: Policy) -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))


def test_only_adapters_are_trained(tiny: ModuleType) -> None:
    policy = add_lora(tiny.policy(), r=4)
    trained = {name for name, p in policy.model.named_parameters() if p.requires_grad}
    assert trained
    assert all(".lora_A." in name or ".lora_B." in name for name in trained)
    linear = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert {name.split(".lora_")[0].rsplit(".", 1)[1] for name in trained} == set(linear)
    # r * (inputs + outputs) of each: 4 heads of 8 with 2 key heads, width 32, 48 inside the MLP, 2 layers
    sizes = [(32, 32), (32, 16), (32, 16), (32, 32), (32, 48), (32, 48), (48, 32)]
    assert policy.num_trainable == 2 * sum(4 * (a + b) for a, b in sizes)


def test_targets_by_name(tiny: ModuleType) -> None:
    policy = add_lora(tiny.policy(), r=2, targets=["q_proj", "v_proj"])
    trained = {name for name, p in policy.model.named_parameters() if p.requires_grad}
    assert {name.split(".lora_")[0].rsplit(".", 1)[1] for name in trained} == {"q_proj", "v_proj"}


def test_a_target_that_does_not_exist_is_refused(tiny: ModuleType) -> None:
    with pytest.raises(ModelError, match=r"LoRA cannot be added to tiny: .*no_such_layer"):
        add_lora(tiny.policy(), targets=["no_such_layer"])


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"use_dora": True}], ids=["lora", "rslora", "dora"])
def test_a_fresh_adapter_changes_nothing_and_a_trained_one_does(tiny: ModuleType, options: dict[str, bool]) -> None:
    batch = pack(tiny.trees([[(9, -1), (4, 0), (3, 0)]]))
    with torch.no_grad():
        plain = token_logps(tiny.policy().model, batch)
        policy = add_lora(tiny.policy(), r=4, **options)
        assert (token_logps(policy.model, batch) - plain).abs().max() <= 1e-5  # DoRA divides by a norm and back
        shake(policy)
        found = token_logps(policy.model, batch)
        assert (found - plain).abs().max() > 0.1
        assert (found[batch.span_N < 2] - dense(policy, batch)).abs().max() <= 1e-5
        with policy.model.disable_adapter():  # the reference policy of a LoRA run
            assert torch.equal(token_logps(policy.model, batch), plain)


def test_fused_modules_keep_their_adapters(tiny: ModuleType) -> None:
    policy, _, batch = with_new_tokens(tiny, tied=False, dtype=torch.float64)
    shake(policy)
    with tiny.exactly(torch.float64):
        before = token_logps(policy.model, batch)
        wanted = tiny.gradients(policy.model, before, batch)
        assert fuse(policy.model)
        after = token_logps(policy.model, batch)
        found = tiny.gradients(policy.model, after, batch)
    assert (after - before).abs().max() <= 1e-12
    assert tiny.worst(found, wanted) <= 1e-12  # measured: 1.6e-13


@TIES
def test_new_tokens_are_seen_by_embedding_and_head(tiny: ModuleType, tied: bool) -> None:
    """Packed log-probabilities equal those of peft's own forward after the new rows have been trained."""
    policy, _, batch = with_new_tokens(tiny, tied)
    with torch.no_grad():
        start = token_logps(policy.model, batch)
        shake(policy)
        found = token_logps(policy.model, batch)
        error = (found[batch.span_N < 2] - dense(policy, batch)).abs().max()
    assert error <= 1e-5  # measured: 9.5e-7
    assert (found - start).abs().max() > 0.1


@TIES
def test_new_tokens_are_trained(tiny: ModuleType, tied: bool) -> None:
    """Gradients reach the new rows through packed rows as they do through peft's own forward: where embedding and
    head are one matrix, from both ends."""
    policy, _, batch = with_new_tokens(tiny, tied)
    inside = batch.span_N < 2
    rows = {name: p for name, p in policy.model.named_parameters() if "trainable_tokens_delta" in name}
    assert rows
    assert all(parameter.requires_grad for parameter in rows.values())
    gradients = []
    for values in (token_logps(policy.model, batch)[inside], dense(policy, batch)):
        policy.model.zero_grad(set_to_none=True)
        (values * batch.weight_N[inside]).sum().backward()
        gradients.append({name: p.grad.clone() for name, p in policy.model.named_parameters() if p.grad is not None})
    assert set(rows) <= set(gradients[0])
    assert all(gradients[0][name].abs().max() > 1e-3 for name in rows)
    assert tiny.worst(*gradients) <= 1e-5  # measured: 1.6e-6


@TIES
def test_the_output_rows_of_new_tokens_are_trained_too(tiny: ModuleType, tied: bool) -> None:
    """A stop token that the head cannot learn to say would never end a turn."""
    policy, new, batch = with_new_tokens(tiny, tied)
    head = policy.model.get_base_model().get_output_embeddings()
    before = head.weight.detach().clone()
    optimizer = torch.optim.SGD([p for p in policy.model.parameters() if p.requires_grad], lr=0.5)
    (token_logps(policy.model, batch) * batch.weight_N).sum().neg().backward()
    optimizer.step()
    after = policy.model.get_base_model().get_output_embeddings().weight.detach()
    assert (after[new] - before[new]).abs().max() > 1e-4
    assert torch.equal(after[: tiny.VOCABULARY], before[: tiny.VOCABULARY])
