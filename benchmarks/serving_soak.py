"""Many streams on a server that is killed: is every accepted vote kept, every answer its own, does memory stay?

    python benchmarks/serving_soak.py --model runs/quickstart --streams 200 --seconds 60 --kills 2

Streams run side by side against `posttrain serve` on loopback. Each asks a question about something else, at
temperature 0, and votes on what it got; a vote counts as accepted when the server said so. The server is killed
(SIGKILL) at even times and started anew on the same port and store; streams that break off ask again. Then:

- every accepted vote is sent once more: one that was lost would make a new row in the store, others do not;
- every whole answer is held against what the same question gets from an idle server. Rounding may change a word of an
  answer in a crowd; an answer that begins like another question's (and not like its own) was mixed up;
- resident memory is read four times a second; each life of the server is told by its own figures.
"""

import argparse
import asyncio
import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil

from posttrain.feedback import tables
from posttrain.feedback.store import Store
from posttrain.pocket.world import build_world
from process import hardware

HERE = Path(__file__).parent
READY_S, MAX_TOKENS = 120.0, 64
WARM_UP = 0.4  # of a life: what grows before is caches that fill


class Server:
    """One life after the other of a server on one port."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url, self.store = f"http://127.0.0.1:{self.port}", folder / "served.db"
        self.words = [sys.executable, "-m", "posttrain.cli", "serve", args.model, "--port", str(self.port),
                      "--store", str(self.store), "--max-queue", str(args.streams), *args.flags]  # fmt: skip
        self.log = folder / "serve.log"
        self.lives: list[list[tuple[float, float]]] = []

    async def start(self) -> None:
        """Until it is ready."""
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                self.words, stdout=log, stderr=log, env={**os.environ, "PYTHONUNBUFFERED": "1"}
            )
        self.lives.append([])
        ends = time.monotonic() + READY_S
        async with httpx.AsyncClient() as client:
            while time.monotonic() < ends and self.process.poll() is None:
                try:
                    if (await client.get(f"{self.url}/health")).status_code == 200:
                        return
                except httpx.HTTPError:
                    pass
                await asyncio.sleep(0.2)
        raise SystemExit(f"the server does not start:\n{self.log.read_text()[-2000:]}")

    def kill(self) -> None:
        """As a power cut would."""
        self.process.kill()
        self.process.wait()

    async def watch(self) -> None:
        """Read its memory until cancelled."""
        while True:
            try:
                mb = psutil.Process(self.process.pid).memory_info().rss / 2**20
                self.lives[-1].append((time.monotonic(), mb))
            except psutil.Error:
                pass
            await asyncio.sleep(0.25)


class Crowd:
    """What all streams share: what they did."""

    def __init__(self, server: Server, questions: Sequence[str], ends: float) -> None:
        self.server, self.questions, self.ends = server, questions, ends
        self.answers: list[tuple[int, str]] = []
        self.accepted: list[dict[str, Any]] = []
        self.counts: Counter[str] = Counter()
        self.first_token_s: list[float] = []

    async def stream(self, number: int) -> None:
        """One after the other until the time is over."""
        turn = 0
        limits = httpx.Limits(max_connections=2)
        async with httpx.AsyncClient(base_url=self.server.url, timeout=60, limits=limits) as client:
            while time.monotonic() < self.ends:
                question = (number * 31 + turn * 7) % len(self.questions)
                turn += 1
                try:
                    found = await ask(client, self.questions[question], f"user-{number}", self.first_token_s)
                except httpx.HTTPError:
                    self.counts["broken off"] += 1
                    await asyncio.sleep(0.3)
                    continue
                if found is None:
                    self.counts["told to come later"] += 1
                    await asyncio.sleep(1)
                    continue
                id, text = found
                self.answers.append((question, text))
                await self.vote(client, {"key": f"{number}-{turn}-{id}", "kind": "up" if turn % 2 else "down",
                                         "completion_id": id, "answer": 0, "user": f"user-{number}"})  # fmt: skip

    async def vote(self, client: httpx.AsyncClient, body: dict[str, Any]) -> None:
        """Until it is accepted; a killed server is asked again after it is back."""
        while True:
            try:
                answer = await client.post("/v1/feedback", json=body)
            except httpx.HTTPError:
                self.counts["votes sent again"] += 1
                if time.monotonic() > self.ends + READY_S:
                    return
                await asyncio.sleep(0.3)
                continue
            if answer.status_code in (429, 503):
                self.counts["votes told to come later"] += 1
                await asyncio.sleep(1)
                continue
            if answer.status_code == 200:
                self.accepted.append(body)
            else:
                self.counts[f"votes refused, {answer.status_code}"] += 1
            return


async def ask(client: httpx.AsyncClient, question: str, user: str, first_s: list[float]) -> tuple[str, str] | None:
    """(id, text) of a whole streamed answer; None where the server is full. httpx.HTTPError where it broke off."""
    body = {"model": "auto", "messages": [{"role": "user", "content": question}], "max_tokens": MAX_TOKENS,
            "temperature": 0, "stream": True, "user": user, "store": True}  # fmt: skip
    id, pieces, is_whole, began = "", [], False, time.monotonic()
    async with client.stream("POST", "/v1/chat/completions", json=body) as stream:
        if stream.status_code in (429, 503):
            return None
        stream.raise_for_status()
        async for line in stream.aiter_lines():
            if line == "data: [DONE]":
                is_whole = True
            elif line.startswith("data: "):
                chunk = json.loads(line[6:])
                id = chunk["id"]
                said = "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])
                if said and not any(pieces):
                    first_s.append(time.monotonic() - began)
                pieces.append(said)
    if not is_whole:
        raise httpx.RemoteProtocolError("the stream ended without [DONE]")
    return id, "".join(pieces)


async def soak(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The whole experiment."""
    server = Server(args, folder)
    await server.start()
    questions = [fact.questions[0] for fact in build_world().facts if fact.questions][: args.questions]
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        alone = [found[1] if (found := await ask(client, text, "alone", [])) else "" for text in questions]
    watching = asyncio.create_task(server.watch())
    began = time.monotonic()
    crowd = Crowd(server, questions, began + args.seconds)
    streams = [asyncio.create_task(crowd.stream(number)) for number in range(args.streams)]
    for number in range(args.kills):
        await asyncio.sleep(max(0.0, began + args.seconds * (number + 1) / (args.kills + 1) - time.monotonic()))
        server.kill()
        await server.start()
    await asyncio.gather(*streams)
    seconds = time.monotonic() - began
    watching.cancel()
    lost = await lost_votes(server, crowd)
    server.process.terminate()
    server.process.wait(timeout=60)
    return {
        "streams": args.streams, "seconds": round(seconds, 1), "kills": args.kills, "answers": len(crowd.answers),
        "votes_accepted": len(crowd.accepted), "votes_lost": lost, **mixed(crowd.answers, alone),
        "first_token_s": quantiles(crowd.first_token_s), "counts": dict(sorted(crowd.counts.items())),
        "memory_mb": [life(rows) for rows in server.lives if len(rows) > 8],
    }  # fmt: skip


