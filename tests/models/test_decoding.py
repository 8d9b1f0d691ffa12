"""Paged attention and the lean twin against the model itself."""

import copy
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from posttrain.models.decoding import PlainDecoder
from posttrain.models.decoding_lean import LeanDecoder, lean_decoder
from posttrain.models.decoding_pages import FEW_PAGES, PAGE, PAGE_MULTIPLE, Pages, Prefill, Step
from posttrain.models.lora import add_lora

LEAN = ["llama", "mistral", "qwen3"]


def naive(query: Tensor, keys: Tensor, values: Tensor, window: int | None, softcap: float | None) -> Tensor:
    """One query [heads, head] over all keys of its sequence [positions, kv heads, head], head by head."""
    found = []
    for head, q in enumerate(query.double()):
        kv = head * keys.shape[1] // query.shape[0]
        score = keys[:, kv].double() @ q * q.shape[0] ** -0.5
        score = score if softcap is None else softcap * torch.tanh(score / softcap)
        if window is not None:
            score[: max(0, len(score) - window)] = -torch.inf
        found.append(torch.softmax(score, 0) @ values[:, kv].double())
    return torch.stack(found)


@pytest.mark.parametrize("window", [None, 5, 70])
@pytest.mark.parametrize("softcap", [None, 1.5])
def test_pages_hold_what_a_row_has_seen(window: int | None, softcap: float | None) -> None:
    """Two prompts, three rows on the first and one on the second, answers of different lengths over page borders, and
    a row that is replaced on the way; every step equals softmax attention over the row's whole sequence."""
    generator = torch.Generator().manual_seed(0)
    heads, kv_heads, size, nobody = 6, 2, 8, 5
    options: dict[str, Any] = {"window": window, "softcap": softcap}

    def made(rows: int) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = (torch.randn(rows, n, size, generator=generator) for n in (heads, kv_heads, kv_heads))
        return 3 * query, key, value

    prompt, own = Pages(3, nobody, torch.device("cpu")), Pages(1, nobody, torch.device("cpu"))
    lengths = [70, 3]
    prefill = Prefill(prompt, [list(range(n)) for n in lengths], 128)
    query, key, value = made(128)
    out = prefill(0, query, key, value, **options)
    assert torch.allclose(out[72].double(), naive(query[72], key[70:73], value[70:73], window, softcap), atol=1e-5)
    kept = [(key[:70], value[:70]), (key[70:73], value[70:73])]
    whose = [0, 0, 1, 0]
    seen = [kept[group] for group in whose]
    for row, (group, place) in enumerate(zip(whose, (0, 1, 0, 2), strict=True)):
        prompt.rows[prefill.of_prompt[group], place] = row
    pages: list[list[int]] = [[] for _ in whose]
    fed = [0, 0, 0, 0]
    for number in range(2 * PAGE + 3):
        if number == PAGE + 2:  # row 1 is done; another answer to the same prompt takes its slot
            own.give_back(pages[1])
            pages[1], fed[1], seen[1] = [], 0, kept[0]
        for row in range(4):
            if fed[row] % PAGE == 0:
                pages[row].append(own.take(lengths[whose[row]] + fed[row]))
                own.rows[pages[row][-1], 0] = row
        place = torch.tensor(fed)
        position = place + torch.tensor([lengths[group] for group in whose])
        step = Step(prompt, own, torch.tensor([line[-1] for line in pages]), place % PAGE, position)
        query, key, value = made(8)  # four of filler
        out = step(0, query, key, value, **options)
        for row in range(4):
            seen[row] = tuple(
                torch.cat([old, new[row : row + 1]]) for old, new in zip(seen[row], (key, value), strict=True)
            )
            fed[row] += 1
            if number % 7 == 0 or number > 2 * PAGE:
                wanted = naive(query[row], *seen[row], window, softcap)
                assert torch.allclose(out[row].double(), wanted, atol=1e-5), (number, row)
    assert own.peak == 3 * 3 + 2
    assert own.extent <= PAGE_MULTIPLE


