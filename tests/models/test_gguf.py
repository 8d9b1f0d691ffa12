"""GGUF files: what is written, what is read again by other code, what is refused; and llama.cpp itself where it is."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import tiny
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from posttrain.data.template import render_prompt, stop_token_ids
from posttrain.errors import ModelError
from posttrain.evals.export_check import token_kls
from posttrain.evals.export_reader import PolicyReader
from posttrain.models import gguf_tokenizer
from posttrain.models.gguf import Tensor, read_fields, read_tensor, tensor_kinds, write_file
from posttrain.models.gguf_model import write_gguf
from posttrain.models.gguf_read import read_gguf
from posttrain.models.gguf_shapes import paired_rows
from posttrain.models.gguf_splits import comparable_texts, probe_texts, splits_name
from posttrain.models.llama_cpp import LlamaCppReader, why_not
from posttrain.models.load import Policy, load
from posttrain.rollouts.asking import Ask
from posttrain.rollouts.text_ids import plain_text
from posttrain.types import Message

gguf = pytest.importorskip("gguf", reason="needs the extra gguf")

SHARED = Path(__file__).parents[3] / "shared" / "models" / "tinystories-llama-260k"
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 8.0, "original_max_position_embeddings": 64}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 64}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama-tied": ("llama", {"tie_word_embeddings": True, "head_dim": 16}),
    "llama-biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-linear": ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}}),
    "llama3": ("llama", {"rope_parameters": LLAMA3}),
    "mistral": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {}),
    "qwen2-yarn": ("qwen2", {"rope_parameters": YARN}),
    "qwen3": ("qwen3", {"head_dim": 16}),
}
MESSAGES = (Message("system", "be brief"), Message("user", "How many hours has a day?  24, don't you think?\n é 日本"))


def tiny_policy(shape: str, *, bos: bool = False, **changes: Any) -> Policy:
    """A random model of a shape, three rows of its embedding beyond the tokenizer's last token."""
    kind, options = SHAPES[shape]
    tokenizer = tiny.tokenizer(bos=bos)
    config = AutoConfig.for_model(kind, **(tiny._LLAMA | {"vocab_size": len(tokenizer) + 3} | options | changes))
    lm = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in lm.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            # Loud enough that rows in the wrong order or another frequency show.
            parameter.copy_(noise / parameter.shape[-1] ** 0.5 if parameter.ndim > 1 else 1 + 0.3 * noise)
    return Policy(lm.eval(), tokenizer, "tiny")


def written(policy: Policy, folder: Path, kind: str = "F32") -> Path:
    path = folder / f"{kind}.gguf"
    write_gguf(policy, path, kind=kind, name="tiny", stop_ids=stop_token_ids(policy.tokenizer))
    return path