async def lost_votes(server: Server, crowd: Crowd) -> int:
    """How many of the accepted votes are not in the store after all: sent again they would make rows."""
    before = rows_in(server.store)
    missing = len(crowd.accepted) - before if before < len(crowd.accepted) else 0
    gate = asyncio.Semaphore(16)
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:

        async def again(body: dict[str, Any]) -> None:
            async with gate:
                (await client.post("/v1/feedback", json=body)).raise_for_status()

        await asyncio.gather(*map(again, crowd.accepted))
    return max(missing, rows_in(server.store) - before)


def rows_in(store: Path) -> int:
    """Votes of served answers in a store."""
    with Store.open(store) as opened, opened.snapshot() as connection:
        return len(connection.execute(tables.served_votes.select()).all())


def mixed(answers: Sequence[tuple[int, str]], alone: Sequence[str]) -> dict[str, int]:
    """How many answers are the idle server's to the letter, how many only begin as it (rounding chose another word on
    the way), and how many are somebody else's."""
    counts = Counter[str]()
    for question, text in answers:
        if text == alone[question]:
            counts["equal"] += 1
        elif text in alone or not shares_start(text, alone[question]):
            counts["mixed_up"] += 1
        else:
            counts["rounded_apart"] += 1
    return {name: counts[name] for name in ("equal", "rounded_apart", "mixed_up")}


def shares_start(text: str, own: str) -> bool:
    """Whether two answers have their first two words in common."""
    return text.split()[:2] == own.split()[:2]


def life(rows: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Memory of one life: at the end of the warm-up, at the end, and the most."""
    warm = rows[int(len(rows) * WARM_UP)][1]
    return {"warm": round(warm), "end": round(rows[-1][1]), "most": round(max(mb for _, mb in rows))}


def quantiles(seconds: Sequence[float]) -> dict[str, float]:
    """Median and 95th percentile."""
    ordered = sorted(seconds) or [math.nan]
    return {
        name: round(ordered[int(share * (len(ordered) - 1))], 3) for name, share in (("median", 0.5), ("p95", 0.95))
    }


def main() -> None:
    """Run, print, write."""
    wanted = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    wanted.add_argument("--model", default="pocket")
    wanted.add_argument("--streams", type=int, default=200)
    wanted.add_argument("--seconds", type=float, default=60)
    wanted.add_argument("--kills", type=int, default=1)
    wanted.add_argument("--questions", type=int, default=100)
    wanted.add_argument("--flags", nargs="*", default=[], help="more words for posttrain serve")
    wanted.add_argument("--output", default=str(HERE / "results" / "serving_soak.json"))
    args = wanted.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(soak(args, Path(folder)))
    found["hardware"] = hardware() | {"load": os.getloadavg()[0]}
    print(json.dumps(found, indent=1))
    Path(args.output).write_text(json.dumps(found, indent=1) + "\n")
    if found["votes_lost"] or found["mixed_up"]:
        raise SystemExit("votes were lost, or streams mixed up")


if __name__ == "__main__":
    main()
