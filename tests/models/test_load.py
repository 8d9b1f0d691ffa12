"""Folders to policies and back: what is read, what is refused, and that a round trip changes no log-probability."""

import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from posttrain.data.batch import pack
from posttrain.data.template import install_template
from posttrain.errors import ModelError
from posttrain.models.attention import install_attention
from posttrain.models.load import Policy, load, restore, save
from posttrain.models.logprobs import token_logps
from posttrain.models.lora import add_lora
from posttrain.models.vocabulary import grow_embeddings


@pytest.fixture(scope="module")
def base(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_base(tmp_path_factory.mktemp("base"))


def logps(tiny: ModuleType, policy: Policy, *more_ids: int) -> Tensor:
    """Log-probabilities of some rows, which hold the given ids too, as input and as target."""
    samples = tiny.trees([[(9, -1), (4, 0), (3, 0)], [(6, -1)]])
    batch = pack(samples)
    for place, token in enumerate(more_ids, 1):
        batch.input_ids_T[place] = batch.target_ids_N[place - 1] = token
    install_attention(policy.model)
    policy.model.eval()
    with torch.no_grad():
        return token_logps(policy.model, batch)


def shake(policy: Policy, seed: int = 0) -> None:
    """As if it had been trained: everything that may change has changed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))


class TestRefusals:
    def copy(self, base: Path, folder: Path, *without: str) -> Path:
        shutil.copytree(base, folder, ignore=shutil.ignore_patterns(*without))
        return folder

    def test_no_tokenizer(self, base: Path, tmp_path: Path) -> None:
        folder = self.copy(base, tmp_path / "m", "tokenizer*", "special_tokens_map.json", "chat_template*")
        with pytest.raises(ModelError, match=r"m: no tokenizer; copy tokenizer.json and tokenizer_config.json"):
            load(folder)

    def test_pickled_weights(self, base: Path, tmp_path: Path) -> None:
        folder = self.copy(base, tmp_path / "m", "*.safetensors")
        torch.save({"x": torch.zeros(1)}, folder / "pytorch_model.bin")
        with pytest.raises(ModelError, match=r"no \*.safetensors weights. Pickled weights .* can run code"):
            load(folder)

    def test_a_file(self, base: Path) -> None:
        with pytest.raises(ModelError, match=r"a model is a folder with config.json .*, this is a file"):
            load(base / "model.safetensors")

    def test_no_config(self, base: Path, tmp_path: Path) -> None:
        folder = self.copy(base, tmp_path / "m", "config.json")
        with pytest.raises(ModelError, match=r"no config.json; give the folder that a model was saved in"):
            load(folder)

    def test_weights_that_are_cut_off(self, base: Path, tmp_path: Path) -> None:
        folder = self.copy(base, tmp_path / "m")
        whole = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ModelError, match="the model cannot be loaded"):
            load(folder)

    def test_a_config_that_is_not_json(self, base: Path, tmp_path: Path) -> None:
        folder = self.copy(base, tmp_path / "m")
        (folder / "config.json").write_text("{")
        with pytest.raises(ModelError, match="the model cannot be loaded"):
            load(folder)

    def test_an_unknown_kind_of_model(self, base: Path, tmp_path: Path) -> None:
        folder = self.copy(base, tmp_path / "m")
        (folder / "config.json").write_text('{"model_type": "nothing-known"}')
        with pytest.raises(ModelError, match=r"the model cannot be loaded.*nothing-known"):
            load(folder)

    def test_an_adapter_whose_base_is_gone(self, base: Path, tmp_path: Path) -> None:
        moved = self.copy(base, tmp_path / "base")
        save(add_lora(load(moved, device="cpu"), r=2), tmp_path / "adapter")
        shutil.rmtree(moved)
        with pytest.raises(ModelError, match=str(moved)):
            load(tmp_path / "adapter")


def test_a_name_on_the_hub_is_held_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a folder to look into, transformers must be told: safetensors only, and no code from the repository."""
    asked: dict[str, Any] = {}

    def from_pretrained(path: str, **options: Any) -> None:
        asked.update(options, path=path)
        raise OSError("no network here\nand more")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", from_pretrained)
    with pytest.raises(ModelError, match=r"^some/name: the model cannot be loaded: no network here$"):
        load("some/name")
    assert asked["use_safetensors"] is True
    assert not asked.get("trust_remote_code")


class TestRoundTrips:
    def test_full(self, tiny: ModuleType, base: Path, tmp_path: Path) -> None:
        policy = load(base, device="cpu")
        shake(policy)
        save(policy, tmp_path, stop_token_ids=[5, 6])
        again = load(tmp_path, device="cpu")
        assert torch.equal(logps(tiny, again), logps(tiny, policy))
        assert not torch.equal(logps(tiny, again), logps(tiny, load(base, device="cpu")))
        assert again.tokenizer.get_vocab() == policy.tokenizer.get_vocab()
        assert again.tokenizer.chat_template == policy.tokenizer.chat_template
        assert json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"] == [5, 6]

    def test_adapter(self, tiny: ModuleType, base: Path, tmp_path: Path) -> None:
        policy = add_lora(load(base, device="cpu"), r=4)
        plain = logps(tiny, policy)
        shake(policy)
        save(policy, tmp_path, stop_token_ids=[5])
        again = load(tmp_path, device="cpu")
        assert torch.equal(logps(tiny, again), logps(tiny, policy))
        assert (logps(tiny, again) - plain).abs().max() > 0.1
        assert not (tmp_path / "model.safetensors").exists()
        assert json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"] == [5]

    @pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
    def test_adapter_with_new_tokens(self, tiny: ModuleType, tmp_path: Path, tied: bool) -> None:
        """The rows of added tokens travel with the adapter, in the embedding and in the head."""
        base = tiny.save_base(tmp_path / "base", tie_word_embeddings=tied)
        policy = load(base, device="cpu")
        policy.tokenizer.add_special_tokens({"extra_special_tokens": ["<|a|>", "<|b|>"]})
        new = grow_embeddings(policy.model, len(policy.tokenizer), seed=0)
        policy = add_lora(policy, r=4, new_token_ids=new)
        shake(policy)
        before = logps(tiny, policy, *new)
        save(policy, tmp_path / "adapter")
        torch.manual_seed(99)  # what is not saved would be drawn anew
        again = load(tmp_path / "adapter", device="cpu")
        assert torch.equal(logps(tiny, again, *new), before)

    def test_grown_model_without_lora(self, tiny: ModuleType, base: Path, tmp_path: Path) -> None:
        policy = load(base, device="cpu")
        policy.tokenizer.add_special_tokens({"extra_special_tokens": ["<|a|>"]})
        new = grow_embeddings(policy.model, len(policy.tokenizer), seed=0)
        save(policy, tmp_path)
        assert torch.equal(logps(tiny, load(tmp_path, device="cpu"), *new), logps(tiny, policy, *new))

    def test_it_is_what_transformers_reads(self, base: Path) -> None:
        policy = load(base, device="cpu")
        saved = load_file(base / "model.safetensors")
        assert {name: value.shape for name, value in policy.model.state_dict().items()} == {
            name: value.shape for name, value in saved.items()
        }
        assert policy.num_parameters == policy.num_trainable == sum(value.numel() for value in saved.values())


class TestRestore:
    @pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
    @pytest.mark.parametrize("kind", ["full", "lora", "lora with new tokens"])
    def test_weights_come_back(self, tiny: ModuleType, tmp_path: Path, kind: str, tied: bool) -> None:
        policy = load(tiny.save_base(tmp_path / "base", tie_word_embeddings=tied), device="cpu")
        new: list[int] = []
        if kind == "lora with new tokens":
            policy.tokenizer.add_special_tokens({"extra_special_tokens": ["<|a|>", "<|b|>"]})
            new = grow_embeddings(policy.model, len(policy.tokenizer), seed=0)
        if kind != "full":
            policy = add_lora(policy, r=2, new_token_ids=new)
        shake(policy, seed=1)
        expected = logps(tiny, policy, *new)
        trained = [parameter.clone() for parameter in policy.model.parameters()]
        save(policy, tmp_path / "saved")
        shake(policy, seed=2)
        assert (logps(tiny, policy, *new) - expected).abs().max() > 0.1
        parameters = list(policy.model.parameters())
        restore(policy, tmp_path / "saved")
        assert torch.equal(logps(tiny, policy, *new), expected)
        # The very same tensors, so that the optimiser still holds them.
        assert all(a is b for a, b in zip(parameters, policy.model.parameters(), strict=True))
        assert all(torch.equal(a, b) for a, b in zip(trained, parameters, strict=True))

    def test_a_template_that_was_installed_comes_back(self, tiny: ModuleType, tmp_path: Path) -> None:
        tokenizer = tiny.tokenizer(template=False)
        install_template(tokenizer, "chatml")
        policy = Policy(tiny.model("llama", vocab_size=len(tokenizer)), tokenizer, "tiny")
        save(policy, tmp_path)
        again = load(tmp_path, device="cpu").tokenizer
        assert again.chat_template == tokenizer.chat_template
        assert again("<|im_start|>", add_special_tokens=False)["input_ids"] == tokenizer.convert_tokens_to_ids(
            ["<|im_start|>"]
        )


@pytest.mark.parametrize("name", ["runs/never-made", "./nowhere", "/nowhere/at/all", "a/b/c", "here/nothing"])
def test_a_missing_folder_is_not_looked_for_on_the_network(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="no such folder"):
        load(name)
