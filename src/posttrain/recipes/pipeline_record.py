"""What a pipeline has done: pipeline.json, and the keys that tell whether a stage would do the same again."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain import __version__
from posttrain.data.whole_files import write_rows
from posttrain.errors import ConfigError
from posttrain.recipes.config import Config

DONE = ("finished", "stopped early")  # as a run says of itself
ASIDE = frozenset({"resume_from_checkpoint", "overwrite", "overwrite_output_dir"})
OF_A_RUN = ("run.json", "metrics.jsonl", "samples.jsonl", "report.html", "trainer_state.json")
WHOLE = 1 << 28  # a larger file is known by its size, time and ends: hashing hundreds of gigabytes takes minutes
AROUND = re.compile(
    r"^(?:store|model|judge|schema|cosine_length):(?=.)|=-?[\d.]+(?:[eE]-?\d+)?$|[#@?][^#@?]*$|(?<=\.py):\w+$"
)  # what may stand about a path


class Book:
    """pipeline.json of a folder: by stage its state ('started', 'done', 'failed'), what it depended on, how long it
    took, what its gates said. Written whole after each change."""

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / "pipeline.json"
        self.stages: dict[str, dict[str, Any]] = {}
        self.good: dict[str, Any] = {}  # the last model that passed its gates: stage, model, what they said
        self.start: dict[str, str] = {}  # the model that the pipeline began with, as given, and the folder it named
        if not self.path.exists():
            return
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            self.stages, self.good, self.start = found["stages"], found.get("good") or {}, found.get("start") or {}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{self.path} cannot be read ({error}); move it away to do all stages anew, or give another output_dir."
            ) from None

    def set(self, name: str, **more: Any) -> None:
        """Add to what is known of a stage, on the disk before this returns."""
        self.stages[name] = self.stages.get(name, {}) | more
        self.save()

    def save(self) -> None:
        """A kill leaves the old one or the new one."""
        told = {"start": self.start, "good": self.good, "stages": self.stages}
        write_rows(self.path, [{"posttrain": __version__} | told], indent=2)

    def start_of(self, model: str, now: str) -> str:
        """What the pipeline begins with: what `model` names `now`; where it was killed as it promoted, what that named
        before, since the turn that is to be finished began there."""
        is_cut = any((known.get("verb"), known["state"]) == ("promote", "started") for known in self.stages.values())
        if not (is_cut and self.start.get("given") == model and Path(self.start["model"]).is_dir()):
            self.start = {"given": model, "model": now}
        return self.start["model"]


def depends_on(settings: Config, out: str) -> dict[str, Any]:
    """Every setting of a stage by its place (`dataset[0].path`), and for what names a file or folder a digest of the
    content in the path's stead; `out`, where it writes, is none of them."""
    found = {}
    for place, value in _leaves(settings.model_dump(exclude={*ASIDE, out})):
        # `to` is written and not read: where it leads matters, not what is there.
        found[place] = _content(value) if isinstance(value, str) and place != "to" else value
    return found


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The places that differ."""
    return sorted(place for place in {*before, *now} if before.get(place) != now.get(place))


def is_done(known: Mapping[str, Any], made: Sequence[Path]) -> bool:
    """Whether a stage came to its end and all that it left is still there; `made`: what it may leave, the main thing
    first. What it did leave goes by the file's name, as the whole folder may have been moved."""
    left = {Path(one).name for one in known.get("made") or [made[0]]}
    return known["state"] == "done" and all(is_whole(path) for path in made if path.name in left)


def is_whole(path: Path) -> bool:
    """Whether what a stage made is there, and, where it is a run, came to its end."""
    if not (record := path / "run.json").is_file():
        return path.exists()
    try:
        return json.loads(record.read_text(encoding="utf-8"))["status"] in DONE
    except (OSError, ValueError, KeyError, TypeError):
        return False  # a record that nobody can read tells of no end


def digest(path: Path) -> str:
    """Of the content of a file, or of a folder: a model's without its checkpoints and the story of its run."""
    hashed = hashlib.sha256()
    for file in [path] if path.is_file() else _files(path):
        hashed.update(f"{file.relative_to(path)}\n".encode("utf-8", "surrogateescape"))
        hashed.update(_of_file(file))
    return hashed.hexdigest()[:32]


def _files(folder: Path) -> list[Path]:
    """Of a model's folder those of the model."""
    if any(folder.glob("*.safetensors")):
        return sorted(file for file in folder.iterdir() if file.is_file() and file.name not in OF_A_RUN)
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _of_file(file: Path) -> bytes:
    size = file.stat().st_size
    with file.open("rb") as handle:
        if size <= WHOLE:
            return hashlib.file_digest(handle, "sha256").digest()
        hashed = hashlib.sha256(f"{size} {file.stat().st_mtime_ns}".encode())
        for place in (0, size - (1 << 20)):
            handle.seek(place)
            hashed.update(handle.read(1 << 20))
    return hashed.digest()


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{place}[{index}]")
    else:
        yield place, value


def _content(text: str) -> str:
    """A text with the path that it names, alone or as in store:FILE?source=serving, model:FOLDER=0.5, rewards.py:score
    or judge:FOLDER@FILE, replaced by a digest of the content; what stands about the path stays."""
    if len(text) > 4096 or "\n" in text or "\0" in text:
        return text
    inner, before, behind = text, "", ""
    while inner.strip("./~ "):  # "." and "/" are marks more often than folders
        if Path(inner).exists():
            return f"{before}content {digest(Path(inner))}{behind}"
        found = AROUND.search(inner)
        if found is None:
            break
        if found.start():
            inner, cut = inner[: found.start()], found.group()
            behind = cut[0] + (_content(cut[1:]) if cut[0] == "@" else cut[1:]) + behind
        else:
            inner, before = inner[found.end() :], before + found.group()
    return before + inner + behind