@torch.no_grad()
def logits(model: Any, ids: list[int]) -> torch.Tensor:
    found: torch.Tensor = model(torch.tensor([ids])).logits[0]
    return found


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_read_again_computes_the_same(shape: str, tmp_path: Path) -> None:
    policy = tiny_policy(shape, bos=shape in ("llama", "qwen2"))
    again, stops, _ = read_gguf(written(policy, tmp_path))
    ids = render_prompt(MESSAGES, policy.tokenizer)
    assert render_prompt(MESSAGES, again.tokenizer) == ids
    assert sorted(stops) == sorted(stop_token_ids(policy.tokenizer))
    torch.testing.assert_close(logits(again.model, ids), logits(policy.model, ids), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("does_add", [True, False])
def test_a_first_token_too_many_or_too_few_shows(
    does_add: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp puts it there by a field, which what is read back obeys too: without a template, and with one."""
    monkeypatch.setattr(gguf_tokenizer, "_begins", lambda _: does_add)
    policy = tiny_policy("llama", bos=True)
    policy.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}"
    again, _, _ = read_gguf(written(policy, tmp_path))
    first = [policy.tokenizer.bos_token_id] * does_add
    assert render_prompt(MESSAGES, again.tokenizer) == first + render_prompt(MESSAGES, policy.tokenizer)
    policy.tokenizer.chat_template = None
    again, _, _ = read_gguf(written(policy, tmp_path))
    ask = Ask(messages=MESSAGES)
    plain = PolicyReader("ours", policy, [0]).prompt_ids(ask)
    assert plain[0] == policy.tokenizer.bos_token_id
    assert PolicyReader("theirs", again, [0]).prompt_ids(ask) == plain[1 - does_add :]


def test_rows_of_a_head_stand_in_pairs() -> None:
    rows = torch.arange(12).float().unsqueeze(1) * torch.ones(1, 3)  # two heads of six
    assert paired_rows(rows, 2)[:, 0].tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]


def test_only_llama_shapes_change_places(tmp_path: Path) -> None:
    for shape, is_moved in (("llama", True), ("qwen3", False)):
        policy = tiny_policy(shape)
        found = read_tensor(written(policy, tmp_path), "blk.0.attn_q.weight")
        own = policy.model.model.layers[0].self_attn.q_proj.weight.detach().numpy()
        assert found is not None
        assert sorted(found[:, 0].tolist()) == sorted(own[:, 0].tolist())
        assert np.array_equal(found, own) != is_moved


def test_kinds_of_weights(tmp_path: Path) -> None:
    """Matrices as asked, everything of one dimension in fp32, embedding and head no coarser than 8 bits."""
    policy = tiny_policy("llama", intermediate_size=48)  # 48 is no multiple of a block of 32
    kinds = tensor_kinds(written(policy, tmp_path, "Q4_0"))
    assert kinds["blk.0.attn_q.weight"] == "Q4_0"
    assert kinds["blk.0.ffn_down.weight"] == "F16"  # its rows are 48 long
    assert kinds["token_embd.weight"] == kinds["output.weight"] == "Q8_0"
    assert {kinds["blk.0.attn_norm.weight"], kinds["output_norm.weight"]} == {"F32"}


def test_eight_bits_by_hand(tmp_path: Path) -> None:
    """Q8_0: of each block of 32 the largest magnitude is 127 steps, the step in fp16."""
    row = np.linspace(-1.27, 1.27, 32, dtype=np.float32)
    path = tmp_path / "one.gguf"
    write_file(path, "llama", {"a.list": [1, 2], "a.text": "ä"}, [Tensor("x", (1, 32), "Q8_0", lambda: row[None])])
    step = np.float16(1.27 / 127)
    want = np.round(row / (1.27 / 127)) * np.float32(step)
    found = read_tensor(path, "x")
    assert found is not None
    np.testing.assert_allclose(found[0], want, atol=1e-6)
    assert path.stat().st_size % 32 == 0
    fields = read_fields(path)
    assert (fields["a.list"], fields["a.text"], fields["general.architecture"]) == ([1, 2], "ä", "llama")


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q5_1", "Q4_0"])
def test_fewer_bits_are_further_away(kind: str, tmp_path: Path) -> None:
    policy = tiny_policy("llama", hidden_size=64, intermediate_size=64)
    again, _, _ = read_gguf(written(policy, tmp_path, kind))
    mean = (
        (again.model.model.layers[1].mlp.up_proj.weight - policy.model.model.layers[1].mlp.up_proj.weight).abs().mean()
    )
    bits = {"F16": 11, "BF16": 8, "Q8_0": 8, "Q5_1": 5, "Q4_0": 4}[kind]
    size = policy.model.model.layers[1].mlp.up_proj.weight.abs().mean()
    # Rounding to steps of largest/2^(bits-1) errs by a quarter of a step in the mean; floats by less.
    assert 0 < mean / size < 1.5 * 2.0 ** (1 - bits)


def test_fields_of_a_shape(tmp_path: Path) -> None:
    fields = read_fields(
        written(tiny_policy("qwen3", rope_parameters={"rope_type": "default", "rope_theta": 1e6}), tmp_path)
    )
    assert fields["general.architecture"] == "qwen3"
    assert fields["qwen3.attention.key_length"] == fields["qwen3.rope.dimension_count"] == 16
    assert (fields["qwen3.attention.head_count"], fields["qwen3.attention.head_count_kv"]) == (4, 2)
    assert fields["qwen3.rope.freq_base"] == 1e6
    assert "qwen3.rope.scaling.type" not in fields


def test_a_window_ends_the_context_of_a_mistral(tmp_path: Path) -> None:
    policy = tiny_policy("mistral", sliding_window=100)
    told = write_gguf(policy, tmp_path / "m.gguf", kind="F32", name="m", stop_ids=[0])
    assert any("window, 100" in line for line in told)
    assert read_fields(tmp_path / "m.gguf")["llama.context_length"] == 100


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_act": "gelu"}, "activation 'gelu'"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "rope scaling 'dynamic'"),
        ({"rope_parameters": YARN | {"attention_factor": 2.0}}, "attention_factor of its own"),
    ],
)
def test_what_llama_cpp_computes_otherwise_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    policy = tiny_policy("llama")
    for key, value in changes.items():
        setattr(policy.model.config, key, value)
    with pytest.raises(ModelError, match=said):
        written(policy, tmp_path)
    assert not list(tmp_path.iterdir())


def test_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    policy = Policy(tiny.model("gpt2"), tiny.tokenizer(), "tiny")
    with pytest.raises(ModelError, match=r"type 'gpt2' cannot be written as GGUF; can be: llama"):
        written(policy, tmp_path)
    with pytest.raises(ModelError, match="kind Q4_K cannot be written"):
        written(tiny_policy("llama"), tmp_path, "Q4_K")


def test_tokens_types_and_special_ids(tmp_path: Path) -> None:
    policy = tiny_policy("llama", bos=True)
    policy.tokenizer.add_tokens([AddedToken("<tool>", normalized=False)])
    fields = read_fields(written(policy, tmp_path))
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    named = dict(zip(tokens, types, strict=True))
    assert len(tokens) == policy.model.config.vocab_size
    assert (named["<|im_end|>"], named["<tool>"], named["a"]) == (3, 4, 1)
    assert (tokens[-1], types[-1]) == (f"[PAD{len(tokens) - 1}]", 5)
    assert fields["tokenizer.ggml.pre"] == "gpt-2"
    assert fields["tokenizer.ggml.eos_token_id"] == policy.tokenizer.eos_token_id
    assert tokens[fields["tokenizer.ggml.eot_token_id"]] == "<|im_end|>"
    assert fields["tokenizer.ggml.add_bos_token"] is True  # the template begins with it, so llama.cpp may put it there
    assert fields["tokenizer.chat_template"] == policy.tokenizer.chat_template


def test_a_first_token_that_is_none_is_not_made_up(tmp_path: Path) -> None:
    """llama.cpp takes token 11 for the first where a file names none; a template that asks for it would write it."""
    policy = tiny_policy("llama", bos=False)
    assert "bos_token" in policy.tokenizer.chat_template
    fields = read_fields(written(policy, tmp_path))
    assert "tokenizer.ggml.bos_token_id" not in fields
    assert fields["tokenizer.ggml.add_bos_token"] is False
    from jinja2 import Environment

    text = (
        Environment()
        .from_string(fields["tokenizer.chat_template"])
        .render(messages=[{"role": "user", "content": "a"}], bos_token="ELEVEN", tools=None, add_generation_prompt=True)
    )
    assert "ELEVEN" not in text
    assert text.startswith("<|im_start|>user")


def test_tokens_without_a_row_are_refused(tmp_path: Path) -> None:
    policy = tiny_policy("llama", vocab_size=300)
    with pytest.raises(ModelError, match=r"token \d+ of the tokenizer has no row: the embedding has 300"):
        written(policy, tmp_path)


def test_nothing_that_ends_an_answer_is_refused(tmp_path: Path) -> None:
    policy = tiny_policy("llama")
    policy.tokenizer.eos_token = None
    with pytest.raises(ModelError, match="nothing ends an answer"):
        write_gguf(policy, tmp_path / "x.gguf", kind="F32", name="x", stop_ids=[])


QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def cutter(*parts: Any, whole: bool = False) -> Tokenizer:
    inner = Tokenizer(models.BPE(ignore_merges=whole))
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [*parts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    return inner


def test_names_of_pre_tokenizers_as_their_models_write_them() -> None:
    """The expressions of tokenizer.json of Qwen 2.5, Llama 3, SmolLM, GPT-2 and a Llama 3 that merges all pieces."""
    three = Regex(QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|"))
    split = pre_tokenizers.Split
    assert splits_name(cutter(split(Regex(QWEN), "isolated"))) == "qwen2"
    assert splits_name(cutter(split(three, "isolated"), whole=True)) == "llama-bpe"
    assert splits_name(cutter(split(three, "isolated"))) == "dbrx"
    digits = pre_tokenizers.Digits(individual_digits=True)
    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    assert splits_name(bare) == "smollm"


@pytest.mark.parametrize(
    "strange",
    [
        cutter(pre_tokenizers.Whitespace()),
        cutter(pre_tokenizers.Split(Regex(QWEN.replace(r"\p{N}|", r"\p{N}{1,2}|")), "isolated")),
        cutter(pre_tokenizers.Split(Regex(QWEN), "isolated"), whole=True),
    ],
)
def test_a_cut_that_llama_cpp_does_not_know_is_refused(strange: Tokenizer) -> None:
    with pytest.raises(ModelError, match="no pre-tokenizer that cuts text as this tokenizer does"):
        splits_name(strange)


def test_text_that_is_changed_first_is_refused_or_told(tmp_path: Path) -> None:
    policy = tiny_policy("llama")
    policy.tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(ModelError, match="changes no text before it cuts it"):
        written(policy, tmp_path)
    policy.tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    told = write_gguf(policy, tmp_path / "x.gguf", kind="F32", name="x", stop_ids=[0])
    assert any("NFC" in line for line in told)
    again, ours = read_gguf(tmp_path / "x.gguf")[0].tokenizer.backend_tokenizer, policy.tokenizer.backend_tokenizer
    texts = comparable_texts(ours, 500)
    assert len(texts) == 500
    assert all(again.encode(text).ids == ours.encode(text).ids for text in texts)
    assert again.encode("e\u0301").ids != ours.encode("e\u0301").ids  # why some are left out


def sentence_pieces(merges: list[tuple[str, str]], extra: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """A tokenizer as Llama 2 has it: ▁ for spaces, bytes as a last resort."""
    texts = ["<unk>", "<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256)), *"▁abcde", *("".join(m) for m in merges)]
    texts += extra
    vocabulary = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    inner = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    made.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})
    return made


def with_pieces(tokenizer: PreTrainedTokenizerFast) -> Policy:
    config = AutoConfig.for_model("llama", **(tiny._LLAMA | {"vocab_size": len(tokenizer)}))
    return Policy(AutoModelForCausalLM.from_config(config).eval(), tokenizer, "pieces")


def test_sentence_pieces_come_back_from_their_scores(tmp_path: Path) -> None:
    made = sentence_pieces([("▁", "a"), ("b", "c"), ("▁a", "bc"), ("d", "e")])
    policy = with_pieces(made)
    again, stops, _ = read_gguf(written(policy, tmp_path))
    fields = read_fields(tmp_path / "F32.gguf")
    assert (fields["tokenizer.ggml.model"], fields["tokenizer.ggml.token_type"][:4]) == ("llama", [2, 3, 3, 6])
    assert stops == (made.eos_token_id,)
    for text in ("abc de", " abcde  a", "ä€ bc", "", *probe_texts()[:200]):
        want = made.backend_tokenizer.encode(text, add_special_tokens=False).ids
        assert again.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids == want, text
        assert again.tokenizer.decode(want) == made.decode(want)


def test_merges_that_scores_cannot_say_are_refused(tmp_path: Path) -> None:
    apart = sentence_pieces([("a", "b"), ("b", "c"), ("c", "d"), ("ab", "c"), ("d", "e"), ("a", "bc")])
    with pytest.raises(ModelError, match="stand apart"):
        written(with_pieces(apart), tmp_path)
    lacking = sentence_pieces([("a", "b"), ("b", "c"), ("ab", "c")])  # and a with bc?
    with pytest.raises(ModelError, match="would join 'a' and 'bc'"):
        written(with_pieces(lacking), tmp_path)


def test_what_is_no_gguf_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"no such thing" * 10)
    with pytest.raises(ModelError, match="no GGUF file that can be read"):
        read_fields(tmp_path / "x.gguf")


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(ModelError, match=r"pip install 'posttrain\[gguf\]'"):
        read_fields(tmp_path / "x.gguf")


def test_the_reader_here_agrees_with_transformers(tmp_path: Path) -> None:
    """transformers' own way from a GGUF file to a model, where it needs nothing that it does not read."""
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    policy = tiny_policy("llama")
    path = written(policy, tmp_path)
    config = load_gguf_checkpoint(str(path))["config"]
    assert config["rope_theta"] == 10000.0
    assert (config["hidden_size"], config["num_key_value_heads"], config["head_dim"]) == (32, 2, 8)
    assert {t.name for t in gguf.GGUFReader(path).tensors} == set(tensor_kinds(path))


needs_llama_cpp = pytest.mark.skipif(bool(why_not()), reason=why_not())


@needs_llama_cpp
@pytest.mark.parametrize("shape", SHAPES)
def test_llama_cpp_says_the_same(shape: str, tmp_path: Path) -> None:
    policy = tiny_policy(shape, bos=shape in ("llama", "qwen2"))
    stops = stop_token_ids(policy.tokenizer)
    theirs, ours = LlamaCppReader(written(policy, tmp_path), plain_text), PolicyReader("fp32", policy, stops)
    ask = Ask(messages=MESSAGES)
    ids = ours.prompt_ids(ask)
    assert theirs.prompt_ids(ask) == ids
    assert theirs.stop_ids == frozenset(stops)
    assert all(theirs.text_ids(text) == ours.text_ids(text) for text in probe_texts())
    answer = list(range(5, 105))
    assert token_kls(ours.logps(ids, answer), theirs.logps(ids, answer)).max() < 1e-4
    # Beyond a tie that rounding breaks the greedy answers are the same.
    (one,), (other,) = ours.replies([ids], 6), theirs.replies([ids], 6)
    assert (one.token_ids, one.text) == (other.token_ids, other.text)
    theirs.close()


@needs_llama_cpp
def test_llama_cpp_refuses_what_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(ModelError, match=r"llama\.cpp does not load"):
        LlamaCppReader(tmp_path / "x.gguf", plain_text)


@pytest.mark.skipif(not SHARED.exists(), reason="needs the published models in ../shared/models, beside the checkout")
def test_a_trained_llama_with_sentence_pieces(tmp_path: Path) -> None:
    policy = load(SHARED)
    again, _, _ = read_gguf(written(policy, tmp_path))
    inner, other = policy.tokenizer.backend_tokenizer, again.tokenizer.backend_tokenizer
    for text in (*probe_texts()[:500], "Once upon a time, Lily saw a big dog.\n"):
        assert other.encode(text, add_special_tokens=False).ids == inner.encode(text, add_special_tokens=False).ids
    ids = policy.tokenizer("Once upon a time")["input_ids"]
    torch.testing.assert_close(logits(again.model, ids), logits(policy.model, ids), atol=1e-4, rtol=1e-4)
    assert json.loads((SHARED / "config.json").read_text())["tie_word_embeddings"]
    assert "output.weight" not in tensor_kinds(tmp_path / "F32.gguf")
