"""Reward models: packed scores are those of transformers' own classifier, and folders are plain."""

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from posttrain.data.batch import pack
from posttrain.errors import ModelError
from posttrain.models.attention import install_attention
from posttrain.models.load import Policy, is_reward_model, load, save
from posttrain.models.logprobs import causal_lm
from posttrain.models.lora import add_lora
from posttrain.models.reward import answer_scores, load_reward, set_padding
from posttrain.types import Pair, Sample

PAIR = (Pair(0, 1),)
FAMILIES = ("llama", "qwen3", "mistral", "gemma", "gpt2", "gpt_neox")


def folder(tiny: ModuleType, path: Path, family: str = "llama") -> Path:
    tokenizer = tiny.tokenizer()
    save(Policy(tiny.model(family, vocab_size=len(tokenizer)), tokenizer, family), path)
    return path


def compared(tiny: ModuleType) -> list[Sample]:
    shapes = [[(7, -1), (4, 0), (6, 0)], [(5, -1), (3, 0), (8, 0), (2, 0)]]
    return [
        Sample(tuple(replace(s, weights=(float(s.parent >= 0),) * len(s.token_ids)) for s in tree.segments), "", PAIR)
        for tree in tiny.trees(shapes)
    ]


def alone(model: torch.nn.Module, samples: list[Sample]) -> list[float]:
    """The oracle: each answer behind its prompt as a row of its own through transformers' forward."""
    rows = [sample.segments[0].token_ids + answer.token_ids for sample in samples for answer in sample.segments[1:]]
    with torch.no_grad():
        return [float(model(input_ids=torch.tensor([row]), use_cache=False).logits[0, 0]) for row in rows]


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_scores_are_those_of_every_answer_alone(tiny: ModuleType, tmp_path: Path, family: str) -> None:
    policy = load_reward(folder(tiny, tmp_path / "lm", family))
    samples = compared(tiny)
    install_attention(policy.model)
    with torch.no_grad():
        packed = answer_scores(policy.model, pack(samples))
    save(policy, tmp_path / "reward")
    found = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward", attn_implementation="eager").eval()
    assert found.config.num_labels == 1
    assert packed.tolist() == pytest.approx(alone(found, samples), rel=2e-5, abs=2e-5)
    assert packed.std() > 0.1  # not all the same number


@pytest.mark.parametrize("is_stop", [False, True], ids=["pad", "pad-is-stop"])
def test_a_padded_batch_of_transformers_reads_the_same_place(tiny: ModuleType, tmp_path: Path, is_stop: bool) -> None:
    policy = load_reward(folder(tiny, tmp_path / "lm"))
    stop = policy.tokenizer.pad_token_id = policy.tokenizer.eos_token_id
    set_padding(policy, [stop] if is_stop else [])
    assert (policy.model.config.pad_token_id == stop) != is_stop
    samples = compared(tiny)
    if is_stop:  # every answer ends with it
        ends = [[replace(a, token_ids=(*a.token_ids[:-1], stop)) for a in s.segments[1:]] for s in samples]
        samples = [replace(s, segments=(s.segments[0], *end)) for s, end in zip(samples, ends, strict=True)]
    rows = [list(s.segments[0].token_ids + a.token_ids) for s in samples for a in s.segments[1:]]
    width, pad = max(map(len, rows)), policy.model.config.pad_token_id
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    with torch.no_grad():
        padded = policy.model(input_ids=ids, attention_mask=mask).logits[:, 0]
        install_attention(policy.model)
        ours = answer_scores(policy.model, pack(samples))
    assert padded.tolist() == pytest.approx(ours.tolist(), rel=2e-5, abs=2e-5)


def test_the_new_head_is_drawn_by_the_seed_at_the_scale_of_its_width(tiny: ModuleType, tmp_path: Path) -> None:
    path = folder(tiny, tmp_path / "lm")
    first, again, other = (load_reward(path, seed=seed).model.score.weight.detach() for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert 0.5 < float(first.std()) * 33**0.5 < 1.5


def test_a_reward_model_keeps_its_head_and_is_no_language_model(tiny: ModuleType, tmp_path: Path) -> None:
    policy = load_reward(folder(tiny, tmp_path / "lm"))
    save(policy, tmp_path / "reward")
    assert is_reward_model(tmp_path / "reward")
    assert not is_reward_model(tmp_path / "lm")
    assert torch.equal(load_reward(tmp_path / "reward", seed=9).model.score.weight, policy.model.score.weight)
    with pytest.raises(ModelError, match="this is a reward model"):
        load(tmp_path / "reward")


def test_an_adapter_trains_the_head_and_comes_back(tiny: ModuleType, tmp_path: Path) -> None:
    policy = add_lora(load_reward(folder(tiny, tmp_path / "lm")), r=4)
    names = [name for name, parameter in policy.model.named_parameters() if parameter.requires_grad]
    assert any("score" in name for name in names)
    assert all("score" in name or "lora_" in name for name in names)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name or "score.modules_to_save" in name:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    samples = compared(tiny)
    before = alone(policy.model, samples)
    save(policy, tmp_path / "adapter")
    with pytest.raises(ModelError, match="this is a reward model"):
        load(tmp_path / "adapter")
    back = load_reward(tmp_path / "adapter")
    back.model.eval()
    assert alone(back.model, samples) == pytest.approx(before, rel=1e-5, abs=1e-5)


def test_a_language_models_adapter_becomes_part_of_the_reward_model(tiny: ModuleType, tmp_path: Path) -> None:
    torch.manual_seed(0)
    policy = add_lora(load(folder(tiny, tmp_path / "lm")), r=4)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.1)
    save(policy, tmp_path / "adapter")
    ids = torch.arange(5, 17)[None]
    with torch.no_grad():
        wanted = causal_lm(policy.model).model(input_ids=ids).last_hidden_state
        reward = load_reward(tmp_path / "adapter").model
        assert torch.allclose(reward.base_model(input_ids=ids).last_hidden_state, wanted, atol=1e-4)


def test_a_head_of_several_numbers_is_refused(tiny: ModuleType, tmp_path: Path) -> None:
    config = tiny.model("llama").config
    config.num_labels = 3
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "three")
    tiny.tokenizer().save_pretrained(tmp_path / "three")
    with pytest.raises(ModelError, match="its head gives 3 numbers, and a reward is one"):
        load_reward(tmp_path / "three")


def test_scores_keep_their_digits_under_autocast(tiny: ModuleType, tmp_path: Path) -> None:
    policy = load_reward(folder(tiny, tmp_path / "lm"))
    install_attention(policy.model)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        scores = answer_scores(policy.model, pack(compared(tiny)))
    assert scores.dtype == torch.float32
    assert not torch.equal(scores, scores.bfloat16().float())


def test_a_broken_folder_is_said_at_once(tiny: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        load_reward("runs/nowhere")
    (tmp_path / "pairs.jsonl").write_text("{}")
    with pytest.raises(ModelError, match="this is a file"):
        load_reward(tmp_path / "pairs.jsonl")
    path = folder(tiny, tmp_path / "lm")
    (path / "config.json").write_text("{")
    with pytest.raises(ModelError):
        load_reward(path)
