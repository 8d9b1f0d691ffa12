"""Where prepared shards are kept: in a folder whose name follows from all that decides how rows become samples."""

import hashlib
import json
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from posttrain.data.rendering import Settings
from posttrain.data.shards import UNFINISHED
from posttrain.errors import PosttrainError

README = "Training data that was prepared before. Delete this folder, or any part of it, whenever you like.\n"
ABANDONED_S = 24 * 3600  # an unfinished file of another machine is left alone for so long


def cache_folder() -> Path:
    """$POSTTRAIN_CACHE, else $XDG_CACHE_HOME/posttrain, else ~/.cache/posttrain."""
    own, shared = os.environ.get("POSTTRAIN_CACHE"), os.environ.get("XDG_CACHE_HOME")
    if own:
        return Path(own).expanduser()
    return (Path(shared) if shared else Path.home() / ".cache") / "posttrain"


def open_cache(root: Path, tokenizer: Any, settings: Settings) -> Path:
    """The folder for the shards of one tokenizer and one way of preparing, without what dead processes left there."""
    key = _recipe(tokenizer, settings)
    folder = root / "prepared" / hashlib.blake2b(json.dumps(key).encode(), digest_size=16).hexdigest()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (root / "prepared" / "README.txt").write_text(README, encoding="utf-8")
        (folder / "recipe.json").write_text(json.dumps(key, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise PosttrainError(
            f"{folder}: prepared data cannot be kept there ({error.strerror or error}); name another folder in the "
            "environment variable POSTTRAIN_CACHE."
        ) from error
    for path in folder.glob(f"*{UNFINISHED}"):
        if _is_abandoned(path):
            path.unlink(missing_ok=True)
    return folder


def _recipe(tokenizer: Any, settings: Settings) -> dict[str, Any]:
    """All that decides how a row becomes samples: tokenizer, template, settings, and the very code."""
    engine = json.loads(tokenizer.backend_tokenizer.to_str())
    for state in ("truncation", "padding"):  # left behind by whoever called the tokenizer last
        engine.pop(state, None)
    template = tokenizer.chat_template
    code = hashlib.blake2b(digest_size=16)
    for path in sorted(Path(__file__).parent.glob("*.py")):
        code.update(path.read_bytes())
    return {
        "settings": vars(settings),
        "tokenizer": hashlib.blake2b(json.dumps(engine).encode(), digest_size=16).hexdigest(),
        "tokenizer_class": type(tokenizer).__qualname__,
        "special_tokens": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "chat_template": template,
        "day": time.strftime("%F") if "strftime_now" in str(template) else None,  # such a template writes the date
        "code": code.hexdigest(),
        "versions": {name: version(name) for name in ("tokenizers", "transformers", "jinja2")},
    }


def _is_abandoned(path: Path) -> bool:
    """Whether the process that was writing a file is gone; its machine and its number are in the name."""
    _, _, writer = path.name.removesuffix(UNFINISHED).partition(".")
    machine, _, numbers = writer.rpartition(".")
    process = numbers.partition("-")[0]
    if machine == platform.node() and process.isdigit():
        return not _is_alive(int(process))
    try:
        return time.time() - path.stat().st_mtime > ABANDONED_S
    except OSError:
        return False


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
