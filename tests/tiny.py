"""What the numeric tests share: random two-layer models of every family, a small tokenizer, random trees."""

import contextlib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from posttrain.data.template import install_template
from posttrain.models.attention import install_attention
from posttrain.models.load import Policy
from posttrain.types import Batch, Sample, Segment

torch.set_num_threads(1)

VOCABULARY = 97
_LLAMA = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
_GPT = {"vocab_size": VOCABULARY, "bos_token_id": None, "eos_token_id": None}
_NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
_WINDOW = {"sliding_window": 5}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", _LLAMA),
    "qwen3": ("qwen3", _LLAMA),
    "mistral": ("mistral", _LLAMA | _WINDOW),
    "gemma": ("gemma", _LLAMA),
    "gemma2": (
        "gemma2",
        _LLAMA | _WINDOW | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 8},
    ),
    "gemma3": (
        "gemma3_text",
        _LLAMA | _WINDOW | {"layer_types": ["sliding_attention", "full_attention"], "query_pre_attn_scalar": 8},
    ),
    "gpt2": ("gpt2", _GPT | _NO_DROPOUT | {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}),
    "gpt_neox": (
        "gpt_neox",
        _GPT
        | {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
        | {"max_position_embeddings": 512, "hidden_dropout": 0.0, "attention_dropout": 0.0},
    ),
}


def model(family: str, dtype: torch.dtype = torch.float32, *, seed: int = 0, **changes: Any) -> nn.Module:
    """An unmodified transformers model in eval mode, with weights so large that a wrong mask or position shows."""
    kind, options = FAMILIES[family]
    lm = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(kind, **(options | changes)), attn_implementation="eager"
    )
    generator = torch.Generator().manual_seed(seed)
    centre = 0.0 if family.startswith("gemma") else 1.0  # Gemma's norms multiply by 1 + weight
    with torch.no_grad():
        for name, parameter in lm.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim >= 2:
                parameter.copy_(noise / parameter.shape[-1] ** 0.5)
            else:
                parameter.copy_(0.2 * noise + (0.0 if name.endswith("bias") else centre))
    return lm.to(dtype).eval()


def trees(shape: Sequence[Sequence[tuple[int, int]]], *, seed: int = 0, trained: str = "all") -> list[Sample]:
    """Samples of random tokens and weights; each segment is (number of tokens, parent).

    `trained`: 'all' tokens but the first of a root, or 'half' of them, with some weights negative or above 1.
    """
    rng = random.Random(seed)
    samples = []
    for number, segments in enumerate(shape):
        made = []
        for length, parent in segments:
            ids = tuple(rng.randrange(3, VOCABULARY) for _ in range(length))
            weights = [rng.uniform(0.2, 1.5) if trained == "all" or rng.random() < 0.5 else 0.0 for _ in ids]
            if parent < 0:
                weights[0] = 0.0
            made.append(Segment(ids, tuple(weights), parent))
        samples.append(Sample(tuple(made), f"tree {number}"))
    return samples


