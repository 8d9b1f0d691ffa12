"""Gibberish after an export: planted, and found. An export without a fault passes the same check."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.test_gguf import tiny_policy

from posttrain.data.template import stop_token_ids
from posttrain.evals.export_check import FEW, Compared, Truth, compare, faults_of, token_kls, truth_of
from posttrain.evals.export_reader import PolicyReader
from posttrain.evals.forward_kl import answers_of_base
from posttrain.intervals import Estimate
from posttrain.models import gguf_model, gguf_shapes, gguf_tokenizer
from posttrain.models.gguf_read import read_gguf
from posttrain.models.gguf_splits import probe_texts
from posttrain.models.load import Policy
from posttrain.rollouts.asking import Ask
from posttrain.types import Message

pytest.importorskip("gguf", reason="needs the extra gguf")

MAX_NEW = 12
ASKS = [Ask(messages=(Message("user", f"How many hours has a day? {number}. The capital?"),)) for number in range(6)]


@pytest.fixture(scope="module")
def policy() -> Policy:
    return tiny_policy("llama", bos=True)


@pytest.fixture(scope="module")
def truth(policy: Policy) -> Truth:
    reader = PolicyReader("fp32", policy, stop_token_ids(policy.tokenizer))
    answered = answers_of_base(policy, ASKS, max_new_tokens=MAX_NEW, seed=0)
    return truth_of(reader, ASKS, answered, probe_texts()[:80], policy.tokenizer, MAX_NEW)


def checked(policy: Policy, truth: Truth, path: Path, stop_ids: list[int] | None = None) -> Compared:
    stops = stop_token_ids(policy.tokenizer) if stop_ids is None else stop_ids
    gguf_model.write_gguf(policy, path, kind="F32", name="tiny", stop_ids=stops)
    again, found, _ = read_gguf(path)
    return compare(truth, PolicyReader("read back", again, found), MAX_NEW)


def test_a_sound_export_has_no_fault(policy: Policy, truth: Truth, tmp_path: Path) -> None:
    found = checked(policy, truth, tmp_path / "x.gguf")
    assert faults_of(found, 1e-4, 0.0) == []
    assert found.kl.value < 1e-9
    assert (found.top1.value, found.flips_all.value, found.examples) == (1.0, 0.0, [])
    assert found.num_tokens == sum(len(one.answer_ids) for one in truth.answered)


def wrong_template(change: pytest.MonkeyPatch) -> None:
    made = gguf_model.tokenizer_fields

    def other(*arguments: Any) -> Any:
        fields, told = made(*arguments)
        text = fields["tokenizer.chat_template"]
        return fields | {"tokenizer.chat_template": text.replace("<|im_start|>assistant\\n", "<|im_start|>")}, told

    change.setattr(gguf_model, "tokenizer_fields", other)


def rows_as_they_were(change: pytest.MonkeyPatch) -> None:
    change.setattr(gguf_shapes, "paired_rows", lambda rows, _: rows)


def wrong_rope(change: pytest.MonkeyPatch) -> None:
    made = gguf_model.shape_fields

    def other(config: Any) -> Any:
        fields, told = made(config)
        return fields | {"llama.rope.freq_base": 500.0}, told

    change.setattr(gguf_model, "shape_fields", other)


def wrong_byte(change: pytest.MonkeyPatch) -> None:
    """Two tokens of one character each have changed places."""
    made = gguf_tokenizer.token_lists

    def other(*arguments: Any) -> Any:
        lists = made(*arguments)
        tokens = lists["tokens"]
        a, e = tokens.index("a"), tokens.index("e")
        tokens[a], tokens[e] = tokens[e], tokens[a]
        return lists

    change.setattr(gguf_tokenizer, "token_lists", other)


def wrong_cut(change: pytest.MonkeyPatch) -> None:
    change.setattr(gguf_tokenizer, "splits_name", lambda _: "llama-bpe")


def lost_first_token(change: pytest.MonkeyPatch) -> None:
    wrong = gguf_tokenizer._special_fields
    change.setattr(gguf_tokenizer, "_special_fields", lambda *a: wrong(*a) | {"bos_token_id": 5})


PLANTED: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str]] = {
    "wrong template": (wrong_template, "prompts become other tokens"),
    "q and k not permuted": (rows_as_they_were, "KL to fp32 is"),
    "wrong rope theta": (wrong_rope, "KL to fp32 is"),
    "wrong byte token": (wrong_byte, "probe texts become other tokens"),
    "wrong pre-tokenizer": (wrong_cut, "probe texts become other tokens"),
    "another first token": (lost_first_token, "prompts become other tokens"),
}


@pytest.mark.parametrize("plant", PLANTED)
def test_what_is_planted_is_found(
    plant: str, policy: Policy, truth: Truth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, said = PLANTED[plant]
    change(monkeypatch)
    faults = faults_of(checked(policy, truth, tmp_path / "x.gguf"), 0.15, 0.3)  # the widest budget of all formats
    assert any(said in fault for fault in faults), faults


def test_a_missing_stop_token_is_found(policy: Policy, truth: Truth, tmp_path: Path) -> None:
    found = checked(policy, truth, tmp_path / "x.gguf", [policy.tokenizer.eos_token_id])
    assert found.stops_missing == ["<|im_end|>"]
    assert any("stop tokens are missing" in fault for fault in faults_of(found, 0.15, 0.3))


def test_a_word_that_ends_answers_is_found(policy: Policy, truth: Truth, tmp_path: Path) -> None:
    word = policy.tokenizer.get_vocab()["a"]
    found = checked(policy, truth, tmp_path / "x.gguf", [*stop_token_ids(policy.tokenizer), word])
    assert found.stops_extra == ["a"]
    assert any("tokens stop answers that should not" in fault for fault in faults_of(found, 0.15, 0.3))


def test_weights_that_are_no_numbers_are_a_fault(policy: Policy, truth: Truth) -> None:
    class Broken(PolicyReader):
        def logps(self, prompt_ids: Any, answer_ids: Any) -> torch.Tensor:
            return super().logps(prompt_ids, answer_ids) * float("nan")

    found = compare(truth, Broken("broken", policy, stop_token_ids(policy.tokenizer)), MAX_NEW)
    assert found.told()["kl"]["value"] is None
    assert any("KL to fp32 is nan" in fault for fault in faults_of(found, 0.15, 0.3))


def test_divergence_by_hand() -> None:
    """KL(p || q) of p = (1/2, 1/2), q = (1/4, 3/4): 1/2 log 2 + 1/2 log 2/3; rows beyond the model's are left out."""
    ours, theirs = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75, 1e-9]]).log()
    assert token_kls(ours, theirs).item() == pytest.approx(0.5 * 0.6931472 + 0.5 * -0.4054651, abs=1e-6)
    assert token_kls(ours, ours).item() == 0.0


def test_a_few_whole_answers_are_not_judged(policy: Policy, truth: Truth, tmp_path: Path) -> None:
    found = replace(checked(policy, truth, tmp_path / "x.gguf"), flips=Estimate(1.0, 0.2, 1.0), num_whole=FEW - 1)
    assert faults_of(found, 1e-4, 0.05) == []
    assert any("greedy answers change" in fault for fault in faults_of(replace(found, num_whole=FEW), 1e-4, 0.05))
