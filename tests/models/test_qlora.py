"""A base in four bits under an adapter: against the same adapter on the plain numbers that the four bits stand for."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from posttrain.data.batch import pack
from posttrain.errors import ModelError
from posttrain.models.attention import install_attention
from posttrain.models.bitsandbytes import is_4bit, pack_nf4, plain_, unpack_nf4
from posttrain.models.decoding_lean import LeanDecoder, merged
from posttrain.models.fused import fuse
from posttrain.models.load import Policy, load, restore, save
from posttrain.models.logprobs import causal_lm, token_logps
from posttrain.models.lora import add_lora, merge_lora
from posttrain.models.qlora import held_in, load_4bit, merge_held
from posttrain.models.reference import Reference, reference_logps
from posttrain.recipes.policy import checkpoint_activations
from posttrain.rollouts.policy import PolicySampler

pytest.importorskip("bitsandbytes")


@pytest.fixture(scope="module")
def base(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(tiny.save_base(tmp_path_factory.mktemp("base"), intermediate_size=64))


def adapted(policy: Policy, **options: Any) -> Policy:
    """With an adapter that is not zero, and packed attention."""
    torch.manual_seed(0)
    made = add_lora(policy, r=4, **options)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    install_attention(made.model)
    return made


def on_plain(base: Path, **options: Any) -> Policy:
    """The oracle: the numbers that the four bits stand for, in a model that knows nothing of them."""
    policy = load_4bit(base)
    plain_(policy.model)
    assert not any(map(is_4bit, policy.model.modules()))
    return adapted(policy, **options)


def gradients(policy: Policy, tiny: ModuleType) -> tuple[Tensor, dict[str, Tensor]]:
    batch = pack(tiny.trees([[(9, -1), (4, 0), (3, 0)], [(12, -1)]]))
    logp_N = token_logps(policy.model, batch)
    return logp_N.detach(), tiny.gradients(policy.model, logp_N, batch)


@pytest.mark.parametrize("options", [{}, {"use_dora": True}], ids=["lora", "dora"])
def test_equals_an_adapter_on_the_plain_numbers(base: Path, tiny: ModuleType, options: dict[str, bool]) -> None:
    held, plain = adapted(load_4bit(base), **options), on_plain(base, **options)
    found, wanted = gradients(held, tiny), gradients(plain, tiny)
    assert torch.allclose(found[0], wanted[0], atol=1e-5)
    assert tiny.worst(found[1], wanted[1]) < 1e-4
    assert found[1]
    assert all("lora_" in name for name in found[1])  # the base gets none
    assert held.num_parameters == plain.num_parameters


def test_fused_and_recomputed_activations_change_nothing(base: Path, tiny: ModuleType) -> None:
    held, wanted = adapted(load_4bit(base)), gradients(on_plain(base), tiny)
    assert fuse(held.model)
    checkpoint_activations(held.model)
    held.model.train()
    found = gradients(held, tiny)
    assert torch.allclose(found[0], wanted[0], atol=1e-5)
    assert tiny.worst(found[1], wanted[1]) < 1e-4


def test_an_answer_before_training_costs_no_gradient(base: Path, tiny: ModuleType) -> None:
    """On CPUs with bfloat16 the library repacks its weights at the first forward in evaluation mode, and from then on
    gives neither a gradient nor fp32."""
    held, wanted = adapted(load_4bit(base)), gradients(on_plain(base), tiny)
    held.model.eval()
    with torch.no_grad():
        token_logps(held.model, pack(tiny.trees([[(9, -1)]])))
    found = gradients(held, tiny)
    assert torch.allclose(found[0], wanted[0], atol=1e-5)
    assert tiny.worst(found[1], wanted[1]) < 1e-4


def test_bfloat16_follows_autocast_and_leaves_again(base: Path, tiny: ModuleType) -> None:
    held = adapted(load_4bit(base))
    before, _ = gradients(held, tiny)
    with torch.autocast("cpu", torch.bfloat16):
        rough, slopes = gradients(held, tiny)
    after, _ = gradients(held, tiny)
    assert after.equal(before)
    assert 1e-4 < float((rough - before).abs().max()) < 0.3
    assert all(slope.dtype == torch.float32 for slope in slopes.values())


def test_embeddings_head_and_norms_stay(base: Path) -> None:
    lm, plain = load_4bit(base).model, load(base).model
    for name, parameter in plain.named_parameters():
        if "proj" not in name:
            assert lm.get_parameter(name).equal(parameter), name
    assert sum(map(is_4bit, lm.modules())) == 14


@pytest.mark.parametrize("options", [{}, {"use_dora": True}], ids=["lora", "dora"])
def test_the_sampler_merges_in_full_precision(base: Path, options: dict[str, bool]) -> None:
    held, plain = adapted(load_4bit(base), **options), on_plain(base, **options)
    sampler = PolicySampler(held, dtype=torch.float32)
    sampler.refresh(0)  # compares itself with the trainer's path
    assert isinstance(sampler.decoder, LeanDecoder)
    place = "model.layers.0.mlp.up_proj"
    found = merged(causal_lm(held.model).get_submodule(place))[0]
    assert torch.allclose(found, merge_lora(plain).model.get_submodule(place).weight, atol=1e-6)
    assert is_4bit(causal_lm(held.model).get_submodule(place))  # the trainer's own stays as it is


def test_the_sampler_of_another_family(tiny: ModuleType, tmp_path: Path) -> None:
    made = tiny.tokenizer()
    tiny.model("gemma", vocab_size=len(made), intermediate_size=64).save_pretrained(tmp_path)
    made.save_pretrained(tmp_path)
    held = adapted(load_4bit(tmp_path))
    for dtype in (torch.float32, torch.bfloat16):
        sampler = PolicySampler(held, dtype=dtype)
        sampler.refresh(0)
        assert not isinstance(sampler.decoder, LeanDecoder)
    assert is_4bit(causal_lm(held.model).get_submodule("model.layers.0.mlp.up_proj"))


def test_the_reference_is_the_base_in_four_bits(base: Path, tiny: ModuleType) -> None:
    held, plain = adapted(load_4bit(base)), load_4bit(base)
    install_attention(plain.model)
    batch = pack(tiny.trees([[(9, -1), (4, 0)]]))
    found = reference_logps(Reference(held), batch)
    assert torch.allclose(found, token_logps(plain.model, batch).detach(), atol=1e-6)
    assert not torch.allclose(found, token_logps(held.model, batch).detach(), atol=1e-3)


def test_a_saved_adapter_is_for_both_bases(base: Path, tiny: ModuleType, tmp_path: Path) -> None:
    held = adapted(load_4bit(base))
    save(held, tmp_path)
    assert {file.name for file in tmp_path.glob("*.safetensors")} == {"adapter_model.safetensors"}
    on_full = load(tmp_path)
    assert on_full.model.peft_config["default"].base_model_name_or_path == str(base)
    assert not any(map(is_4bit, on_full.model.modules()))
    again = add_lora(load_4bit(base), r=4)
    restore(again, tmp_path)
    for policy in (again, on_full):
        install_attention(policy.model)
    batch = pack(tiny.trees([[(9, -1), (4, 0), (3, 0)]]))
    mine, same, full = (token_logps(policy.model, batch).detach() for policy in (held, again, on_full))
    assert torch.allclose(mine, same, atol=1e-5)
    assert float((mine - full).abs().max()) > 1e-3  # four bits are not the plain weights


@pytest.mark.parametrize("bits", [("nf4", True), ("nf4", False), ("fp4", True)])
def test_merged_with_what_it_was_trained_on(
    base: Path, tiny: ModuleType, tmp_path: Path, bits: tuple[str, bool]
) -> None:
    """By the record of the run; the plain base is another model."""
    kind, is_double = bits
    held = adapted(load_4bit(base, quant_type=kind, double_quant=is_double), use_rslora=True)
    save(held, tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({"model": {"base_held_in": kind, "double_quant": is_double}}))
    assert held_in(tmp_path) == {"quant_type": kind, "double_quant": is_double}
    made, plain = merge_held(tmp_path), merge_lora(load(tmp_path))
    assert not any(map(is_4bit, made.model.modules()))
    assert {parameter.dtype for parameter in made.model.parameters()} == {torch.float32}
    for policy in (made, plain):
        install_attention(policy.model)
    batch = pack(tiny.trees([[(9, -1), (4, 0), (3, 0)]]))
    mine, same, other = (token_logps(policy.model, batch).detach() for policy in (held, made, plain))
    assert torch.allclose(mine, same, atol=1e-5)
    assert float((mine - other).abs().max()) > 1e-3
    assert merge_held(tmp_path).was_adapter


@pytest.mark.parametrize("record", ["", "{}", '{"model": {"parameters": 1}}', "[1]"])
def test_a_base_that_was_not_held_is_not_merged_so(base: Path, tmp_path: Path, record: str) -> None:
    save(add_lora(load(base), r=2), tmp_path)
    if record:
        (tmp_path / "run.json").write_text(record)
    assert held_in(tmp_path) is None
    with pytest.raises(ModelError, match="tells of no base that was held in four bits; merge it into its plain base"):
        merge_held(tmp_path)


def test_what_cannot_be_held_is_refused(base: Path, tmp_path: Path) -> None:
    save(add_lora(load(base), r=2), tmp_path / "adapter")
    with pytest.raises(ModelError, match="this is an adapter"):
        load_4bit(tmp_path / "adapter")
    with pytest.raises(ModelError, match="no such folder"):
        load_4bit(tmp_path / "nothing")


@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
@pytest.mark.parametrize("shape", [(32, 32), (48, 80), (10, 160), (64, 176), (7, 33), (4, 128), (5, 48)])
def test_every_width_is_read_as_it_was_written(shape: tuple[int, int], quant_type: str) -> None:
    """Against the levels and scales by hand. The library's kernel for CPUs is wrong where rows end within a block."""
    weight_OI = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    tensors = pack_nf4("m", weight_OI, torch.bfloat16, quant_type=quant_type, double_quant=False)
    packed = tensors["m.weight"].flatten().int()
    numbers = torch.stack([packed >> 4, packed & 15], 1).flatten()[: weight_OI.numel()]
    scales = tensors["m.weight.absmax"].repeat_interleave(64)[: weight_OI.numel()]
    by_hand = (tensors["m.weight.quant_map"][numbers] * scales).view(shape)
    found = unpack_nf4(tensors)["m.weight"]
    torch.testing.assert_close(found, by_hand, atol=1e-6, rtol=1e-5)
    assert (found - weight_OI).norm() < 0.16 * weight_OI.norm()
