"""A model and its tokenizer to one GGUF file."""

from collections.abc import Sequence
from pathlib import Path

from posttrain.errors import ModelError
from posttrain.models.gguf import FILE_TYPES, KINDS, write_file
from posttrain.models.gguf_shapes import architecture_of, file_fields, shape_fields, shape_tensors
from posttrain.models.gguf_tokenizer import tokenizer_fields
from posttrain.models.load import Policy


def write_gguf(policy: Policy, path: Path, *, kind: str, name: str, stop_ids: Sequence[int]) -> list[str]:
    """Write a model (in one piece, adapters merged) with weights of `kind`; returns what should be told, a line each.
    ModelError, before anything is written, for what llama.cpp would read as something else."""
    if kind not in KINDS:
        raise ModelError(f"GGUF weights of kind {kind} cannot be written; can be: {', '.join(KINDS)}.")
    config = policy.model.config
    architecture = architecture_of(config)
    fields, told = shape_fields(config)
    rows = policy.model.get_input_embeddings().weight.shape[0]
    fields[f"{architecture}.vocab_size"] = int(rows)
    words, about_words = tokenizer_fields(policy.tokenizer, rows, stop_ids)
    tensors, about_weights = shape_tensors(policy.model, kind)
    write_file(path, architecture, file_fields(fields | words, FILE_TYPES[kind], name), tensors)
    return [*told, *about_words, *about_weights]
