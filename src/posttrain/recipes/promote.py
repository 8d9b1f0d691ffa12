"""`posttrain promote`: a model takes the traffic. It is copied into a live folder as a version that nobody changes any
more, and the folder's file `good` names it from then on; `posttrain serve` on the live folder follows that file."""

import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from posttrain.data.whole_files import read_lines, write_rows, write_text
from posttrain.errors import ConfigError, PosttrainError
from posttrain.models.load import base_of, is_reward_model, load_tokenizer
from posttrain.recipes.good_model import FILE, good_model
from posttrain.recipes.policy import resolve_model
from posttrain.recipes.promote_config import PromoteConfig
from posttrain.recipes.promote_versions import MAKING, alone, digest_of, unnamed, version_of

HISTORY = "history.jsonl"
DIGITS = 4


def run(config: PromoteConfig) -> int:
    """Promote the model, or go back to the version before; print what is live now."""
    live = Path(config.to)
    done = go_back(live, config.note) if config.back else promote(config.model, live, config.note)
    if config.output_dir:
        write_rows(Path(config.output_dir) / "promoted.json", [done], indent=2)
    print(f"live: {done['version']} ({done['model']})" + (f", before it {done['before']}" if done["before"] else ""))
    return 0


def promote(model: str, live: Path, note: str = "") -> dict[str, Any]:
    """Copy a model into a live folder and name it; the line of the history. What is live already stays so.

    A kill leaves the version that was live before. Raises ModelError or ConfigError where the folder holds no language
    model that could answer.
    """
    folder = Path(resolve_model(model))
    if not folder.is_dir():
        raise ConfigError(f"model is {model!r}, expected a folder; save the model there first.")
    _check(folder)
    with alone(live):
        digest, before, history = digest_of(folder), _now(live), _history(live)
        same = (row for row in reversed(history) if row["weights"] == digest and version_of(live, row).is_dir())
        known = next(same, None)
        if known and before and version_of(live, known).name == Path(before).name:
            return known
        version = version_of(live, known) if known else unnamed(live, history, digest)
        made = version or _copy(folder, live)
        try:
            return _name(made, live, {"model": model, "weights": digest, "before": before, "note": note})
        except PosttrainError:
            if (
                version is None
                and _now(live) == before
                and all(version_of(live, row) != made for row in _history(live))
            ):
                shutil.rmtree(made, ignore_errors=True)
            raise


def go_back(live: Path, note: str = "") -> dict[str, Any]:
    """Name the version that was live before the present one."""
    if not live.is_dir():
        raise ConfigError(f"{live}: there is no such live folder.")
    with alone(live):
        history, now = _history(live), _now(live)
        # By their names: the folder may have been moved, or be called otherwise from here.
        last = next((row for row in reversed(history) if now and version_of(live, row).name == Path(now).name), None)
        before = live / Path(last["before"]).name if last and last["before"] else None
        if before is None or not before.is_dir():
            raise ConfigError(f"{live}: there is no version before {now or 'the first'} to go back to.")
        first = next((row for row in history if version_of(live, row) == before), {})
        # What it went back from is not `before` again: another --back goes further back, not to and fro.
        earlier = first.get("before", "")
        return _name(
            before, live, {"model": first.get("model", str(before)), "weights": first.get("weights"),
                           "before": earlier, "note": note or f"back from {now}"},
        )  # fmt: skip


def _check(folder: Path) -> None:
    """Raises unless there is a tokenizer with weights that answer."""
    if is_reward_model(folder):
        raise ConfigError(f"{folder}: this is a reward model, which says nothing; promote a language model.")
    load_tokenizer(folder)
    if (folder / "adapter_config.json").is_file():
        base_of(folder)
    if not list(folder.glob("*.safetensors")):
        raise ConfigError(f"{folder}: no *.safetensors weights; promote the folder that a model was saved in.")
    record = folder / "run.json"
    try:
        status = json.loads(record.read_text(encoding="utf-8")).get("status") if record.is_file() else ""
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"{record}: cannot be read ({error}), so whether its run came to its end is unknown."
        ) from None
    if status in ("running", "failed"):
        raise ConfigError(f"{folder}: its run has not come to its end; finish it first.")


def _copy(folder: Path, live: Path) -> Path:
    """A new version with the folder's files (no checkpoints), whole before it has its name."""
    number = max((int(path.name) for path in live.iterdir() if path.name.isdecimal()), default=0) + 1
    making = live / f"{MAKING}{os.getpid()}"
    try:
        making.mkdir()
        for file in sorted(folder.iterdir()):
            if file.is_file():
                shutil.copy2(file, making / file.name)
        return making.rename(live / f"{number:0{DIGITS}}")
    except OSError as error:
        raise PosttrainError(f"{live}: the model cannot be copied there: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _name(version: Path, live: Path, row: dict[str, Any]) -> dict[str, Any]:
    """Make a version the live one: its line in the history first, then the file that servers read."""
    done = {"version": str(version), **row, "time": datetime.now(UTC).isoformat(timespec="seconds")}
    write_rows(live / HISTORY, [*_history(live), done])
    write_text(live / FILE, f"{version}\n")
    return done


def _history(live: Path) -> list[dict[str, Any]]:
    file = live / HISTORY
    return list(read_lines(file)) if file.is_file() else []


def _now(live: Path) -> str:
    """The version that is live; '' where there is none."""
    return good_model(str(live)) if (live / FILE).is_file() else ""
