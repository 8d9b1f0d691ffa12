"""Exports with weights of eight or four bits: a Hugging Face folder each."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from posttrain.errors import ModelError
from posttrain.models.dequantised import read_by_transformers
from posttrain.models.load import Policy, load, load_tokenizer
from posttrain.models.quantised import Quantised, write_int4, write_int8, write_nf4
from posttrain.recipes.export_types import Readback

WRITERS: dict[str, Callable[..., Quantised]] = {"int8": write_int8, "int4": write_int4, "nf4": write_nf4}


def write_quantised(kind: str, source: Any, out: Path) -> list[str]:
    """Write the source (an ExportSource) with weights in `kind`; the rest is in bfloat16."""
    return WRITERS[kind](source.policy, out, dtype=torch.bfloat16, stop_token_ids=source.stop_ids).lines()


def read_quantised(place: Path) -> Readback:
    """The folder as transformers reads it with the library of its format, and the stop tokens that it names; by our
    own reader where that library is not installed, which is told."""
    notes: tuple[str, ...] = ()
    try:
        policy = Policy(read_by_transformers(place), load_tokenizer(place), str(place))
    except ModelError as error:
        policy, notes = load(place), (f"read by posttrain alone: {error}",)
    stops = json.loads((place / "generation_config.json").read_text(encoding="utf-8")).get("eos_token_id")
    found = stops if isinstance(stops, list) else [] if stops is None else [stops]
    return Readback(policy, tuple(map(int, found)), notes)
