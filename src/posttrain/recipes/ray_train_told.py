"""A training on Ray as the person who started it hears of it: words, deaths, and how it ended."""

import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from posttrain.errors import PosttrainError, TrainError
from posttrain.recipes.ray_train_desk import Word
from posttrain.recipes.ray_words import quiet_ray
from posttrain.train import distributed

PATIENCE_S, LOOK_S = 30.0, 0.1
PLACE = re.compile(r"node_ip='([^']+)'")
WHOLE = "What was saved up to the last checkpoint is whole: go on with --resume-from-checkpoint"


class Told:
    """Takes words as they come. `code`: the exit code, once the recipe has ended; `failed`: what was wrong with it."""

    def __init__(self, config: Any, say: Callable[[str], None]) -> None:
        self.max_restarts, self.num_processes, self.say = config.max_restarts, config.num_processes, say
        self.code: int | None = None
        self.failed, self.deaths = "", list[str]()
        self.num_begun, self.waits_since, self.has_told_of_wait = 0, time.monotonic(), False

    def add(self, words: Iterable[Word]) -> None:
        """Print what is for the terminal, keep the rest."""
        for kind, text in words:
            if kind in ("out", "err"):
                print(text, end="", file=sys.stdout if kind == "out" else sys.stderr, flush=True)
            elif kind == "begun":
                self.num_begun += 1
            elif kind == "ended":
                self.code = int(text)
            elif kind == "failed":
                self.failed = self.failed or text
            elif kind == "died":
                self._died(text)
        self._tell_of_wait()

    @contextmanager
    def listening(self, desk: Any, is_interrupted: Callable[[], bool]) -> Iterator[None]:
        """Hear what the desk has, and tell it of a Ctrl-C, until the block ends. The thread that does so ends before
        it: one that went on after Ray was let go would take the whole process along."""
        ray, over, broken = quiet_ray(), threading.Event(), list[Exception]()

        def listen() -> None:
            try:
                while not over.wait(LOOK_S):
                    if is_interrupted():
                        desk.stop.remote()
                    self.add(ray.get(desk.take.remote()))
            except Exception as error:  # such as of a terminal that is gone
                broken.append(error)
                desk.stop.remote()

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
        if broken:
            raise broken[0]
        self.add(ray.get(desk.take.remote()))

    def _died(self, text: str) -> None:
        self.deaths.append(text)
        self.waits_since, self.has_told_of_wait = time.monotonic(), False
        if len(self.deaths) <= self.max_restarts and not self.failed:
            self.say(f"{text}; starting all again, restart {len(self.deaths)} of {self.max_restarts}")

    def _tell_of_wait(self) -> None:
        """Once, where the workers have not begun for a while."""
        is_waiting = self.num_begun <= len(self.deaths) <= self.max_restarts and not self.failed
        if not is_waiting or self.has_told_of_wait or time.monotonic() - self.waits_since < PATIENCE_S:
            return
        self.has_told_of_wait = True
        self.say(f"waiting for {self.num_processes} workers to start: the cluster may be busy, or have lost a machine")

    def error(self, raised: BaseException | None) -> BaseException:
        """Why there is no exit code."""
        if self.failed:
            return TrainError(self.failed)
        if self.deaths:
            times = len(self.deaths) - 1
            after = f", after {times} restart{'s' if times > 1 else ''}" if times else ""
            more = "give a higher --max-restarts" if self.max_restarts else "start with --max-restarts"
            return TrainError(f"{self.deaths[-1]}{after}. {WHOLE}, or {more} to do so by itself.")
        found = getattr(raised, "controller_failure", raised)
        if "StartupTimeout" in type(found).__name__:
            return TrainError(
                f"the cluster had no room for {self.num_processes} workers within ddp_timeout: add a machine, or wait "
                f"until others have left. {WHOLE}."
            )
        return found or PosttrainError("Ray has ended the run and does not say why; run the same command again")


def cause(errors: Mapping[int, Exception]) -> str:
    """What became of a worker, from what Ray has of each by its number: not those that only miss another one."""
    for rank, error in sorted(errors.items()):
        if told := _of_one(error):
            place = PLACE.search(str(error))
            return f"worker {rank}{f' on {place[1]}' if place else ''} {told}"
    return "a worker or its machine is gone, and the others miss it"


def _of_one(error: Exception) -> str:
    """Nothing where the worker only misses another one."""
    found = getattr(error, "health_check_failure", error)
    said = " ".join(str(found).split())
    if isinstance(error, distributed.Lost):
        return ""
    if found is error:
        return f"failed with {type(error).__name__}: {said[:200]}"
    if "ActorUnavailable" in type(found).__name__ or "Timeout" in type(found).__name__:
        return "does not answer: its machine may be gone"
    if "its node has died" in said or "NodeDied" in type(found).__name__:
        return "died: its machine is gone"
    if "OutOfMemory" in type(found).__name__ or "low on memory" in said:
        return "died: its machine ran out of memory"
    return "died: its process was killed, as the system often does when memory runs out"
