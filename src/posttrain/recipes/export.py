"""`posttrain export`: a model to files that others run, each checked against the model in fp32 before it is named."""

import difflib
import json
import shutil
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from posttrain.errors import ConfigError
from posttrain.models.load import base_of
from posttrain.recipes.config import command
from posttrain.recipes.export_checking import Checker, digest_of
from posttrain.recipes.export_config import ExportConfig
from posttrain.recipes.export_formats import FORMATS, Format
from posttrain.recipes.export_page import write_page
from posttrain.recipes.export_sources import ExportSource, load_source
from posttrain.recipes.export_view import show
from posttrain.recipes.judge_view import write_record

RECORD = "export.json"
UNCHECKED, REJECTED = ".unchecked", ".rejected"
"""Endings of what is not checked yet, and of what is over a budget: the good name is for what has passed."""
K_QUANTS = ("_k", "iq", "tq", "mxfp")


def run(config: ExportConfig) -> int:
    """Write, read again, compare; 1 where a format was rejected."""
    console = Console(highlight=False, soft_wrap=True)
    say = partial(console.print, markup=False)
    chosen = {name: format_of(name) for name in config.format}
    folder, started = Path(config.output_dir), time.monotonic()
    if is_done(folder) and not config.overwrite_output_dir:
        raise ConfigError(
            f"output_dir {folder} holds an export; give another, or replace it by --overwrite-output-dir."
        )
    source = load_source(config)
    places = {name: folder / each.place.format(name=source.name) for name, each in chosen.items()}
    make_room(folder, places, source, overwrite=config.overwrite_output_dir)
    checker = Checker(source, console)
    record: dict[str, Any] = {
        "command": command(config), "model": config.model, "seed": config.seed,
        "suites": [t.name for t in checker.tasks],
        "max_new_tokens": config.max_new_tokens, "exports": [],
    }  # fmt: skip
    if not checker.tasks:
        say("NO SUITE IS TAKEN AGAIN: this is no model of the pocket world; name what counts by --suite")
    for name, each in chosen.items():
        row = export(source, checker, name, each, places[name], say)
        record["exports"].append(row)
        record["seconds"] = round(time.monotonic() - started, 1)
        write_record(record, folder / RECORD)
    write_record(record | {"finished": True}, folder / RECORD)
    page = write_page(record, folder)
    show(record, console)
    say(f"page: {page}; figures: {folder / 'export.json'}; again: {record['command']}")
    return 1 if any(row["faults"] for row in record["exports"]) else 0


def export(source: ExportSource, checker: Checker, name: str, chosen: Format, place: Path, say: Any) -> dict[str, Any]:
    """One format: written under a name that nobody takes for good, checked from the disk, and named by the outcome."""
    unchecked = place.with_name(place.name + UNCHECKED)
    unchecked.parent.mkdir(parents=True, exist_ok=True)
    notes = chosen.write(source, unchecked)
    row = checker.check(name, chosen, unchecked)
    row["notes"] = [*notes, *row["notes"]]
    final = place.with_name(place.name + REJECTED) if row["faults"] else place
    if not row["faults"] and chosen.finish is not None:
        chosen.finish(source, unchecked)
        row["digest"] = digest_of(unchecked)
    unchecked.rename(final)
    row |= {"path": str(final), "bytes": size_of(final), "says": chosen.says, "passed": not row["faults"]}
    say(f"{name}: {'REJECTED' if row['faults'] else 'checked'}, {final} ({row['bytes']:,} bytes)")
    return row


def format_of(name: str) -> Format:
    """ConfigError for a format that cannot be written, with those that can."""
    if name in FORMATS:
        return FORMATS[name]
    known = ", ".join(FORMATS)
    if name.startswith("gguf") and any(part in name for part in K_QUANTS):
        raise ConfigError(
            f"format {name!r}: K- and I-quants are made by llama.cpp alone; export gguf-f16 and run `llama-quantize "
            f"MODEL-F16.gguf OUT.gguf {name.removeprefix('gguf-').upper()}`. Written here: {known}."
        )
    near = difflib.get_close_matches(name, FORMATS, n=1)
    raise ConfigError(f"format {name!r} is not known; {f'did you mean {near[0]}?' if near else f'there are {known}.'}")


def is_done(folder: Path) -> bool:
    """Whether an export ended here. One that was stopped goes on: what was answered then is not asked again."""
    place = folder / RECORD
    try:
        return place.is_file() and bool(json.loads(place.read_text(encoding="utf-8")).get("finished", False))
    except (ValueError, AttributeError) as error:
        raise ConfigError(f"{place}: this is no record of an export ({error}); give another output_dir.") from None


def make_room(folder: Path, places: Mapping[str, Path], source: ExportSource, *, overwrite: bool) -> None:
    """Take away what an earlier export left of these formats. ConfigError before anything is touched where that would
    be the model itself, or something that no export wrote."""
    bases = [base_of(Path(source.folder))] if source.is_adapter else []
    for place in places.values():
        for read in map(Path, (source.folder, *bases)):
            if place.exists() and read.resolve().is_relative_to(place.resolve()):
                raise ConfigError(f"{place} is what is exported ({read}); give another output_dir.")
        if place.exists() and not overwrite and not (folder / RECORD).is_file():
            raise ConfigError(
                f"{place} is in the way, and no export wrote it; give another output_dir, or replace it by "
                "--overwrite-output-dir."
            )
    for place in places.values():
        clear(place)
    folder.mkdir(parents=True, exist_ok=True)
    write_record({"exports": []}, folder / RECORD)  # whoever finds it knows that an export was begun here


def clear(place: Path) -> None:
    """Take away what an earlier export left of a format, under any of its names."""
    for old in (place, place.with_name(place.name + UNCHECKED), place.with_name(place.name + REJECTED)):
        if old.is_dir():
            shutil.rmtree(old)
        else:
            old.unlink(missing_ok=True)


def size_of(place: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    return sum(file.stat().st_size for file in (place.rglob("*") if place.is_dir() else [place]) if file.is_file())