class Wide(TorchFunctionMode):
    """fp32 becomes fp64 wherever it is asked for. transformers writes `.float()` into norms, rotary embeddings and
    softmax, so that an fp64 model would round to fp32 all the same and could not serve as an oracle."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        func = torch.Tensor.double if func is torch.Tensor.float else func
        args = tuple(torch.float64 if value is torch.float32 else value for value in args)
        kwargs = {k: torch.float64 if value is torch.float32 else value for k, value in (kwargs or {}).items()}
        return func(*args, **kwargs)


def exactly(dtype: torch.dtype) -> Any:
    """Nothing for fp32; for fp64 a context without any rounding to fp32."""
    return Wide() if dtype == torch.float64 else contextlib.nullcontext()


def padded_logps(lm: nn.Module, samples: Sequence[Sample]) -> Tensor:
    """The oracle: every root-to-leaf path alone, as one row of a right-padded batch through the unmodified model,
    full logits, log-softmax. Values in the order of `pack`; what several paths share is read from the first."""
    paths: list[list[int]] = []
    wanted: dict[tuple[int, int, int], tuple[int, int]] = {}  # (tree, segment, token) -> (path, token of the path)
    for tree, sample in enumerate(samples):
        inner = {segment.parent for segment in sample.segments}
        for leaf in (i for i in range(len(sample.segments)) if i not in inner):
            line = [leaf]
            while sample.segments[line[0]].parent >= 0:
                line.insert(0, sample.segments[line[0]].parent)
            tokens: list[int] = []
            for index in line:
                for offset in range(len(sample.segments[index].token_ids)):
                    wanted.setdefault((tree, index, offset), (len(paths), len(tokens) + offset))
                tokens.extend(sample.segments[index].token_ids)
            paths.append(tokens)
    longest = max(map(len, paths))
    ids = torch.tensor([path + [0] * (longest - len(path)) for path in paths])
    mask = torch.tensor([[1] * len(path) + [0] * (longest - len(path)) for path in paths])
    logp = torch.log_softmax(lm(input_ids=ids, attention_mask=mask, use_cache=False).logits, -1)
    rows = [
        (*wanted[tree, index, offset], segment.token_ids[offset])
        for tree, sample in enumerate(samples)
        for index, segment in enumerate(sample.segments)
        for offset, weight in enumerate(segment.weights)
        if weight
    ]
    path_N, place_N, target_N = torch.tensor(rows).unbind(1)
    return logp[path_N, place_N - 1, target_N]


def gradients(lm: nn.Module, logp_N: Tensor, batch: Batch) -> dict[str, Tensor]:
    """Gradients of a weighted sum of log-probabilities for every parameter that takes part."""
    lm.zero_grad(set_to_none=True)
    (logp_N * batch.weight_N).sum().backward()
    return {name: p.grad.clone() for name, p in lm.named_parameters() if p.grad is not None}


def worst(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest error of any parameter's gradient, relative to that gradient's largest entry."""
    assert found.keys() == expected.keys()
    assert expected
    return max(float((found[n] - expected[n]).abs().max() / expected[n].abs().max().clamp(min=1e-3)) for n in expected)


def tokenizer(*, trim_offsets: bool = False, template: bool = True, bos: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 400 tokens, trained here, with the shipped ChatML template."""
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    names = ["<|endoftext|>", "<|begin|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=names,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    text = (
        "The capital of France is Paris.\n\nuser assistant system\n\n\nHow many hours has a day? It has 24 hours.\n\n"
    )
    inner.train_from_iterator([text] * 20, trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token=names[0], pad_token=names[0], bos_token=names[1] if bos else None
    )
    if template:
        install_template(made, "chatml")
    return made


class Lines:
    """A log that keeps its lines, without what differs between two equal runs."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def write(self, line: dict[str, Any]) -> None:
        self.lines.append({k: v for k, v in line.items() if k not in ("tokens_per_s", "memory_mb", "elapsed_s")})

    def rewind(self, step: int) -> None:
        self.lines = [line for line in self.lines if line["step"] <= step]

    def column(self, name: str) -> list[Any]:
        return [line[name] for line in self.lines if name in line]


def save_base(folder: Path, **changes: Any) -> Path:
    """A Llama folder with the small tokenizer, as `load` reads it."""
    made = tokenizer()
    lm = model("llama", **({"vocab_size": len(made)} | changes))
    lm.save_pretrained(folder)
    made.save_pretrained(folder)
    return folder


def policy(family: str = "llama", dtype: torch.dtype = torch.float32, **changes: Any) -> Policy:
    """A tiny model that is ready to train on packed rows, and a tokenizer."""
    lm = model(family, dtype, **changes)
    install_attention(lm)
    return Policy(lm, tokenizer(), "tiny")
