"""Rows for added tokens: where they start, and that the old ones stay as they are."""

from types import ModuleType

import pytest
import torch

from posttrain.models.vocabulary import grow_embeddings

TIES = pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])


@TIES
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_old_rows_stay_and_new_ones_are_distinct(tiny: ModuleType, family: str, tied: bool) -> None:
    lm = tiny.model(family, tie_word_embeddings=tied)
    old = tiny.VOCABULARY
    embedding = lm.get_input_embeddings().weight.detach().clone()
    head = lm.get_output_embeddings().weight.detach().clone()
    assert grow_embeddings(lm, old + 3, seed=0) == [old, old + 1, old + 2]
    for before, after in ((embedding, lm.get_input_embeddings().weight), (head, lm.get_output_embeddings().weight)):
        assert after.shape == (old + 3, before.shape[1])
        assert torch.equal(after[:old], before)
        assert torch.pdist(after[old:].detach()).min() > 1.0  # far apart, as any two old rows are: 1.4 on average
    assert (lm.get_input_embeddings().weight is lm.get_output_embeddings().weight) is tied
    assert lm.config.vocab_size == old + 3
    assert lm(input_ids=torch.tensor([[old, old + 2]])).logits.shape == (1, 2, old + 3)


def test_new_rows_have_the_mean_and_spread_of_the_old(tiny: ModuleType) -> None:
    lm = tiny.model("llama")
    with torch.no_grad():
        lm.get_input_embeddings().weight.mul_(torch.linspace(0.1, 3, 32)).add_(torch.linspace(-2, 2, 32))
    old = lm.get_input_embeddings().weight.detach().clone()
    grow_embeddings(lm, tiny.VOCABULARY + 4000, seed=0)
    new = lm.get_input_embeddings().weight.detach()[tiny.VOCABULARY :]
    assert ((new.mean(0) - old.mean(0)).abs() / old.std(0)).max() < 0.06  # 4000 draws: 0.016 is one deviation
    assert (new.std(0) / old.std(0) - 1).abs().max() < 0.05


def test_the_seed_decides(tiny: ModuleType) -> None:
    rows = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(rows))  # the global state does not matter
        lm = tiny.model("llama")
        grow_embeddings(lm, tiny.VOCABULARY + 2, seed=seed)
        rows.append(lm.get_input_embeddings().weight.detach()[tiny.VOCABULARY :])
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])


def test_a_model_with_room_is_left_alone(tiny: ModuleType) -> None:
    """Many models have more rows than their tokenizer has tokens."""
    lm = tiny.model("llama")
    before = lm.get_input_embeddings().weight
    assert grow_embeddings(lm, tiny.VOCABULARY - 5, seed=0) == []
    assert lm.get_input_embeddings().weight is before
