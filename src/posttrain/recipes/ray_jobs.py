"""What is handed to workers and what comes back: plain records, pickled between machines of one version."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from posttrain import __version__

VERSIONS = (("posttrain", __version__), ("Python", ".".join(platform.python_version_tuple()[:2])))


@dataclass(frozen=True)
class Held:
    """The model of a pool of workers. `place`: folder or name that a worker loads it from. `digest`: of its weights and
    tokenizer, the same wherever they are. `slots`: answers written at once. `dtype` of the decoding (`cpu_dtype` in its
    stead on a CPU); left out, the sampler's choice. `urls`: servers of the model, where it is not loaded; `server`: how
    they are asked."""

    name: str
    place: str = ""
    digest: str = ""
    slots: int = 32
    dtype: str | None = None
    cpu_dtype: str | None = None
    urls: tuple[str, ...] = ()
    server: tuple[tuple[str, Any], ...] = ()
    versions: tuple[tuple[str, str], ...] = VERSIONS


@dataclass(frozen=True)
class Job:
    """`op`: a method of HeldModel, called with the items and what is common to them."""

    op: str
    items: Sequence[Any]
    common: tuple[Any, ...] = ()


@dataclass
class Done:
    """What came of a job: a result for each item, or the error of all. `tries`: how often it was begun, 0 where
    another worker was through with it before. `trace`: of an error that is a bug. `spent`: what it took, by the names
    of Spent. `away`: (server, requests that failed there, the last error)."""

    number: int
    results: Sequence[Any] = ()
    error: Exception | None = None
    trace: str = ""
    tries: int = 1
    spent: dict[str, int] = field(default_factory=dict)
    away: list[tuple[str, int, str]] = field(default_factory=list)
