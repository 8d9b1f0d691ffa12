"""From the `model` of a recipe to its sizes: a folder, the config.json of a Hub name, or a published shape."""

import difflib
import json
from dataclasses import replace
from pathlib import Path

from posttrain.errors import ModelError
from posttrain.planning.shapes import NAMED, Shape, read_shape
from posttrain.pocket.base import base_folder
from posttrain.recipes.good_model import good_model


def shape_named(name: str) -> Shape:
    """The shape of a model. Raises ModelError where there is none of that name."""
    if name in NAMED:
        return NAMED[name]
    folder = base_folder() if name == "pocket" else Path(good_model(name))
    if (folder / "adapter_config.json").is_file():
        base = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")).get("base_model_name_or_path")
        if not base:
            raise ModelError(f"{folder / 'adapter_config.json'}: it names no base model; give the base's folder.")
        return shape_named(str(base))
    if folder.is_dir():
        return replace(read_shape(folder), name=name)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        near = difflib.get_close_matches(name.lower(), NAMED, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ModelError(f"{name}: no such folder and no shape of that name.{hint} Shapes: {', '.join(NAMED)}.")
    return replace(read_shape(_fetched(name)), name=name)


def _fetched(name: str) -> Path:
    """The folder with the config.json of a model of the Hub, on disk already or read now."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(name, "config.json")).parent
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        raise ModelError(
            f"{name}: its config.json is not on disk and cannot be read from the Hub "
            f"({str(error).strip().splitlines()[0]}); give a folder, or a shape: {', '.join(NAMED)}."
        ) from error


def tokenizer_place(name: str) -> str | None:
    """Where the tokenizer of a model lies; None for a published shape, and for what is not on disk."""
    folder = base_folder() if name == "pocket" else Path(good_model(name))
    return str(folder) if name not in NAMED and (folder / "tokenizer.json").is_file() else None
