"""The run folder: run.json (what was run, on what, from what), metrics.jsonl, samples.jsonl."""

import hashlib
import json
import platform
import shutil
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from posttrain import __version__
from posttrain.data.whole_files import write_rows, write_text
from posttrain.errors import ConfigError
from posttrain.train import distributed

LIBRARIES = ("torch", "transformers", "peft", "tokenizers", "safetensors", "numpy")


class RunFolder:
    """A folder that one run writes to, of several processes the first alone. Metrics are appended line by line and
    survive a kill."""

    def __init__(self, path: str | Path, *, resume: bool = False, overwrite: bool = False) -> None:
        self.path = Path(path)
        self.watchers: list[Any] = []
        old = self.path / "run.json"
        if old.exists() and not (resume or overwrite):
            raise ConfigError(
                f"{self.path} holds an earlier run; give another output_dir, --resume-from-checkpoint to go on with "
                "it, or --overwrite-output-dir to replace it."
            )
        self._replaces = overwrite and old.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{self.path} cannot be created: {error.strerror}.") from error

    def begin(self, record: dict[str, Any]) -> None:
        """Write run.json as 'running'; `record` adds verb, command, config, inputs, model, seeds, parent.

        Only now, when everything has been read and found good, does an earlier run give way.
        """
        if self._replaces and distributed.is_main():
            shutil.rmtree(self.path)
            self.path.mkdir(parents=True)
        self.record = {
            **record,
            "versions": {"posttrain": __version__, "python": platform.python_version()}
            | {name: version(name) for name in LIBRARIES},
            "hardware": hardware(),
            "processes": distributed.world(),
            "launch": distributed.launch_id(),
            "started": _now(),
            "status": "running",
        }
        self.save("run.json", self.record)

    def end(self, status: str, result: dict[str, Any]) -> None:
        """Complete run.json."""
        if not distributed.is_main():
            return
        self.record |= {"finished": _now(), "status": status, "result": result}
        self.save("run.json", self.record)

    def write(self, line: dict[str, Any]) -> None:
        """Append one line of metrics and tell whoever watches (the progress bar, trackers)."""
        if not distributed.is_main():
            return
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        for watcher in self.watchers:
            watcher.write(line)

    def lines(self) -> list[dict[str, Any]]:
        """The metrics that were written so far."""
        path = self.path / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []

    def append(self, name: str, line: dict[str, Any]) -> None:
        """Add one JSON line to a file; a resumed run forgets those whose `step` is after its own."""
        if not distributed.is_main():
            return
        with (self.path / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def rewind(self, step: int) -> None:
        """Drop the metrics and samples after `step`: a resumed run writes them again."""
        for name in ("metrics.jsonl", "samples.jsonl") if distributed.is_main() else ():
            path = self.path / name
            if path.exists():
                # By "\n" alone: samples may hold U+2028 and its like, which str.splitlines takes for the end of a line.
                kept = _up_to(path.read_text(encoding="utf-8").split("\n"), step)
                write_text(path, "".join(line + "\n" for line in kept))

    def save(self, name: str, value: Any) -> Path:
        """A JSON file, or one JSON line per item where the name ends in .jsonl."""
        path = self.path / name
        if not distributed.is_main():
            return path
        if name.endswith(".jsonl"):
            write_rows(path, value)
        else:
            write_rows(path, [value], indent=2)
        return path


def _up_to(lines: Iterable[str], step: int) -> list[str]:
    kept = []
    for line in lines:
        try:
            if json.loads(line).get("step", 0) <= step:
                kept.append(line)
        except json.JSONDecodeError:  # what follows the last line: nothing, or one that was cut off by a kill
            break
    return kept


def hardware() -> dict[str, Any]:
    """What the run is computed on, without anything that names the machine."""
    found: dict[str, Any] = {"cpu": _cpu(), "threads": torch.get_num_threads()}
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def fingerprint(*parts: Any) -> str:
    """A short hash of everything that must be the same for a resumed run to equal an uninterrupted one."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
