"""The desk of a pipeline: an actor beside the driver that hands out jobs and knows who has which."""

import time
from collections.abc import Collection


class Desk:
    """Jobs are handed out in `order`, in which one may stand again. Calls of an actor may overtake each other, so each
    says the place that it means."""

    def __init__(self) -> None:
        import asyncio

        self.jobs: dict[int, bytes] = {}
        self.order: dict[int, int] = {}
        self.handed: set[int] = set()
        self.ended: set[int] = set()
        self.tries: dict[int, int] = {}
        self.under_way: dict[int, tuple[str, str, float]] = {}
        self.closed, self.changed = False, asyncio.Condition()

    async def put(self, place: int, job: int, content: bytes) -> None:
        """One more job."""
        async with self.changed:
            self.jobs[job], self.order[place] = content, job
            self.changed.notify_all()

    async def close(self) -> None:
        """Hand out no more."""
        async with self.changed:
            self.closed = True
            self.changed.notify_all()

    async def next(self, place: int) -> tuple[int, bytes] | None:
        """The job of that place, once it is there. A reader that was started anew begins at 0 and is given the same."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.closed or place in self.order)
            if self.closed:
                return None
            job = self.order[place]
            self.handed.add(job)
            return job, self.jobs[job]

    async def begin(self, job: int, who: str, node: str) -> int:
        """How often this job has been begun; 0 where it is done, and nobody need begin it."""
        if job in self.ended:
            return 0
        self.tries[job] = self.tries.get(job, 0) + 1
        self.under_way[job] = (who, node, time.monotonic())
        return self.tries[job]

    async def end(self, job: int) -> None:
        """It is done, and its content need not be kept."""
        self.ended.add(job)
        self.under_way.pop(job, None)
        self.jobs[job] = b""

    async def state(self) -> list[tuple[int, str, float]]:
        """(job, who has it, seconds) of what is under way."""
        return [(job, who, time.monotonic() - since) for job, (who, _, since) in self.under_way.items()]

    async def again(self, place: int, lost: Collection[str]) -> int:
        """Hand out again, from `place` on, what the nodes `lost` had: what was begun there, and, since a queue may have
        been lost too, what was handed out and begun nowhere. How many they are."""
        async with self.changed:
            waiting = [
                job
                for job in sorted(self.handed - self.ended)
                if job not in self.under_way or self.under_way[job][1] in lost
            ]
            for job in waiting:
                self.under_way.pop(job, None)
            self.order |= {place + step: job for step, job in enumerate(waiting)}
            self.changed.notify_all()
            return len(waiting)
