"""A GGUF file to a model that computes here, by what the file says and nothing else.

Weights come through transformers' own reader, which knows llama.cpp's names and order of rows by itself; shape, rope
and tokenizer are built from the fields by llama.cpp's rules. So nothing that the writer believed of them is taken over.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from posttrain.errors import ModelError
from posttrain.models.gguf import read_fields, read_tensor, tensor_kinds
from posttrain.models.gguf_pieces import pieces
from posttrain.models.gguf_splits import SPLITS
from posttrain.models.load import Policy

STOPS = ("eos", "eot", "eom")
SHAPE = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}


def read_gguf(path: Path) -> tuple[Policy, tuple[int, ...], tuple[str, ...]]:
    """The model in fp32 and its tokenizer, the tokens that end an answer, and notes on how it was read. ModelError for
    a file that llama.cpp would not load either, or a shape that is not known here."""
    fields = read_fields(path)
    try:
        model = _model(path, fields).to("cuda" if torch.cuda.is_available() else "cpu")
        tokenizer = _tokenizer(fields)
        stops = [fields.get(f"tokenizer.ggml.{each}_token_id") for each in STOPS]
    except KeyError as error:
        raise ModelError(f"{path}: the field {error} is missing.") from error
    return Policy(model, tokenizer, str(path)), tuple(int(each) for each in stops if each is not None), ()


def _model(path: Path, fields: Mapping[str, Any]) -> Any:
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    kind = fields["general.architecture"]
    if kind not in ("llama", "qwen2", "qwen3"):
        raise ModelError(f"{path}: a model of llama.cpp's architecture {kind!r} is not read here.")
    shape = {ours: fields[f"{kind}.{theirs}"] for theirs, ours in SHAPE.items()}
    names = set(tensor_kinds(path))
    config = AutoConfig.for_model(
        kind,
        **shape,
        vocab_size=len(fields["tokenizer.ggml.tokens"]),
        rope_parameters=_rope(kind, fields),
        tie_word_embeddings="output.weight" not in names,
        attention_bias="blk.0.attn_q.bias" in names,
        mlp_bias="blk.0.ffn_down.bias" in names,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(config)
    weights = _quietly(load_gguf_checkpoint, path, return_tensors=True, model_to_load=skeleton)["tensors"]
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    _fill(model, weights, path)
    return _scaled(model, path).eval()


def _fill(model: Any, weights: Mapping[str, torch.Tensor], path: Path) -> None:
    weights = {name: tensor.float() for name, tensor in weights.items() if "rope_freqs" not in name}
    wanted = set(model.state_dict())
    if model.config.tie_word_embeddings:
        wanted.discard("lm_head.weight")
    if missing := sorted(wanted - set(weights)):
        raise ModelError(f"{path}: {len(missing)} weights are missing, as {missing[0]}.")
    if unknown := sorted(set(weights) - wanted):
        raise ModelError(f"{path}: {len(unknown)} weights are none of this shape, as {unknown[0]}.")
    model.load_state_dict(weights, strict=False)
    model.tie_weights()


def _scaled(model: Any, path: Path) -> Any:
    """llama.cpp divides each frequency by its factor, where the file has them (Llama 3's scaling)."""
    factors = read_tensor(path, "rope_freqs.weight")
    if factors is not None:
        rotary = model.model.rotary_emb
        rotary.inv_freq = rotary.inv_freq / torch.from_numpy(factors.copy()).to(rotary.inv_freq)
        rotary.original_inv_freq = rotary.inv_freq
    return model


def _rope(kind: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """As llama.cpp takes it: no field, no scaling; a base of 10,000."""
    found: dict[str, Any] = {"rope_theta": float(fields.get(f"{kind}.rope.freq_base", 10000.0))}
    scaling = fields.get(f"{kind}.rope.scaling.type", "none")
    found["rope_type"] = "default" if scaling == "none" else scaling
    if scaling in ("linear", "yarn"):
        found["factor"] = float(fields[f"{kind}.rope.scaling.factor"])
    if scaling == "yarn":
        found["original_max_position_embeddings"] = fields[f"{kind}.rope.scaling.original_context_length"]
        found["beta_fast"] = float(fields.get(f"{kind}.rope.scaling.yarn_beta_fast", 32.0))
        found["beta_slow"] = float(fields.get(f"{kind}.rope.scaling.yarn_beta_slow", 1.0))
    return found


def _tokenizer(fields: Mapping[str, Any]) -> Any:
    words = {key.removeprefix("tokenizer.ggml."): value for key, value in fields.items()}
    inner = pieces(words) if words["model"] == "llama" else _byte_level(words)
    _add_controls(inner, words)
    named = {"bos": "bos_token", "eos": "eos_token", "padding": "pad_token", "unknown": "unk_token"}
    special = {
        ours: words["tokens"][words[f"{theirs}_token_id"]]
        for theirs, ours in named.items()
        if words.get(f"{theirs}_token_id") is not None
    }
    made = PreTrainedTokenizerFast(tokenizer_object=inner, clean_up_tokenization_spaces=False, **special)
    made.chat_template = fields.get("tokenizer.chat_template")
    _begin(made, does_add=bool(words.get("add_bos_token", words["model"] == "llama")))
    return made


def _begin(tokenizer: Any, *, does_add: bool) -> None:
    """llama.cpp puts a first token before every prompt where the file says so, and takes away the template's own."""
    if tokenizer.chat_template is None:
        if not does_add:
            tokenizer.bos_token = None  # a prompt begins with it otherwise
    elif does_add and tokenizer.bos_token:
        asked = [{"role": "user", "content": "a"}]
        text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        if not text.startswith(tokenizer.bos_token):
            tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template


def _add_controls(inner: Tokenizer, words: Mapping[str, Any]) -> None:
    """Tokens that are taken whole wherever they stand: control tokens (3), and those of users (4)."""
    for number, (text, kind) in enumerate(zip(words["tokens"], words["token_type"], strict=True)):
        if kind == 3:
            inner.add_special_tokens([AddedToken(text, special=True, normalized=False)])
        elif kind == 4:
            inner.add_tokens([AddedToken(text, special=False, normalized=False)])
        if kind in (3, 4) and inner.token_to_id(text) != number:
            raise ModelError(f"token {number} ({text!r}) cannot be told from another.")


def _byte_level(words: Mapping[str, Any]) -> Tokenizer:
    name = words.get("pre", "default")
    if name not in SPLITS:
        raise ModelError(f"the pre-tokenizer {name!r} of the file is not known here.")
    vocabulary = {text: number for number, text in enumerate(words["tokens"])}
    merges = [(left, right) for left, _, right in (_cut(pair) for pair in words["merges"])]
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=SPLITS[name].whole))
    inner.pre_tokenizer = SPLITS[name].build()
    inner.decoder = decoders.ByteLevel()
    return inner


def _cut(pair: str) -> tuple[str, str, str]:
    """At the first space that is not the first character, as llama.cpp does."""
    place = pair.find(" ", 1)
    return pair[:place], " ", pair[place + 1 :]


def _quietly(load: Any, path: Path, **options: Any) -> Any:
    """transformers shows a bar of its own."""
    from transformers import modeling_gguf_pytorch_utils as module

    bar = module.tqdm
    module.tqdm = lambda items, **_: items
    try:
        return load(str(path), **options)
    finally:
        module.tqdm = bar
