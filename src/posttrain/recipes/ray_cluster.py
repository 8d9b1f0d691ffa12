"""A Ray cluster: reached or started, counted before it is used, quiet, and its errors in plain words.

Ray is imported in functions only: nobody who does not ask for it waits for it, or needs it.
"""

import logging
import math
import os
import socket
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from posttrain.errors import ConfigError
from posttrain.recipes.ray_words import plain, silenced
from posttrain.recipes.ray_words import quiet_ray as quiet_ray

Say = Callable[[str], None]
OBJECT_STORE = 256 * 2**20  # bytes: rows of text pass through it, and Ray would take a third of the memory
REACH_S = 5.0


@dataclass(frozen=True)
class Workers:
    """How many processes are asked for, and what each of them takes. `keys`: those of the recipe that say so; `alone`:
    what asks for a cluster of this machine alone."""

    num: int
    cpus: float = 1.0
    gpus: float = 0.0
    keys: str = "num_workers, worker_cpus or worker_gpus"
    alone: str = "give ray: local"

    def __str__(self) -> str:
        each = f"{self.cpus:g} CPU" + (f" and {self.gpus:g} GPU" if self.gpus else "")
        return f"{self.num:,} worker{'s' if self.num > 1 else ''} with {each} each"


@contextmanager
def cluster(address: str, workers: Workers, say: Say) -> Iterator[None]:
    """A connection to a cluster that has room for the workers. `address`: local starts one on this machine, which ends
    with the block; auto is the one that runs on this machine; HOST:PORT any other. One that this process is connected
    to already is used, and kept.

    Raises ConfigError where Ray is not installed, nobody answers, versions differ, or there is no room. What Ray raises
    inside the block comes out in plain words.
    """
    ray = quiet_ray()
    is_ours = not ray.is_initialized()
    try:
        if is_ours:
            _connect(ray, address, workers.alone)
        _require_room(ray, workers, address, say)
        yield
    except Exception as error:
        told = plain(error)
        if told is None or told is error:
            raise
        raise told from error
    finally:
        if is_ours:
            ray.shutdown()


def _connect(ray: Any, address: str, alone: str) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what later versions will do otherwise
        try:
            if address == "local":
                cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
                memory = {"object_store_memory": OBJECT_STORE}
                with silenced():
                    ray.init(address="local", num_cpus=cores, include_dashboard=False, **memory, **quiet)
                return
            if address != "auto":
                _require_listener(address)
            with silenced():
                ray.init(address=address, **quiet)
        except Exception as error:  # Ray raises a bare one where a start takes too long
            raise (plain(error) or ConfigError(_unreachable(address, error, alone))) from error


def _require_listener(address: str) -> None:
    """Ray would knock for a minute at a door where nobody is."""
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_S).close()


def _unreachable(address: str, error: Exception, alone: str) -> str:
    said = str(error).strip().split("\n")[0][:200]
    if address == "local":
        return f"Ray could not be started on this machine ({said}); where it is busy, run the same command again"
    where = "on this machine" if address == "auto" else f"at {address}"
    return f"no Ray cluster can be reached {where} ({said}); start one with `ray start --head`, or {alone}"


def _require_room(ray: Any, workers: Workers, address: str, say: Say) -> None:
    """Every worker stands on one machine, so room is counted machine by machine. Raises ConfigError."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus, gpus = (sum(machine.get(kind, 0.0) for machine in machines) for kind in ("CPU", "GPU"))
    has_room = sum(_room(machine, workers) for machine in machines)
    where = "this machine" if address == "local" else f"the cluster of {len(machines):,} machines"
    if has_room < workers.num:
        raise ConfigError(
            f"ray is asked for {workers}, and {where} has room for {has_room:,} of them ({cpus:g} CPU, {gpus:g} GPU): "
            f"lower {workers.keys}"
        )
    free = ray.available_resources()
    if workers.num * workers.cpus > free.get("CPU", 0.0) or workers.num * workers.gpus > free.get("GPU", 0.0):
        left = f"{free.get('CPU', 0.0):g} of {cpus:g} CPU free"
        say(f"{where} is busy with other work ({left}): workers may have to wait")


def _room(machine: dict[str, float], workers: Workers) -> int:
    parts = [machine.get("CPU", 0.0) / workers.cpus]
    parts += [machine.get("GPU", 0.0) / workers.gpus] if workers.gpus else []
    return math.floor(min(parts) + 1e-9)
