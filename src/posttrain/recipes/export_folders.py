"""Exports that are folders: a merged Hugging Face folder, and the folder of an adapter."""

import copy
import json
import shutil
from pathlib import Path

from posttrain.data.whole_files import write_text
from posttrain.errors import ModelError
from posttrain.models.load import Policy, base_of, load, save
from posttrain.recipes.export_sources import ExportSource
from posttrain.recipes.export_types import Readback
from posttrain.recipes.suite_kept import model_digest

ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json", "generation_config.json")
NOTE = "base.json"


def write_folder(source: ExportSource, out: Path) -> list[str]:
    """A plain model folder: merged in fp32 first, then rounded once to the dtype asked for."""
    model = copy.deepcopy(source.policy.model).to(source.dtype)
    save(Policy(model, source.policy.tokenizer, source.name), out, stop_token_ids=list(source.stop_ids))
    base = "what its base stood for in four bits" if source.is_held else "its plain base"
    note = f"the adapter was merged in fp32 into {base}, then rounded to {source.config.dtype}"
    return [note] if source.is_adapter else []


def read_folder(place: Path) -> Readback:
    """The folder as `load` reads it, and the stop tokens of its generation_config.json alone: what other tools use."""
    policy = load(place)
    settings = place / "generation_config.json"
    stops = json.loads(settings.read_text(encoding="utf-8")).get("eos_token_id") if settings.is_file() else None
    found = stops if isinstance(stops, list) else [] if stops is None else [stops]
    return Readback(policy, tuple(map(int, found)))


def write_adapter(source: ExportSource, out: Path) -> list[str]:
    """The adapter's own weights as they are, its tokenizer and stop tokens, and base.json: which weights of which base
    it is for. ModelError where the model is no adapter."""
    if not source.is_adapter:
        raise ModelError(f"{source.config.model}: this is no adapter; leave the format adapter out.")
    folder = Path(source.folder)
    out.mkdir(parents=True)
    for name in ADAPTER_FILES:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, out / name)
    source.policy.tokenizer.save_pretrained(out)
    if source.stop_ids:
        settings = copy.deepcopy(source.policy.model.generation_config)
        settings.eos_token_id, settings.pad_token_id = list(source.stop_ids), source.policy.tokenizer.pad_token_id
        settings.save_pretrained(out)
    base = base_of(folder)
    write_text(out / NOTE, json.dumps({"base": source.config.base_name or base, **model_digest(base)}, indent=2) + "\n")
    if Path(base).is_dir() and not source.config.base_name:
        return [
            f"its base is named by a folder of this machine, {base}: give --base-name OWNER/NAME to use it elsewhere"
        ]
    return []


def name_base(source: ExportSource, out: Path) -> None:
    """Put the name of the base that was asked for into a checked adapter. (It is checked on the base that is here.)"""
    if not source.config.base_name:
        return
    place = out / "adapter_config.json"
    settings = json.loads(place.read_text(encoding="utf-8"))
    settings["base_model_name_or_path"] = source.config.base_name
    write_text(place, json.dumps(settings, indent=2) + "\n")
