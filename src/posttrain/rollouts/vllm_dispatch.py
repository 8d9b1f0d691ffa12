"""Many answers from several servers: each has its own queue, idle ones help out, and no wait is without an end.

A server that fails goes no further, and what it owed is asked of the others. An answer that is long under way is asked
a second time of a server that has nothing to do: it depends on its prompt and its seed alone, so the first to come is
taken.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import httpx

from posttrain.rollouts.endpoint import ServerError, run_apart
from posttrain.rollouts.http import ERROR
from posttrain.rollouts.sampling import Completion, Decoding, Request
from posttrain.rollouts.vllm import NoSuchModel, VllmServer

MAX_STRIKES = 3  # failures of a server in a row
PATIENCE_S = 30.0


@dataclass(eq=False)
class Job:
    """One answer that is wanted. `refused`: addresses where it failed; `begun`: address and time of each attempt."""

    request: Request
    seed: int
    found: Completion | None = None
    server: str = ""
    refused: dict[str, str] = field(default_factory=dict)
    begun: dict[str, float] = field(default_factory=dict)


@dataclass
class Counts:
    """What did not go as it should, since it was last asked for."""

    asked: int = 0
    late: int = 0
    failed: int = 0
    asked_again: int = 0
    servers_left_out: int = 0
    handed_over_again: int = 0


@dataclass
class _Place:
    """A server while a round is under way."""

    server: VllmServer
    client: httpx.AsyncClient
    queue: deque[Job] = field(default_factory=deque)
    strikes: int = 0
    is_slow: bool = False


class Dispatch:
    """`deadline_s`: for a whole round. `patience_s`: after which a wait is told, and an answer asked a second time.
    `again(server)`: hand the present weights over to a server that has lost them; raises ServerError."""

    def __init__(
        self,
        *,
        deadline_s: float,
        say: Callable[[str], None],
        again: Callable[[VllmServer], None] | None = None,
        patience_s: float = PATIENCE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.deadline_s, self.patience_s, self.clock = deadline_s, patience_s, clock
        self.say, self.again = say, again
        self.counts = Counts()

    def run(
        self, jobs: Sequence[Job], servers: Sequence[VllmServer], decoding: Decoding, *, left_s: float | None = None
    ) -> dict[str, str]:
        """Fill in `found` of every job: an answer, or a Completion that says what went wrong. `left_s`: what is left of
        `deadline_s`. Returns the servers that are left out from here on, each with why."""
        self.counts.asked += len(jobs)
        left_s = self.deadline_s if left_s is None else left_s
        return run_apart(_Round(self, jobs, servers, decoding, left_s).run())


class _Round:
    def __init__(
        self, rules: Dispatch, jobs: Sequence[Job], servers: Sequence[VllmServer], decoding: Decoding, left_s: float
    ) -> None:
        self.rules, self.jobs, self.decoding, self.left_s = rules, jobs, decoding, left_s
        self.places = {server.url: _Place(server, server.client()) for server in servers}
        self.out: dict[str, str] = {}
        self.num_open = len(jobs)
        self.changed, self.done = asyncio.Condition(), asyncio.Event()
        self.broken: BaseException | None = None
        self.restoring: dict[str, asyncio.Lock] = {}
        self.restored: dict[str, float] = {}
        homes, prompt = list(self.places.values()), -1
        last: Request | None = None
        for job in jobs:  # answers to one prompt share the prefix cache of one server
            prompt += job.request is not last
            last = job.request
            homes[prompt % len(homes)].queue.append(job)

    async def run(self) -> dict[str, str]:
        workers = [
            asyncio.create_task(self._guard(place))
            for place in self.places.values()
            for _ in range(min(place.server.endpoint.concurrency, len(self.jobs)))
        ]
        watch = asyncio.create_task(self._watch())
        try:
            async with asyncio.timeout(self.left_s):
                await self.done.wait()
        except TimeoutError:
            self._give_up()
        finally:
            for task in (*workers, watch):
                task.cancel()
            await asyncio.gather(*workers, watch, return_exceptions=True)
            await asyncio.gather(*(place.client.aclose() for place in self.places.values()))
        if self.broken is not None:
            raise self.broken
        for job in self.jobs:
            if job.found is None:  # no server is left
                job.found = _failed(next(iter(self.out.values()), "no server is left"))
                self.rules.counts.failed += 1
        return self.out

    async def _guard(self, place: _Place) -> None:
        try:
            await self._work(place)
        except Exception as error:  # a mistake of ours: nobody should wait for this worker
            self.broken = error
            self.done.set()

    async def _work(self, place: _Place) -> None:
        while self.num_open and place.server.url not in self.out:
            job = self._next(place)
            if job is None:
                await self._until_changed()
                continue
            job.begun[place.server.url] = self.rules.clock()
            try:
                found = await place.server.answer(place.client, job.request, job.seed, self.decoding)
            except NoSuchModel as error:
                await self._lost(place, job, error)
            except ServerError as error:
                await self._failed(place, job, error)
            else:
                place.strikes = 0
                await self._settle(job, found, place.server.url)

    def _next(self, place: _Place) -> Job | None:
        """The next of its own, else one that waits elsewhere, else one that has been under way for long."""
        url = place.server.url
        own = [place.queue, *sorted((p.queue for p in self.places.values() if p is not place), key=len, reverse=True)]
        for queue in own:
            for _ in range(len(queue)):
                job = queue.popleft()
                if job.found is None and url not in job.refused:
                    return job
                if job.found is None:
                    queue.append(job)
        now = self.rules.clock()
        slow = [
            job
            for job in self.jobs
            if job.found is None and job.begun and url not in job.begun and url not in job.refused
            if now - min(job.begun.values()) > self.rules.patience_s or job.begun.keys() <= self.out.keys()
        ]
        if not slow:
            return None
        job = min(slow, key=lambda job: min(job.begun.values()))
        self.rules.counts.asked_again += 1
        if not job.begun.keys() <= self.out.keys():
            self._tell_slow(next(iter(job.begun)), url)
        return job

    def _tell_slow(self, url: str, helper: str) -> None:
        if not self.places[url].is_slow:
            self.places[url].is_slow = True
            self.rules.say(
                f"{url}: answers are under way there for over {self.rules.patience_s:g} s; {helper} is asked too"
            )

    async def _settle(self, job: Job, found: Completion, url: str) -> None:
        async with self.changed:
            if job.found is None:
                job.found, job.server = found, url
                self.num_open -= 1
            if not self.num_open:
                self.done.set()
            self.changed.notify_all()

    async def _failed(self, place: _Place, job: Job, error: ServerError) -> None:
        url = place.server.url
        place.strikes += 1
        job.begun.pop(url, None)
        if error.is_for_all or place.strikes >= MAX_STRIKES:
            await self._leave_out(place, str(error))
        job.refused[url] = str(error)
        others = [p for p in self.places.values() if p.server.url not in (*self.out, *job.refused)]
        if job.found is not None or job.begun:
            return
        if others:
            self.rules.counts.asked_again += 1
            min(others, key=lambda p: len(p.queue)).queue.appendleft(job)
        elif len(self.out) < len(self.places):
            self.rules.counts.failed += 1
            await self._settle(job, _failed(str(error)), "")
        async with self.changed:
            self.changed.notify_all()

    async def _lost(self, place: _Place, job: Job, error: ServerError) -> None:
        """The server does not know the adapter any more: once a round it is handed over again."""
        url = place.server.url
        lock = self.restoring.get(url)
        if lock is None and self.rules.again is not None:
            lock = self.restoring[url] = asyncio.Lock()
            async with lock:
                try:
                    await asyncio.to_thread(self.rules.again, place.server)
                except ServerError as failure:
                    await self._leave_out(place, str(failure))
                else:
                    self.restored[url] = self.rules.clock()
                    self.rules.counts.handed_over_again += 1
                    self.rules.say(f"{url}: it had lost the adapter (was it started anew?), which is handed over again")
        elif lock is not None and lock.locked():
            async with lock:
                pass
        elif job.begun[url] > self.restored.get(url, -math.inf):  # what was asked before may be answered behind it
            await self._leave_out(place, str(error))
        job.begun.pop(url, None)
        place.queue.appendleft(job)
        async with self.changed:
            self.changed.notify_all()

    async def _leave_out(self, place: _Place, why: str) -> None:
        url = place.server.url
        if url in self.out:
            return
        self.out[url] = why
        self.rules.counts.servers_left_out += 1
        left = len(self.places) - len(self.out)
        if not left:
            self.done.set()
        self.rules.say(f"{url} is left out from here on: {why} {left} of {len(self.places)} servers go on.")
        for job in self.jobs if left else ():  # those that waited for it alone
            if job.found is None and not job.begun and self.places.keys() <= {*self.out, *job.refused}:
                self.rules.counts.failed += 1
                await self._settle(job, _failed(next(iter(job.refused.values()))), "")

    async def _until_changed(self) -> None:
        """Until a job comes back, all are settled, or one has been under way for long."""
        try:
            async with asyncio.timeout(self.rules.patience_s / 4), self.changed:
                await self.changed.wait()
        except TimeoutError:
            pass

    async def _watch(self) -> None:
        """Say whom the round waits for."""
        while True:
            await asyncio.sleep(self.rules.patience_s)
            begun = [(at, url) for job in self.jobs if job.found is None for url, at in job.begun.items()]
            if begun:
                at, url = min(begun)
                age = self.rules.clock() - at
                told = (
                    f"waiting for {self.num_open} of {len(self.jobs)} answers, the oldest since {age:.0f} s, at {url}"
                )
                if age >= self.rules.patience_s:
                    self.rules.say(told)

    def _give_up(self) -> None:
        for job in self.jobs:
            if job.found is None:
                where = " and ".join(job.begun) or "any server"
                job.found = _failed(f"late: no answer within {self.rules.deadline_s:g} seconds from {where}")
                self.rules.counts.late += 1


def _failed(why: str) -> Completion:
    return Completion((), (), ERROR, why)