def test_pages_are_given_back_and_taken_again() -> None:
    pages = Pages(1, 4, torch.device("cpu"))
    taken = [pages.take(0) for _ in range(40)]
    assert taken == list(range(40)), "the lowest first"
    pages.write(0, torch.tensor([39]), torch.tensor([63]), torch.ones(1, 1, 4), torch.full((1, 1, 4), 2.0))
    taken += [pages.take(0) for _ in range(60)]
    assert pages.keys[0][39, 0, :, 63].tolist() == [1.0] * 4, "growing keeps what was written"
    assert pages.values[0][39, 0, 63].tolist() == [2.0] * 4
    assert pages.keys[0].count_nonzero() == 4
    pages.give_back(taken[1:])
    assert pages.extent == FEW_PAGES
    assert [pages.take(0), pages.take(0)] == [1, 2]


def _hidden_logits(tiny: ModuleType, decoder: Any, num: int = 40) -> Tensor:
    ids = torch.tensor([segment.token_ids for segment in tiny.trees([[(num, -1)]])[0].segments])[0]
    attend = Prefill(Pages(1, 1, torch.device("cpu")), [ids.tolist()], num)
    with torch.no_grad():
        return decoder.logits(decoder.hidden(ids, torch.arange(num), attend)).clone()


@pytest.mark.parametrize("family", LEAN)
@pytest.mark.parametrize("lora", [None, "lora", "dora"])
def test_the_lean_twin_computes_the_model(tiny: ModuleType, family: str, lora: str | None) -> None:
    policy = tiny.policy(family)
    if lora:
        policy = add_lora(policy, r=4, use_dora=lora == "dora", new_token_ids=[5, 6])
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in policy.model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    before = copy.deepcopy(policy.model.state_dict())
    with torch.no_grad():
        twin = lean_decoder(policy.model, torch.float32)
    assert isinstance(twin, LeanDecoder)
    wanted = _hidden_logits(tiny, PlainDecoder(policy.model))
    assert (_hidden_logits(tiny, twin) - wanted).abs().max() < 1e-4
    assert all(torch.equal(value, before[name]) for name, value in policy.model.state_dict().items())
    with torch.no_grad():
        rounded = lean_decoder(policy.model, torch.bfloat16)
    assert rounded is not None
    apart = (_hidden_logits(tiny, rounded) - wanted).abs()
    assert 1e-4 < apart.mean() < 0.1, "bf16, and no more than its rounding"


def test_qwen2_biases_and_yarn_are_in_the_twin(tiny: ModuleType) -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    rope = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
    config = Qwen2Config(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, rope_parameters=rope, tie_word_embeddings=True,
    )  # fmt: skip
    lm = Qwen2ForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in lm.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
        twin = lean_decoder(lm, torch.float32)
    assert twin is not None
    assert (_hidden_logits(tiny, twin) - _hidden_logits(tiny, PlainDecoder(lm))).abs().max() < 1e-5


def test_what_only_looks_like_llama_has_no_twin(tiny: ModuleType) -> None:
    """A family that reuses the name but not the formula is found by comparing every layer."""
    policy = tiny.policy("llama")
    assert lean_decoder(policy.model, torch.float32) is not None
    mlp = policy.model.model.layers[1].mlp
    kind = type(mlp)
    mlp.__class__ = type("OddMLP", (kind,), {"forward": lambda self, x: kind.forward(self, x) * 1.01})
    with torch.no_grad():
        assert lean_decoder(policy.model, torch.float32) is None


@pytest.mark.parametrize("family", ["gemma", "gemma2", "gpt2", "gpt_neox"])
def test_other_families_have_none(tiny: ModuleType, family: str) -> None:
    assert lean_decoder(tiny.policy(family).model, torch.float32) is None
