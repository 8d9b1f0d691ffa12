"""`posttrain doctor`: what this machine can do, and whether a model can be trained here exactly."""

import os
from collections.abc import Callable

import torch
from rich.console import Console

from posttrain import allocator
from posttrain.data.batch import pack
from posttrain.data.template import install_template, stop_token_ids
from posttrain.models.attention import install_attention, ordinary_attention
from posttrain.models.fused import fuse
from posttrain.models.load import Policy, load
from posttrain.models.logprobs import causal_lm, token_logps
from posttrain.models.precision import has_fast_bf16
from posttrain.recipes.doctor_config import DoctorConfig
from posttrain.recipes.policy import resolve_model
from posttrain.types import Sample, Segment

TOLERANCE = 1e-3  # nats; fp32 through two different attention kernels


def run(config: DoctorConfig) -> int:
    """Print one line a check; exit code 0 where all hold, 1 otherwise."""
    console = Console(highlight=False, soft_wrap=True)
    _machine(console)
    policy = load(resolve_model(config.model))
    console.print(f"model        {config.model}: {policy.num_parameters:,} parameters, {type(policy.model).__name__}")
    checks: list[tuple[str, Callable[[], tuple[bool, str]]]] = [
        ("packed rows", lambda: _packed(policy)),
        ("template", lambda: _template(policy)),
    ]
    bad = 0
    for name, check in checks:
        good, said = check()
        bad += not good
        console.print(f"{name:<12} {'ok' if good else 'NOT OK'}: {said}")
    return 1 if bad else 0


def _machine(console: Console) -> None:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    console.print(f"torch        {torch.__version__}, {torch.get_num_threads()} threads, GPU: {gpu}")
    console.print(
        f"bfloat16     {'fast here, on by default' if has_fast_bf16(device) else 'slow here, off by default'}"
    )
    if os.environ.get(allocator.MARK) == "tcmalloc":
        said = "tcmalloc"
    elif allocator.find_tcmalloc() is None:
        said = "glibc; training on CPU is faster with tcmalloc (Debian: apt install libtcmalloc-minimal4)"
    else:
        said = "as set from outside"
    console.print(f"allocator    {said}")


def _packed(policy: Policy) -> tuple[bool, str]:
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
    return worst < TOLERANCE, f"packed and single log-probabilities differ by {worst:.1e} nats at most, {how}"


def _alone(policy: Policy, row: tuple[int, ...]) -> torch.Tensor:
    ids = torch.tensor([row], device=policy.device)
    logp = policy.model(input_ids=ids).logits[0].float().log_softmax(-1)
    return logp[:-1].gather(1, ids[0, 1:, None])[:, 0]


def _template(policy: Policy) -> tuple[bool, str]:
    if policy.tokenizer.chat_template is None:
        install_template(policy.tokenizer, "chatml")
        return True, "none of its own (a base model); posttrain sft gives it chatml"
    stops = [policy.tokenizer.convert_ids_to_tokens(token) for token in stop_token_ids(policy.tokenizer)]
    return True, f"turns can be told apart; an answer ends with {' or '.join(stops)}"
