"""`launcher: torchrun`: torch's own agent in this process, which starts the recipe in several more on this machine.

The agent (torch.distributed.elastic) watches them, stops all where one dies, and starts all anew as often as the recipe
allows. What it would say of that in its own words is said here in one sentence.
"""

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import psutil
import yaml
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.rendezvous import RendezvousParameters
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

from posttrain.recipes.config import load
from posttrain.recipes.torchrun_told import SAID, culprit, death, failed


class Agent(LocalElasticAgent):  # type: ignore[misc]
    """Keeps what its processes died of, and starts none anew for what would stop them again."""

    num_processes = 0
    rendezvous: Any = None

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        result = super()._monitor_workers(worker_group)
        if result.is_failed():
            number, code, _ = culprit(result.failures)
            if code in SAID:
                self._remaining_restarts = 0
            elif self._remaining_restarts:
                print(f"{death(number, self.num_processes, code)}; starting all again", file=sys.stderr, flush=True)
        return result


def launch(config: Any) -> int:
    """Run the recipe in `num_processes` processes; the exit code. Raises TrainError where one of them died."""
    name = uuid4().hex
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    with TemporaryDirectory(prefix="posttrain-") as folder, _environment(config.num_processes):
        agent = _agent(config, name, Path(folder))
        try:
            result = agent.run()
        except SignalException:
            return 130  # the first process has said how to go on
        finally:
            agent.rendezvous.shutdown()
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return 0 if not result.is_failed() else failed(config, name, result.failures)


def _agent(config: Any, name: str, folder: Path) -> Agent:
    quiet()
    meeting = RendezvousParameters(
        backend="c10d", endpoint="localhost:0", run_id=name, min_nodes=1, max_nodes=1, local_addr="localhost"
    )
    rendezvous = get_rendezvous_handler(meeting)
    spec = WorkerSpec(
        role="posttrain",
        local_world_size=config.num_processes,
        rdzv_handler=rendezvous,
        entrypoint=sys.executable,
        args=("-u", "-m", "posttrain", *config.verb.split(), str(written(config, folder))),
        max_restarts=config.max_restarts,
        monitor_interval=0.1,
        local_addr="localhost",
    )
    more: dict[str, Any] = {}
    if "shutdown_timeout" in signature(LocalElasticAgent.__init__).parameters:
        more["shutdown_timeout"] = config.ddp_timeout  # who is asked to stop saves first
    agent = Agent(spec, DefaultLogsSpecs(log_dir=str(folder / "logs")), **more)
    agent.num_processes, agent.rendezvous = config.num_processes, rendezvous
    return agent


def written(config: Any, folder: Path) -> Path:
    """The recipe as a file that gives the same settings."""
    path = folder / f"{config.verb.replace(' ', '-')}.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_unset=True)), encoding="utf-8")
    assert load(type(config), path, {}).model_dump() == config.model_dump(), "a recipe does not read as it was written"
    return path


@contextmanager
def _environment(num_processes: int) -> Iterator[None]:
    """Each process computes with its share of the cores, where nothing else is said."""
    before = os.environ.get("OMP_NUM_THREADS")
    cores = len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // num_processes)))
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]


def quiet() -> None:
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
