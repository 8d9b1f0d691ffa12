"""What runs in a worker of the cluster: jobs for one model, which is loaded at the first of them."""

import os
import pickle
import socket
import traceback
from typing import Any

from posttrain.errors import ConfigError, PosttrainError
from posttrain.recipes.ray_jobs import VERSIONS, Done, Held, Job
from posttrain.recipes.ray_words import OUT_OF_MEMORY, quiet_ray

MOST_TRIES = 3
"""How often a job is begun: where its worker died each time, the job is at fault."""


class Worker:
    """Made by Ray Data in each process of the pool."""

    def __init__(self, desk: Any, held: Held, cpus: float) -> None:
        self.desk, self.held, self.cpus = desk, held, cpus
        self.ray = quiet_ray()
        self.who, self.node = f"{socket.gethostname()}:{os.getpid()}", self.ray.get_runtime_context().get_node_id()
        self._model: Any = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Jobs as bytes to what came of them as bytes."""
        done = [self._done(int(number), job) for number, job in zip(batch["number"], batch["job"], strict=True)]
        return {"found": [pickle.dumps(one) for one in done]}

    def _done(self, number: int, content: bytes) -> Done:
        tries = self.ray.get(self.desk.begin.remote(number, self.who, self.node))
        done = Done(number, tries=tries)
        if not tries:
            return done
        job: Job = pickle.loads(content)
        if tries > MOST_TRIES:
            done.error = PosttrainError(
                f"{self.held.name}: the same {len(job.items):,} rows ended {MOST_TRIES} workers, the last but one on "
                f"{self.who.split(':')[0]}; if they ran out of memory, {OUT_OF_MEMORY}"
            )
            return done
        try:
            self._require_same()
            done.results = getattr(self.model, job.op)(number, job.items, *job.common)
        except PosttrainError as error:
            done.error = error
        except Exception as error:
            done.error, done.trace = RuntimeError(f"{type(error).__name__}: {error}"), traceback.format_exc()
        done.spent, done.away = self.model.told() if self._model is not None else ({}, [])
        self.desk.end.remote(number)
        return done

    @property
    def model(self) -> Any:
        """A HeldModel, made when it is first asked for: then an error is one of a job, and is told as such."""
        if self._model is None:
            from posttrain.recipes.ray_models import HeldModel

            self._model = HeldModel(self.held, self.cpus)
        return self._model

    def _require_same(self) -> None:
        for (what, wanted), (_, here) in zip(self.held.versions, VERSIONS, strict=True):
            if wanted != here:
                raise ConfigError(
                    f"{what} is {here} on machine {socket.gethostname()} of the Ray cluster and {wanted} where the "
                    "command was started: install the same version on both"
                )
