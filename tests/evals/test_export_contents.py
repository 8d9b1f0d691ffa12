"""Faults that no answer shows: planted in a model that is read back, one at a time."""

import json
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from tests import tiny
from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

from posttrain.evals.export_contents import added_texts, contents, contents_faults
from posttrain.models.load import Policy
from posttrain.recipes.export_formats import FORMATS

COARSEST = FORMATS["gguf-q4_0"].budget
FINEST = FORMATS["gguf-f32"].budget


@pytest.fixture(scope="module")
def ours() -> Policy:
    words = tiny.tokenizer()
    return Policy(tiny.model("llama", vocab_size=len(words) + 3), words, "ours")


def copied(policy: Policy) -> Policy:
    return Policy(deepcopy(policy.model), policy.tokenizer, "theirs")


def faults(ours: Policy, theirs: Policy, budget: Any) -> list[str]:
    return contents_faults(contents(ours, theirs), budget.row, budget.scale)


def _zero(model: Any) -> None:
    model.lm_head.weight[7] = 0


def _exchange(model: Any) -> None:
    model.model.embed_tokens.weight[[7, 8]] = model.model.embed_tokens.weight[[8, 7]]


def _louder(model: Any) -> None:
    model.model.layers[1].mlp.down_proj.weight.mul_(1.06)


def _nan(model: Any) -> None:
    model.model.norm.weight[3] = torch.nan


@pytest.mark.parametrize(
    ("plant", "said"),
    [
        (_zero, "row 7 of lm_head.weight is off by 100 %"),
        (_exchange, "of model.embed_tokens.weight is off by"),
        (_louder, "model.layers.1.mlp.down_proj.weight is 6 % too large or too small"),
        (_nan, "row 0 of model.norm.weight is off by inf %"),
    ],
)
def test_weights_that_are_not_the_models(ours: Policy, plant: Callable[[Any], None], said: str) -> None:
    theirs = copied(ours)
    assert not faults(ours, theirs, FINEST)
    with torch.no_grad():
        plant(theirs.model)
    assert said in " ".join(faults(ours, theirs, COARSEST))


def test_rounding_passes_its_own_budget_and_no_finer_one(ours: Policy) -> None:
    theirs = Policy(deepcopy(ours.model).bfloat16().float(), ours.tokenizer, "theirs")
    assert not faults(ours, theirs, FORMATS["gguf-bf16"].budget)
    assert faults(ours, theirs, FINEST)
    found = contents(ours, theirs)
    by_hand = max(
        float(((b - a).reshape(len(a), -1).norm(dim=1) / a.reshape(len(a), -1).norm(dim=1)).max())
        for a, b in zip(ours.model.state_dict().values(), theirs.model.state_dict().values(), strict=True)
        if a.ndim > 1
    )
    assert found.row == pytest.approx(by_hand, rel=1e-4)


def test_a_weight_that_is_gone(ours: Policy) -> None:
    theirs = copied(ours)
    theirs.model.lm_head = torch.nn.Linear(32, 5, bias=False)
    assert contents(ours, theirs).missing == ("lm_head.weight",)


def test_a_merge_that_no_probe_text_needs(ours: Policy) -> None:
    state = json.loads(ours.tokenizer.backend_tokenizer.to_str())
    lost = "".join(state["model"]["merges"].pop())
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(state)))
    found = contents(ours, Policy(ours.model, words, "theirs"))
    assert found.words == (ours.tokenizer.backend_tokenizer.decode([ours.tokenizer.get_vocab()[lost]]),)
    assert contents_faults(found, 1, 1) == [f"1 of {found.num_words} words become other tokens, as {found.words[0]!r}"]


def test_words_of_users_are_looked_for_in_the_midst_of_others(ours: Policy) -> None:
    """A word that is taken by itself only is taken everywhere by a file that does not say so."""
    sides = []
    for single in (True, False):
        words = tiny.tokenizer()
        words.add_tokens([AddedToken("zork", single_word=single, normalized=False)])
        sides.append(Policy(ours.model, words, "words"))
    assert contents(*sides).words == ("azorkb", "zorkzork")
    assert added_texts(sides[0].tokenizer) == ["zork", "azorkb", "a zork b", "zorkzork"]
