"""Folders of eight- and four-bit weights: every number against the formula, and against other libraries' readers."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from posttrain.errors import ModelError
from posttrain.models.bitsandbytes import pack_nf4, unpack_nf4
from posttrain.models.dequantised import read_by_transformers
from posttrain.models.load import Policy, load
from posttrain.models.lora import add_lora
from posttrain.models.quantised import Quantised, write_int4, write_int8, write_nf4
from posttrain.models.reward import load_reward
from posttrain.models.torchao import SHRINKS, pack_int4, unpack_int4

pytest.importorskip("torchao")
pytest.importorskip("bitsandbytes")

WRITERS: dict[str, Callable[..., Quantised]] = {"int8": write_int8, "int4": write_int4, "nf4": write_nf4}
LAYERS = 2 * 7  # linear maps of the tiny model


@pytest.fixture(scope="module")
def policy(tiny: ModuleType) -> Policy:
    """Widths that groups of 32 divide."""
    made = tiny.tokenizer()
    return Policy(tiny.model("llama", intermediate_size=64, vocab_size=len(made)), made, "tiny")


@pytest.fixture(scope="module")
def folders(policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("quantised")
    for name, write in WRITERS.items():
        made = write(policy, place / name, stop_token_ids=[3, 0])
        assert made.num_quantised == LAYERS
        assert made.kept == {"lm_head": "the head"}
    return {name: place / name for name in WRITERS}


def weight_of(shape: tuple[int, int] = (6, 128)) -> Tensor:
    """With one row of zeros, and one value far from the others."""
    weight = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    weight[1], weight[2, 5] = 0.0, 9.0
    return weight


def nf4_levels() -> list[float]:
    """Equation 4 of the paper with its appendix E: quantiles of N(0, 1), eight above 0 and seven below, and 0."""
    offset = (1 - 1 / (2 * 15) + 1 - 1 / (2 * 16)) / 2

    def quantiles(count: int) -> list[float]:
        steps = torch.linspace(offset, 0.5, count + 1, dtype=torch.float64)[:-1]
        return torch.special.ndtri(steps).tolist()  # type: ignore[no-any-return]

    found = sorted([*quantiles(8), 0.0, *(-value for value in quantiles(7))])
    return [value / max(found) for value in found]


def test_nf4_is_the_nearest_quantile_of_a_normal_distribution() -> None:
    weight, levels = weight_of(), nf4_levels()
    assert len(levels) == 16
    found = unpack_nf4(pack_nf4("layer", weight, torch.float32, double_quant=False))["layer.weight"]
    for row in range(6):
        for block in range(2):
            part = weight[row, 64 * block : 64 * block + 64].tolist()
            largest = max(map(abs, part))
            for place, value in enumerate(part):
                wanted = min((level * largest for level in levels), key=lambda level: abs(level - value))
                assert float(found[row, 64 * block + place]) == pytest.approx(wanted, rel=2e-6, abs=1e-7)


@pytest.mark.parametrize("double_quant", [False, True])
def test_nf4_is_nearer_to_normal_weights_than_fp4(double_quant: bool) -> None:
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))

    def error(quant_type: str) -> float:
        made = pack_nf4("layer", weight, torch.float32, quant_type=quant_type, double_quant=double_quant)
        return float((unpack_nf4(made)["layer.weight"] - weight).square().mean().sqrt())

    assert error("nf4") == pytest.approx(0.094, abs=0.004)  # of a standard deviation
    assert error("fp4") > 1.2 * error("nf4")


def test_double_quantisation_is_read_by_its_own_formula(folders: dict[str, Path]) -> None:
    """The scale of a block is `code[byte] * scale of 256 of them + offset`; first of two values in the high nibble."""
    held = load_file(folders["nf4"] / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    state = json.loads(bytes(held[f"{name}.quant_state.bitsandbytes__nf4"].tolist()))
    codes = held[f"{name}.nested_quant_map"][held[f"{name}.absmax"].long()]
    blocks = torch.arange(len(codes)) // state["nested_blocksize"]
    scale = codes * held[f"{name}.nested_absmax"][blocks] + state["nested_offset"]
    nibbles = torch.stack([held[name][:, 0] >> 4, held[name][:, 0] & 15], 1).flatten()
    values = torch.tensor(nf4_levels())[nibbles.long()].float() * scale.repeat_interleave(64)
    read = load(folders["nf4"]).model.get_parameter(name)
    assert torch.allclose(read, values.view(state["shape"]), rtol=1e-5, atol=1e-7)


@torch.no_grad()
def test_int8_rounds_to_steps_of_the_largest_of_a_row(folders: dict[str, Path], policy: Policy) -> None:
    read = load(folders["int8"])
    for name, weight in policy.model.named_parameters():
        if weight.ndim == 2 and "layers" in name:
            step = weight.abs().amax(1, keepdim=True) / 127.5
            steps = read.model.get_parameter(name) / step
            assert float((steps - steps.round()).abs().max()) < 1e-4
            assert float((steps - weight / step).abs().max()) < 0.5001
            assert -128 <= int(steps.min().round()) <= int(steps.max().round()) <= 127
        else:
            assert read.model.get_parameter(name).equal(weight.bfloat16().float())


@pytest.mark.parametrize("group_size", [32, 64])
def test_int4_is_the_best_of_the_tried_scales(group_size: int) -> None:
    weight = weight_of()
    parts = pack_int4(weight, group_size, torch.bfloat16)
    settings = {"config_groups": {"0": {"weights": {"num_bits": 4}}}, "format": "pack-quantized"}
    found = unpack_int4({f"layer.{name}": tensor for name, tensor in parts.items()}, settings)["layer.weight"]
    for row in range(6):
        for group in range(128 // group_size):
            part = weight[row, group * group_size : (group + 1) * group_size]
            tried = []
            for shrink in SHRINKS:
                scale = (part.abs().max().clamp(min=torch.finfo(torch.float32).eps) / 7.5 * shrink).bfloat16().float()
                tried.append((part / scale).round().clamp(-8, 7) * scale)
            errors = [float((part - values).square().sum()) for values in tried]
            read = found[row, group * group_size : (group + 1) * group_size]
            assert float((part - read).square().sum()) == pytest.approx(min(errors), rel=1e-4, abs=1e-12)
            word = int(parts["weight_packed"][row, group * group_size // 8]) & 0xFFFFFFFF
            scale = float(parts["weight_scale"][row, group])
            values = [((word >> 4 * place) & 15) - 8 for place in range(8)]
            assert read[:8].tolist() == pytest.approx([value * scale for value in values])


@pytest.mark.parametrize("name", WRITERS)
def test_transformers_reads_the_same_numbers(name: str, folders: dict[str, Path]) -> None:
    if name == "int4":
        pytest.importorskip("compressed_tensors")
    ours, theirs = load(folders[name]).model.state_dict(), read_by_transformers(folders[name]).state_dict()
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        assert torch.allclose(value, theirs[key], rtol=1e-6, atol=1e-8), key
    assert json.loads((folders[name] / "generation_config.json").read_text())["eos_token_id"] == [3, 0]
    assert not list(folders[name].glob("*.bin"))


def test_more_bits_are_nearer(folders: dict[str, Path], policy: Policy) -> None:
    ids = torch.arange(3, 40)[None]

    def kl(model: Any) -> float:
        with torch.no_grad():
            ours, theirs = (torch.log_softmax(lm(ids).logits.double(), -1) for lm in (policy.model, model))
        return float((ours.exp() * (ours - theirs)).sum(-1).mean())

    found = {name: kl(load(folder).model) for name, folder in folders.items()}
    assert 0 < found["int8"] < 0.1 * min(found["int4"], found["nf4"])
    sizes = {name: (folder / "model.safetensors").stat().st_size for name, folder in folders.items()}
    assert sizes["int4"] < sizes["int8"]


def test_what_is_read_back_is_an_ordinary_model(folders: dict[str, Path], tmp_path: Path) -> None:
    read = load(folders["nf4"])
    assert not hasattr(read.model.config, "quantization_config")
    read.model.save_pretrained(tmp_path)
    read.tokenizer.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert all(a.equal(b) for a, b in zip(read.model.parameters(), again.model.parameters(), strict=True))
    trunk = load_reward(folders["nf4"]).model
    assert trunk.get_parameter("model.layers.0.mlp.up_proj.weight").equal(
        read.model.get_parameter("model.layers.0.mlp.up_proj.weight")
    )


def test_what_does_not_fit_stays_and_is_counted(tiny: ModuleType, tmp_path: Path) -> None:
    lm = tiny.model("qwen3", tie_word_embeddings=True)  # 48 inside the MLP
    made = write_int4(Policy(lm, tiny.tokenizer(), "tiny"), tmp_path)
    assert made.num_quantised == LAYERS - 2
    assert made.kept["model.layers.0.mlp.down_proj"] == "its width 48 is no multiple of 32"
    assert "3 kept as they are" in made.lines()[1]
    read = load(tmp_path).model
    assert read.get_parameter("model.layers.0.mlp.down_proj.weight").equal(
        lm.get_parameter("model.layers.0.mlp.down_proj.weight").bfloat16().float()
    )
    assert read.lm_head.weight is read.model.embed_tokens.weight


def test_what_cannot_be_quantised_is_refused(tiny: ModuleType, policy: Policy, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no linear maps to quantise"):
        write_int8(Policy(tiny.model("gpt2", tie_word_embeddings=True), policy.tokenizer, "gpt2"), tmp_path)
    with pytest.raises(ModelError, match=r"group_size is 48; vLLM's kernels take 32, 64, 128"):
        write_int4(policy, tmp_path, group_size=48)
    with pytest.raises(ModelError, match="no linear map fits the format: its width 32 is no multiple of 64"):
        write_int4(tiny.policy(), tmp_path, group_size=64)
    with pytest.raises(ModelError, match="merge it before"):
        write_nf4(add_lora(tiny.policy(), r=2), tmp_path)


def test_broken_folders_are_named(folders: dict[str, Path], tmp_path: Path) -> None:
    for name in ("int8", "int4", "nf4"):
        place = tmp_path / name
        place.mkdir()
        for file in folders[name].iterdir():
            (place / file.name).write_bytes(file.read_bytes())
        whole = (place / "model.safetensors").read_bytes()
        (place / "model.safetensors").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ModelError, match=f"{name}: the quantised weights cannot be read"):
            load(place)
    config = json.loads((tmp_path / "int4" / "config.json").read_text())
    config["quantization_config"]["format"] = "float-quantized"
    (tmp_path / "int4" / "config.json").write_text(json.dumps(config))
    (tmp_path / "int4" / "model.safetensors").write_bytes((folders["int4"] / "model.safetensors").read_bytes())
    with pytest.raises(ModelError, match="only pack-quantized, symmetric, four-bit weights are read"):
        load(tmp_path / "int4")


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [("int8", "torchao.quantization", "quant"), ("nf4", "bitsandbytes", "qlora")],
)
def test_a_missing_package_names_its_extra(
    name: str, package: str, extra: str, policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModelError, match=rf"pip install 'posttrain\[{extra}\]'"):
        WRITERS[name](policy, tmp_path)
