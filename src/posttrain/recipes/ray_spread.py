"""A verb's work over a Ray cluster: what is missing goes out, what comes back is kept at once, each under its key."""

import hashlib
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from posttrain.errors import PosttrainError
from posttrain.recipes.journal import Journal
from posttrain.recipes.ray_cluster import Workers, cluster
from posttrain.recipes.ray_config import RayKeys
from posttrain.recipes.ray_jobs import Done, Held, Job
from posttrain.recipes.ray_kept import from_json, to_json
from posttrain.recipes.ray_line import Line
from posttrain.recipes.ray_words import plain
from posttrain.rollouts.asking import Spent

Say = Callable[[str], None]
ALIEN = "this is no line of answers that came from Ray workers; move the file away, or name another output."


class Spread:
    """Asks models in the workers of a cluster, which is reached at the first question that `kept` does not answer.

    `kept`: a file of answers as they come, one line each under the key of what was asked; the next call goes on from
    there. It is removed when the block ends well and no question was left without an answer: then all of it is in the
    verb's own output. `num_models`: pools of workers that there are to be side by side.
    """

    def __init__(self, config: RayKeys, kept: str | Path, say: Say, *, num_models: int = 1, anew: bool = False) -> None:
        assert config.ray is not None
        self.address, self.say, self.num_models = config.ray, say, num_models
        self.workers = Workers(config.num_workers, config.worker_cpus, config.worker_gpus)
        self.kept = Journal(Path(kept), alien=ALIEN, check=lambda row: row["answer"], anew=anew)
        self.spent: dict[Held, Spent] = {}
        self.away: dict[str, tuple[int, str]] = {}
        self._lines: dict[Held, Line] = {}
        self._lock, self._stack, self._has_failed = threading.RLock(), ExitStack(), False

    def __enter__(self) -> Self:
        if self.kept.rows:
            self.say(f"{len(self.kept.rows):,} answers of an earlier call are in {self.kept.path} and are used")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if kind is None and not self._has_failed:
            self.kept.path.unlink(missing_ok=True)
        for line in self._lines.values():
            line.close()
        for held, line in self._lines.items():
            if line.num_again:
                self.say(f"{held.name}: {line.num_again:,} jobs were done again, since their worker died")
        for server, (count, last) in self.away.items():
            self.say(f"{server}: {count:,} requests failed there, the last: {last}")
        self._stack.close()
        if isinstance(error, Exception) and (told := plain(error)) not in (None, error):
            raise told from error  # type: ignore[misc]

    def all(self, held: Held, op: str, items: Sequence[Any], *common: Any, least: int = 1) -> list[Any]:
        """The result of every item, in order."""
        found = dict(self.ask(held, op, items, *common, least=least))
        return [found[place] for place in range(len(items))]

    def ask(self, held: Held, op: str, items: Sequence[Any], *common: Any, least: int = 1) -> Iterator[tuple[int, Any]]:
        """(place, result) as they come. `op`: a method of HeldModel. `least`: items that a worker should have at once.
        Raises what a worker met, or what became of the cluster."""
        keys = [_key(held, op, item, common) for item in items]
        with self._lock:
            known = {place: self.kept.rows[key]["answer"] for place, key in enumerate(keys) if key in self.kept.rows}
        yield from ((place, from_json(op, answer)) for place, answer in known.items())
        missing = [place for place in range(len(items)) if place not in known]
        if not missing:
            return
        self.begin(held)
        line, size = self._lines[held], max(least, math.ceil(len(missing) / self.workers.num))
        parts = [missing[start : start + size] for start in range(0, len(missing), size)]
        jobs = {line.put(Job(op, [items[place] for place in part], common)): part for part in parts}
        for done in line.wait(jobs):
            self._count(held, done)
            part = jobs[done.number]
            answers = {keys[place]: to_json(op, result) for place, result in zip(part, done.results, strict=True)}
            with self._lock:
                self.kept.add([{"key": key, "answer": answer} for key, answer in answers.items() if answer is not None])
            yield from zip(part, done.results, strict=True)

    def begin(self, held: Held) -> None:
        """Start the workers of a model. To be called by the thread that holds the block before others ask: Ray's
        connection does not outlive the thread that made it."""
        with self._lock:
            if not self._lines:
                asked = replace(self.workers, num=self.num_models * self.workers.num)
                self._stack.enter_context(cluster(self.address, asked, self.say))
            if held not in self._lines:
                self._lines[held] = Line(held, self.workers, self.say)

    def spent_of(self, held: Held) -> Spent:
        """What the workers of a model have spent, counted on as they tell."""
        return self.spent.setdefault(held, Spent())

    def _count(self, held: Held, done: Done) -> None:
        with self._lock:
            spent = self.spent_of(held)
            for name, count in done.spent.items():
                setattr(spent, name, getattr(spent, name) + count)
            for server, count, last in done.away:
                before = self.away.get(server, (0, ""))[0]
                self.away[server] = (before + count, last)
            self._has_failed = self._has_failed or done.error is not None
        if done.trace:
            raise RuntimeError(f"a worker of {held.name} broke:\n{done.trace}")
        if isinstance(done.error, PosttrainError):
            raise done.error


def _key(held: Held, op: str, item: Any, common: tuple[Any, ...]) -> str:
    """Of all that an answer depends on; not of how many are asked at once, nor of where."""
    model = [held.name, held.digest or held.place, held.urls[:1], held.dtype, held.cpu_dtype]
    return hashlib.sha256(repr([model, op, item, common]).encode("utf-8", "surrogatepass")).hexdigest()[:32]
