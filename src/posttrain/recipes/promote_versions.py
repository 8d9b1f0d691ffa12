"""The versions of a live folder: which there are, and that one process at a time makes them."""

import fcntl
import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from posttrain.errors import ConfigError
from posttrain.recipes.suite_kept import model_digest

LOCK = ".lock"
MAKING = ".making-"


@contextmanager
def alone(live: Path) -> Iterator[None]:
    """One promotes at a time; a lock that goes with its process. What one that was killed was copying is swept away."""
    if any((live / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise ConfigError(f"{live} is a model itself; give --to a folder of its own, which holds versions.")
    live.mkdir(parents=True, exist_ok=True)
    with (live / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left in live.glob(f"{MAKING}*"):
            shutil.rmtree(left, ignore_errors=True)
        yield


def version_of(live: Path, row: Mapping[str, Any]) -> Path:
    """The folder of a line of the history, wherever the live folder is by now."""
    return live / Path(row["version"]).name


def digest_of(folder: Path) -> dict[str, str]:
    """What tells a model from others: all that `model_digest` looks at, and how it answers when nobody says how."""
    files = [folder / name for name in ("config.json", "generation_config.json")]
    config = hashlib.sha256(b"\0".join(file.read_bytes() if file.is_file() else b"" for file in files))
    return model_digest(str(folder)) | {"config": config.hexdigest()[:16]}


def unnamed(live: Path, history: Sequence[Mapping[str, Any]], digest: dict[str, str]) -> Path | None:
    """The same model, copied by one that was killed before it could name it."""
    named = {version_of(live, row).name for row in history}
    left = (path for path in sorted(live.iterdir()) if path.name.isdecimal() and path.name not in named)
    return next((path for path in left if digest_of(path) == digest), None)
