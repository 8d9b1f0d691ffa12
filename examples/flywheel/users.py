"""Simulated users of a served model, whose taste is known: what they like is the gold preference of the pocket world.

    posttrain serve runs/live --store runs/served.db
    python examples/flywheel/users.py --base-url http://127.0.0.1:8000 --users 200

They speak to the server as any user does, over HTTP. On a visit a user asks one question. Half of the visits show two
answers: the user takes the one that is liked better, with a slip now and then (a logistic choice, as Bradley and Terry
have it). On the others there is one answer, which gets a thumb; after a thumb down some ask again, and some write what
they would have liked to read. Not everybody agrees that their texts are kept.
"""

import argparse
import asyncio
import json
import math
import random
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx

from posttrain.pocket.gold import GoldItem, gold_score
from posttrain.pocket.manners import preference_prompts
from posttrain.pocket.world import build_world

GOOD = 0.75  # right and at least plain in manners: a thumb up
ANSWER_S = 120.0


@dataclass
class Seen:
    """What the users met: their votes by kind, and how good the answers were by the gold score."""

    votes: Counter[str] = field(default_factory=Counter)
    scores: list[float] = field(default_factory=list)
    lost: int = 0  # requests that failed

    def row(self) -> dict[str, Any]:
        """As JSON."""
        mean = sum(self.scores) / len(self.scores) if self.scores else math.nan
        return {
            "votes": dict(self.votes), "answers": len(self.scores), "gold_score": round(mean, 4), "lost": self.lost
        }  # fmt: skip


class User:
    """One user. Chance has a seed of its own in each, so that the order of arrival changes nothing they like."""

    def __init__(self, client: httpx.AsyncClient, args: argparse.Namespace, number: int, seen: Seen) -> None:
        self.client, self.model, self.seen = client, args.model, seen
        self.noise, self.pairs = args.noise, args.pairs
        self.name = f"user-{args.seed}-{number}"
        self.random = random.Random(f"{args.seed}:{number}")
        self.consents = self.random.random() < args.consent

    async def visit(self, item: GoldItem) -> None:
        """Ask one question and say what the answer was worth."""
        if self.random.random() < self.pairs:
            await self._choose(item)
        else:
            await self._judge(item)

    async def _choose(self, item: GoldItem) -> None:
        told = await self._ask(item, {"compare": "true"}, n=2)
        if told is None:
            return
        texts = [choice["message"]["content"] or "" for choice in told["choices"]]
        worth = [gold_score(item, text).total for text in texts]
        self.seen.scores += worth
        if texts[0] == texts[1] or worth[0] == worth[1]:
            self.seen.votes["no difference"] += 1
            return
        first = 1 / (1 + math.exp(-(worth[0] - worth[1]) / self.noise))
        better = 0 if self.random.random() < first else 1
        await self._say("better", told["id"], better, over=[[told["id"], 1 - better]])

    async def _judge(self, item: GoldItem) -> None:
        told = await self._ask(item, {})
        if told is None:
            return
        worth = gold_score(item, told["choices"][0]["message"]["content"] or "").total
        self.seen.scores.append(worth)
        if worth >= GOOD:
            await self._say("up", told["id"], 0)
            return
        await self._say("down", told["id"], 0)
        after = self.random.random()
        if after < 0.2:
            await self._say("edit", told["id"], 0, text=f"{item.good} Glad to help.")
        elif after < 0.5:
            await self._say("regenerated", told["id"], 0)
            await self._ask(item, {"replaces": told["id"]})

    async def _ask(self, item: GoldItem, metadata: dict[str, str], n: int = 1) -> dict[str, Any] | None:
        body = {
            "model": self.model, "messages": [{"role": "user", "content": item.prompt}], "n": n, "max_tokens": 80,
            "temperature": 1.0, "seed": self.random.randrange(2**31), "user": self.name, "store": self.consents,
            "metadata": metadata,
        }  # fmt: skip
        return await self._post("/v1/chat/completions", body)

    async def _say(self, kind: str, completion: str, answer: int, **more: Any) -> None:
        body = {
            "key": str(uuid.UUID(int=self.random.getrandbits(128))), "kind": kind, "completion_id": completion,
            "answer": answer, "user": self.name, **more,
        }  # fmt: skip
        if await self._post("/v1/feedback", body) is not None:
            self.seen.votes[kind] += 1

    async def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        try:
            while True:
                answer = await self.client.post(path, json=body)
                if answer.status_code != 429:
                    answer.raise_for_status()
                    return answer.json()  # type: ignore[no-any-return]
                await asyncio.sleep(float(answer.headers.get("Retry-After", 1)))
        except httpx.HTTPError as error:
            self.seen.lost += 1
            print(f"{path}: {error!r}", flush=True)
            return None


async def live(args: argparse.Namespace) -> Seen:
    """All visits of all users, so many users at once."""
    seen, gate = Seen(), asyncio.Semaphore(args.concurrency)
    items = preference_prompts(build_world())[int(args.held_out)]
    headers = {"Authorization": f"Bearer {args.api_key}"} if args.api_key else {}
    async with httpx.AsyncClient(base_url=args.base_url, timeout=ANSWER_S, headers=headers) as client:

        async def one(number: int) -> None:
            user = User(client, args, number, seen)
            async with gate:
                for _ in range(args.visits):
                    await user.visit(user.random.choice(items))

        await asyncio.gather(*(one(number) for number in range(args.users)))
    return seen


def parser() -> argparse.ArgumentParser:
    """The flags."""
    found = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    found.add_argument("--base-url", default="http://127.0.0.1:8000")
    found.add_argument("--model", default="auto", help="name of the served model, or `auto`: the A/B test's choice")
    found.add_argument("--users", type=int, default=200)
    found.add_argument("--visits", type=int, default=4, help="questions that each user asks")
    found.add_argument("--pairs", type=float, default=0.5, help="share of visits that show two answers")
    found.add_argument("--noise", type=float, default=0.15, help="0.15: of two gold scores 0.25 apart, 84 %% right")
    found.add_argument("--consent", type=float, default=0.8, help="share of users whose texts may be kept")
    found.add_argument("--held-out", action="store_true", help="ask what no training of the example learns from")
    found.add_argument("--concurrency", type=int, default=16)
    found.add_argument("--api-key", default="")
    found.add_argument("--seed", type=int, default=0)
    return found


if __name__ == "__main__":
    print(json.dumps(asyncio.run(live(parser().parse_args())).row()))
