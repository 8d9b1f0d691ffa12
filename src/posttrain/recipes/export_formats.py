"""What `posttrain export` writes: a line a format. Another format is one more line: how it is written, how it is read
again from the disk, and how far it may be from the model in fp32."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from posttrain.models.gguf_model import write_gguf
from posttrain.models.gguf_read import read_gguf
from posttrain.recipes.export_folders import name_base, read_folder, write_adapter, write_folder
from posttrain.recipes.export_types import Budget, Exported, Format, Readback


def _gguf(kind: str, source: Exported, out: Path) -> list[str]:
    return write_gguf(source.policy, out, kind=kind, name=source.name, stop_ids=source.stop_ids)


def _read_gguf(place: Path) -> Readback:
    policy, stop_ids, notes = read_gguf(place)
    return Readback(policy, stop_ids, notes)


def _gguf_format(kind: str, budget: Budget, says: str) -> Format:
    return Format(partial(_gguf, kind), _read_gguf, f"{{name}}-{kind}.gguf", budget, says, runtime=True)


def _quantised(kind: str, source: Exported, out: Path) -> list[str]:
    from posttrain.recipes.export_quantised import write_quantised

    return write_quantised(kind, source, out)


def _read_quantised(place: Path) -> Readback:
    from posttrain.recipes.export_quantised import read_quantised

    return read_quantised(place)


def _quantised_format(kind: str, budget: Budget, says: str) -> Format:
    return Format(partial(_quantised, kind), _read_quantised, kind, budget, says)


FORMATS: Mapping[str, Format] = {
    "hf": Format(
        write_folder,
        read_folder,
        "hf",
        Budget(0.01, 0.05, 0.02, 0.02, 0.006),
        "a Hugging Face folder, adapters merged in fp32",
    ),
    "adapter": Format(
        write_adapter,
        read_folder,
        "adapter",
        Budget(0.001, 0.02, 0.01, 1e-6, 1e-6),
        "the PEFT folder of an adapter",
        finish=name_base,
    ),
    "gguf-f32": _gguf_format("F32", Budget(0.001, 0.02, 0.01, 1e-6, 1e-6), "GGUF for llama.cpp, 32 bits a weight"),
    "gguf-f16": _gguf_format("F16", Budget(0.001, 0.02, 0.01, 0.01, 0.001), "GGUF, 16 bits"),
    "gguf-bf16": _gguf_format("BF16", Budget(0.01, 0.05, 0.02, 0.02, 0.006), "GGUF, 16 bits, the range of fp32"),
    "gguf-q8_0": _gguf_format("Q8_0", Budget(0.02, 0.05, 0.02, 0.3, 0.02), "GGUF, 8.5 bits"),
    "gguf-q5_1": _gguf_format("Q5_1", Budget(0.05, 0.15, 0.05, 0.4, 0.03), "GGUF, 6 bits"),
    "gguf-q5_0": _gguf_format("Q5_0", Budget(0.05, 0.15, 0.05, 0.4, 0.03), "GGUF, 5.5 bits"),
    "gguf-q4_1": _gguf_format("Q4_1", Budget(0.15, 0.3, 0.1, 0.5, 0.05), "GGUF, 5 bits"),
    "gguf-q4_0": _gguf_format("Q4_0", Budget(0.15, 0.3, 0.1, 0.5, 0.05), "GGUF, 4.5 bits"),
    "int8": _quantised_format("int8", Budget(0.02, 0.05, 0.02, 0.3, 0.02), "a folder with weights of 8 bits (torchao)"),
    "int4": _quantised_format(
        "int4", Budget(0.15, 0.3, 0.1, 0.5, 0.05), "a folder with weights of 4.5 bits (compressed-tensors)"
    ),
    "nf4": _quantised_format(
        "nf4", Budget(0.15, 0.3, 0.1, 0.5, 0.05), "a folder with weights of 4.1 bits (bitsandbytes)"
    ),
}
