"""What a format of an export is: how it is written, how it is read again, and how far it may be from the model."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.models.load import Policy

Exported = Any
"""An ExportSource of recipes/export_sources.py: `policy` (fp32, in one piece), `name`, `folder`, `stop_ids`, `dtype`
(torch's, as asked of `hf`), `config`."""


@dataclass(frozen=True)
class Budget:
    """How far an exported model may be from the model in fp32 before it is rejected. `kl`: mean forward KL, nats a
    token; `flips`: share of greedy answers that are not the same tokens; `drop`: of a figure of the suites; `row`: the
    worst relative error of a row of a weight; `scale`: how far a weight's size is off, as a share."""

    kl: float
    flips: float
    drop: float
    row: float
    scale: float


@dataclass(frozen=True)
class Readback:
    """What a written file holds: a model, and the tokens that the file itself says end an answer. `notes`: what a
    reader of the report should know of how it was read."""

    policy: Policy
    stop_ids: tuple[int, ...]
    notes: tuple[str, ...] = ()


Write = Callable[[Exported, Path], list[str]]
"""Write the source at a path that does not exist yet (a file or a folder); returns what should be told, a line each."""
Read = Callable[[Path], Readback]
"""Read what was written, from the disk alone and by other code than the writer's."""


@dataclass(frozen=True)
class Format:
    """`place`: name of the file or folder, `{name}` the model's. `runtime`: whether llama.cpp reads it. `says`: one
    line of help. `finish`: what is changed in it once it has passed its check."""

    write: Write
    read: Read
    place: str
    budget: Budget
    says: str
    runtime: bool = False
    finish: Callable[[Exported, Path], None] | None = None
