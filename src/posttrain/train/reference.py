"""Log-probabilities of the model that training begins with: computed once, before the first step, and kept."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from posttrain import models
from posttrain.data.batch import pack
from posttrain.data.made import MadeSamples
from posttrain.data.packing import plan_rows
from posttrain.data.store import TokenStore
from posttrain.errors import PosttrainError
from posttrain.models.copies import adapter_off
from posttrain.models.load import Policy
from posttrain.models.logprobs import causal_lm, token_logps
from posttrain.train import distributed
from posttrain.train.sharding import settle, whole
from posttrain.types import Sample

Array = np.ndarray[Any, Any]
NEWS_S = 10.0


class Referenced(MadeSamples):
    """Samples that carry the reference's log-probabilities of their trained tokens. `logp_N`: of all of them, laid end
    to end in the order of the samples."""

    def __init__(self, samples: Sequence[Sample], trained_S: Array, length_S: Array, logp_N: Array) -> None:
        self.samples, self.trained_S, self.length_S, self._logp_N = samples, trained_S, length_S, logp_N
        self._ends_S = np.cumsum(trained_S, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.trained_S)

    def make(self, index: int) -> Sample:
        """Sample number `index`."""
        end = int(self._ends_S[index])
        logps = self._logp_N[end - int(self.trained_S[index]) : end]
        return replace(self.samples[index], reference_logps=tuple(logps.tolist()))


def with_reference(
    policy: Policy,
    samples: Sequence[Sample],
    *,
    row_length: int,
    bf16: bool,
    folder: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Referenced:
    """Samples with their log-probabilities under the policy as it stands; under its base, where it has an adapter.

    They are kept in `folder` under a hash of the weights, the tokens and the precision, and found there again.
    """
    lengths, trained = _sizes(samples)
    path = None if folder is None else folder / f"{_key(policy, samples, bf16)}.npy"
    found = None if path is None else _found(path, int(trained.sum()))
    if not all(distributed.gather(found is not None)):
        found = None
    if found is not None and path is not None:
        say(f"reference log-probabilities of {len(samples):,} samples found in {path.parent}")
        return Referenced(samples, trained, lengths, found)
    logp_N = _compute(policy, samples, lengths, trained, row_length, bf16, _News(len(samples), say))
    if path is not None:
        distributed.by_main(lambda: _keep(path, logp_N))
    return Referenced(samples, trained, lengths, logp_N)


@torch.no_grad()
def _compute(
    policy: Policy,
    samples: Sequence[Sample],
    lengths: Array,
    trained: Array,
    row_length: int,
    bf16: bool,
    news: "_News",
) -> Array:
    ends = np.cumsum(trained, dtype=np.int64)
    logp_N = np.zeros(int(ends[-1]) if len(ends) else 0, np.float32)
    was_training = policy.model.training
    policy.model.eval()
    with adapter_off(policy.model), torch.autocast(policy.device.type, torch.bfloat16, enabled=bf16):
        rows = plan_rows(np.minimum(lengths, row_length).tolist(), row_length, seed=0)
        for number, is_filler in distributed.share([int(lengths[row].sum()) for row in rows]):
            row = rows[number]
            batch = pack([samples[index] for index in row]).to(policy.device)
            found = token_logps(policy.model, batch).float().cpu().numpy()
            if is_filler:
                continue
            start = 0
            for index in row:
                logp_N[ends[index] - trained[index] : ends[index]] = found[start : start + trained[index]]
                start += int(trained[index])
            news.add(len(row) * distributed.world())
    policy.model.train(was_training)
    return distributed.summed(logp_N)


class _News:
    """A word from time to time on how far a long pass is."""

    def __init__(self, total: int, say: Callable[[str], None]) -> None:
        self.total, self.done, self.say = total, 0, say
        self._last = time.perf_counter()

    def add(self, count: int) -> None:
        self.done += count
        if time.perf_counter() - self._last >= NEWS_S:
            self._last = time.perf_counter()
            self.say(f"asked the reference for {self.done:,} of {self.total:,} samples")


def _found(path: Path, count: int) -> Array | None:
    """What was kept there; None where nothing was, or not all of it."""
    try:
        kept: Array = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    return kept if kept.shape == (count,) else None


def _sizes(samples: Sequence[Sample]) -> tuple[Array, Array]:
    length_S, trained_S = getattr(samples, "length_S", None), getattr(samples, "trained_S", None)
    if length_S is not None and trained_S is not None:
        return length_S, trained_S
    sizes = np.array([(sample.num_tokens, sample.num_trained) for sample in samples], np.int64).reshape(-1, 2)
    return sizes[:, 0], sizes[:, 1]


def _key(policy: Policy, samples: Sequence[Sample], bf16: bool) -> str:
    """A hash of all that decides the figures: weights and configuration of the base, tokens, precision, the code. All
    processes must call it, and it is the same in each."""
    settle(policy.model)
    lm = causal_lm(policy.model)
    config = {name: value for name, value in lm.config.to_dict().items() if name not in ("_name_or_path", "dtype")}
    made = {"bf16": bf16, "device": policy.device.type, "config": config, "code": _code()}
    made |= {name: version(name) for name in ("torch", "transformers")}
    digest = hashlib.blake2b(json.dumps(made, sort_keys=True, default=str).encode(), digest_size=16)
    for name, parameter in lm.named_parameters():
        if "lora_" not in name:
            plain = name.replace(".base_layer", "")  # an adapter's wrapping changes no weight
            digest.update(f"{plain} {tuple(parameter.shape)} {parameter.dtype}".encode())
            digest.update(whole(parameter).detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    for part in _content(samples):
        digest.update(part)
    return digest.hexdigest()


def _content(samples: Sequence[Sample]) -> Iterator[bytes]:
    """What tells one sequence of samples from another: of a store its own digests."""
    own = getattr(samples, "content", None)
    if isinstance(samples, TokenStore):
        yield from (array.tobytes() for array in (samples.digest_S, samples.length_S, samples.trained_S))
    elif own is not None:
        yield from own()
    else:
        for sample in samples:
            for segment in sample.segments:
                yield np.asarray(segment.token_ids, np.int64).tobytes()
                yield np.asarray(segment.weights, np.float64).tobytes() + b"|"


@cache
def _code() -> str:
    """A hash of the code that turns tokens into log-probabilities."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(Path(models.__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _keep(path: Path, logp_N: Array) -> None:
    """Whole or not at all."""
    partial = path.with_name(f"{path.stem}.{os.getpid()}.tmp.npy")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(partial, logp_N)
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise PosttrainError(
            f"{path.parent}: reference log-probabilities cannot be kept there ({error.strerror or error}); make room, "
            "or name another folder in the environment variable POSTTRAIN_CACHE."
        ) from error
