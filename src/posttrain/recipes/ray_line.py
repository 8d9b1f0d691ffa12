"""Work handed out and taken back: one Ray Data pipeline for each model, open from the first question to the last.

The pipeline reads jobs from a desk for as long as it is open, and maps them over a pool of workers. So a verb may ask
in rounds, and each worker loads its model once. Ray starts a dead worker anew and repeats its job there; where its node
is gone, and no other has room for it, the job is handed to the workers that are left. The first answer counts.
"""

import pickle
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from typing import Any

from posttrain.errors import PosttrainError
from posttrain.recipes.ray_cluster import Workers
from posttrain.recipes.ray_desk import Desk
from posttrain.recipes.ray_jobs import Done, Held
from posttrain.recipes.ray_source import batches, source, stop
from posttrain.recipes.ray_words import quiet_ray
from posttrain.recipes.ray_worker import Worker

Say = Callable[[str], None]
WATCH_S = 2.0
SILENCE_S = 30.0
END_S = 3.0


class Line:
    """The pipeline of one model. `put` a job, `wait` for any of them; from several threads, if need be. `num_again`:
    jobs that were begun more than once."""

    def __init__(self, held: Held, workers: Workers, say: Say) -> None:
        self.ray, self.held, self.workers, self.say = quiet_ray(), held, workers, say
        self.found: dict[int, Done] = {}
        self.taken: set[int] = set()
        self.num_put = self.num_places = self.num_again = 0
        self.failed: BaseException | None = None
        self.changed, self.silent_since, self.told_s = threading.Condition(), time.monotonic(), 0.0
        here = self.ray.get_runtime_context().get_node_id()
        beside = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(here, soft=False)
        options = {"num_cpus": 0, "scheduling_strategy": beside, "max_concurrency": 1000}
        self.desk = self.ray.remote(Desk).options(**options).remote()
        self.nodes = self._alive()
        self.rows = source(self.desk, Worker, (self.desk, held, workers.cpus), workers, here)
        self.threads = [threading.Thread(target=work, daemon=True) for work in (self._drain, self._watch)]
        for thread in self.threads:
            thread.start()

    def put(self, job: Any) -> int:
        """Hand in a job; its number. Raises what ended the pipeline."""
        with self.changed:
            if self.failed is not None:  # Ray may be let go already, and a thread not know of it
                raise self.failed
            if not self.num_put - len(self.taken):
                self.silent_since = time.monotonic()
            self.desk.put.remote(self.num_places, self.num_put, pickle.dumps(job))
            self.num_places += 1
            self.num_put += 1
            return self.num_put - 1

    def wait(self, numbers: Collection[int]) -> Iterator[Done]:
        """What came of the jobs, as it comes, each once. Raises what ended the pipeline."""
        left = set(numbers)
        while left:
            with self.changed:
                while not (here := left & self.found.keys()) and self.failed is None:
                    self.changed.wait(WATCH_S)
                found = [self.found.pop(number) for number in here]
            if not found:
                assert self.failed is not None
                raise self.failed
            left -= here
            yield from found

    def close(self) -> None:
        """End the pipeline; jobs that no worker has yet are dropped. No thread of it calls Ray afterwards."""
        self.desk.close.remote()
        with self.changed:
            has_ended = self.changed.wait_for(lambda: self.failed is not None, END_S)
        if not has_ended:
            stop(self.rows)
        with self.changed:
            self.failed = self.failed or PosttrainError("the Ray pipeline was left before its end")
            self.changed.notify_all()
        for thread in self.threads:
            thread.join(END_S)

    def _drain(self) -> None:
        try:
            for batch in batches(self.rows):
                for row in batch["found"]:
                    self._take(pickle.loads(row))
            failed: BaseException = PosttrainError("the Ray pipeline has ended")
        except BaseException as error:  # whoever waits raises it
            failed = error
        with self.changed:
            self.failed = failed
            self.changed.notify_all()

    def _take(self, done: Done) -> None:
        with self.changed:
            if done.number in self.taken or not done.tries:
                return
            self.taken.add(done.number)
            self.silent_since, self.told_s = time.monotonic(), 0.0
            self.num_again += done.tries > 1
            self.found[done.number] = done
            self.changed.notify_all()

    def _watch(self) -> None:
        """Look after nodes and workers until the line is closed."""
        while self.failed is None:
            with self.changed:
                self.changed.wait_for(lambda: self.failed is not None, WATCH_S)
            with suppress(Exception):  # Ray may be away for a moment, or for good: then the pipeline tells
                self._hand_out_again()
                self._tell_silence()

    def _alive(self) -> set[str]:
        return {node["NodeID"] for node in self.ray.nodes() if node["Alive"]}

    def _hand_out_again(self) -> None:
        lost = self.nodes - (alive := self._alive())
        self.nodes |= alive
        if not lost:
            return
        with self.changed:  # nobody may put meanwhile: the places are counted here
            count = self.ray.get(self.desk.again.remote(self.num_places, lost), timeout=SILENCE_S)
            self.num_places += count
        self.nodes -= lost
        self.say(f"{self.held.name}: {len(lost):,} nodes of the cluster are gone; {count:,} jobs are handed out again")

    def _tell_silence(self) -> None:
        """Say who is waited for: after SILENCE_S without an answer, then whenever that has doubled."""
        silent = time.monotonic() - self.silent_since
        if silent < max(SILENCE_S, 2 * self.told_s) or self.num_put == len(self.taken):
            return
        self.told_s = silent
        state = self.ray.get(self.desk.state.remote(), timeout=SILENCE_S)
        waited = ", ".join(f"{who} since {since:.0f} s" for _, who, since in sorted(state, key=lambda row: -row[2])[:3])
        none = "no worker has begun: they are being started, or the cluster has no room"
        self.say(f"{self.held.name}: {silent:.0f} s without an answer; {f'waiting for {waited}' if state else none}")
