"""What this machine can do, whether a model can be trained here exactly, and what its folder says of itself."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from posttrain import allocator
from posttrain.data.batch import pack
from posttrain.data.findings import Finding
from posttrain.data.template import install_template, stop_token_ids
from posttrain.models.attention import install_attention, ordinary_attention
from posttrain.models.fused import fuse
from posttrain.models.load import Policy, load_tokenizer
from posttrain.models.logprobs import causal_lm, token_logps
from posttrain.models.precision import has_fast_bf16
from posttrain.recipes.doctor_config import DoctorConfig
from posttrain.recipes.policy import resolve_model
from posttrain.types import Sample, Segment

__all__ = ["check_model", "fit_to_model", "generation_findings", "load_tokenizer", "machine"]

TOLERANCE = 1e-3  # nats; fp32 through two different attention kernels


def machine() -> Iterator[tuple[str, str]]:
    """What the machine offers, as (name, words)."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    yield "torch", f"{torch.__version__}, {torch.get_num_threads()} threads, GPU: {gpu}"
    yield "bfloat16", "fast here, on by default" if has_fast_bf16(device) else "slow here, off by default"
    if os.environ.get(allocator.MARK) == "tcmalloc":
        said = "tcmalloc"
    elif allocator.find_tcmalloc() is None:
        said = "glibc; training on CPU is faster with tcmalloc (Debian: apt install libtcmalloc-minimal4)"
    else:
        said = "as set from outside"
    yield "allocator", said


def check_model(policy: Policy) -> list[Finding]:
    """Does packed training compute what the model computes, and can its template be trained on?"""
    return [_packed(policy), _template(policy)]


def _packed(policy: Policy) -> Finding:
    """Log-probabilities of two packed samples against the model's own logits, one at a time."""
    ids = [tuple(range(3, 19)), tuple(range(5, 12))]
    install_attention(policy.model)
    fused = fuse(policy.model)
    batch = pack([Sample((Segment(row, (0.0,) + (1.0,) * (len(row) - 1)),)) for row in ids]).to(policy.device)
    with torch.no_grad():
        packed = token_logps(policy.model, batch)
        with ordinary_attention(causal_lm(policy.model)):
            alone = torch.cat([_alone(policy, row) for row in ids])
    worst = float((packed - alone).abs().max())
    how = "with fused modules" if fused else "with the model's own modules"
    said = f"packed and single log-probabilities differ by {worst:.1e} nats at most, {how}"
    if worst < TOLERANCE:
        return Finding("pass", "packed_rows", said)
    return Finding("refuse", "packed_rows", said, "train this model with packing off, and report its architecture.")


def _alone(policy: Policy, row: tuple[int, ...]) -> torch.Tensor:
    ids = torch.tensor([row], device=policy.device)
    logp = policy.model(input_ids=ids).logits[0].float().log_softmax(-1)
    return logp[:-1].gather(1, ids[0, 1:, None])[:, 0]


def _template(policy: Policy) -> Finding:
    if policy.tokenizer.chat_template is None:
        install_template(policy.tokenizer, "chatml")
        return Finding("pass", "template", "none of its own (a base model); posttrain sft gives it chatml")
    stops = " or ".join(policy.tokenizer.convert_ids_to_tokens(stop_token_ids(policy.tokenizer)))
    return Finding("pass", "template", f"turns can be told apart; an answer ends with {stops}")


def fit_to_model(config: DoctorConfig) -> tuple[int, str]:
    """The length that rows are cut at, and what to say where the model takes less than was asked."""
    limit = _read_json(config, "config.json").get("max_position_embeddings") or config.max_length
    if config.max_length <= limit:
        return config.max_length, ""
    return limit, f"max_length {config.max_length:,} is over the model's {limit:,} positions: {limit:,} is used"


def generation_findings(config: DoctorConfig, tokenizer: Any) -> list[Finding]:
    """Does the model's generation_config stop where its template's answers end?"""
    generation = _read_json(config, "generation_config.json")
    if not generation or config.chat_template:  # another template is new to the model, and training writes its stops
        return []
    listed = generation.get("eos_token_id")
    known = set(listed if isinstance(listed, list) else [listed])
    ends = stop_token_ids(tokenizer)[:1]
    names = ", ".join(tokenizer.convert_ids_to_tokens(ends))
    if known.issuperset(ends):
        return [Finding("pass", "generation_stop", f"generation_config.json stops at {names}, as the template does")]
    message = f"the template ends answers with {names}, but generation_config.json does not stop there"
    mend = "posttrain writes it into what it trains; add its id to eos_token_id for use of this model elsewhere."
    return [Finding("warn", "generation_stop", message, mend)]


def _read_json(config: DoctorConfig, name: str) -> dict[str, Any]:
    """A file of the model's folder; nothing where the model is a name, or the file is not there."""
    path = Path(resolve_model(config.model)) / name
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found if isinstance(found, dict) else {}
