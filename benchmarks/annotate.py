"""20 annotators at once, 200 ballots each, and a server that is killed twice: every acknowledged vote is there, once.

    python benchmarks/annotate.py [--annotators 20] [--ballots 200] [--kills 2] [--store URL]

Every annotator is a thread that behaves as the page does: it asks for an item, votes under a key of its own, and sends
the same vote again until it is acknowledged. The server is a process of `posttrain annotate`, ended by SIGKILL in the
middle of the work and started again on the same port. Prints the figures; with the default sizes it also writes
results/annotate.json.
"""

import argparse
import json
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx

from posttrain.feedback.store import Store

RESULTS = Path(__file__).with_name("results") / "annotate.json"
READY_S = 60.0


class Server:
    """A process of `posttrain annotate` that can be killed and started again."""

    def __init__(self, store: str, items: Path, names: list[str], overlap: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.words = [sys.executable, "-m", "posttrain.cli", "annotate", "--store", store, "--port", str(self.port)]
        self.words += ["--annotators", ",".join(names), "--overlap", str(overlap)]
        self.tokens: dict[str, str] = {}
        self.process = self.start("--input", str(items))

    def start(self, *more: str) -> "subprocess.Popen[str]":
        env = {**os.environ, "POSTTRAIN_ALLOCATOR": "system", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        process = subprocess.Popen([*self.words, *more], stdout=subprocess.PIPE, text=True, env=env)
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.match(r"(\w+): http://\S+/#(\S+)$", line.strip()):
                self.tokens[found[1]] = found[2]
            if line.startswith("figures"):
                break
        self._wait()
        return process

    def _wait(self) -> None:
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            try:
                httpx.get(f"http://127.0.0.1:{self.port}/", timeout=5)
                return
            except httpx.TransportError:
                time.sleep(0.02)
        raise SystemExit("error: the server did not start")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()

    def end(self) -> None:
        self.process.terminate()
        self.process.communicate(timeout=30)


class Annotator(threading.Thread):
    """One person with one page: never gives up on a vote, never casts one twice."""

    def __init__(self, name: str, server: Server, num_ballots: int) -> None:
        super().__init__(name=name)
        self.server, self.left = server, num_ballots
        self.rng = random.Random(name)
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{server.port}",
            headers={"Authorization": f"Bearer {server.tokens[name]}"},
            timeout=30,
        )
        self.acknowledged: dict[str, int] = {}
        self.latency_s: list[float] = []
        self.again = self.stale = 0
        self.unexpected: list[str] = []

    def run(self) -> None:
        with self.client:
            self._work()

    def _work(self) -> None:
        while self.left and not self.unexpected:
            shown = self._ask("GET", "/api/next")
            if shown is None:
                break
            if shown["assignment"] is None:
                if shown["progress"]["team"] >= shown["progress"]["wanted"]:
                    break
                time.sleep(0.05)
                continue
            self._vote(shown)

    def _vote(self, shown: dict[str, Any]) -> None:
        places = list(range(len(shown["answers"])))
        self.rng.shuffle(places)
        key = f"{self.rng.getrandbits(128):032x}"
        body = {"kind": "ranking", "key": key, "assignment": shown["assignment"], "places": places, "seconds": 1.0}
        answer = self._ask("POST", "/api/vote", body)
        if answer is not None and "ballot" in answer:
            self.acknowledged[key] = answer["ballot"]
            self.left -= 1

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any] | None:
        for tries in range(2_000):
            began = time.perf_counter()
            try:
                answer = self.client.request(method, path, json=body)
            except httpx.TransportError:
                self.again += 1
                time.sleep(min(0.05 * 2 ** min(tries, 4), 0.5) * self.rng.uniform(0.8, 1.2))
                continue
            if answer.status_code == 503:
                self.again += 1
                time.sleep(0.2)
                continue
            if path == "/api/vote":
                self.latency_s.append(time.perf_counter() - began)
            if answer.status_code == 409:
                self.stale += 1
            elif answer.status_code != 200:
                self.unexpected.append(f"{path}: {answer.status_code} {answer.text[:200]}")
                return None
            found: dict[str, Any] = answer.json()
            return found
        self.unexpected.append(f"{path}: gave up")
        return None


def write_items(path: Path, num_items: int) -> None:
    """Prompts with 2 to 4 answers of as many models."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(num_items):
            answers = [{"content": f"answer {i} to {number}", "model": f"model-{i}"} for i in range(2 + number % 3)]
            file.write(json.dumps({"prompt": f"question {number}", "responses": answers}) + "\n")


def measure(store: str, folder: Path, *, num_annotators: int, num_ballots: int, num_kills: int) -> dict[str, Any]:
    """Run the whole thing; the figures. `lost`: acknowledged votes that are not in the store."""
    names = [f"annotator{number}" for number in range(num_annotators)]
    overlap = 2 if num_annotators > 1 else 1
    # Spare items, so that the last ballots do not wait for each other.
    write_items(folder / "items.jsonl", num_ballots * num_annotators // overlap + num_annotators)
    server = Server(store, folder / "items.jsonl", names, overlap)
    people = [Annotator(name, server, num_ballots) for name in names]
    began = time.perf_counter()
    for person in people:
        person.start()
    down_s = []
    total = num_annotators * num_ballots
    for kill in range(num_kills):
        while sum(len(person.acknowledged) for person in people) < total * (kill + 1) / (num_kills + 1):
            if not any(person.is_alive() for person in people):
                break
            time.sleep(0.005)
        server.kill()
        fell = time.perf_counter()
        server.process = server.start()
        down_s.append(time.perf_counter() - fell)
    for person in people:
        person.join()
    seconds = time.perf_counter() - began
    server.end()
    return {**_checked(store, people, overlap), "seconds": round(seconds, 2), "down_s": [round(s, 2) for s in down_s]}


def _checked(store: str, people: list[Annotator], overlap: int) -> dict[str, Any]:
    """What the clients were told against what the database holds."""
    with Store.open(store) as opened:
        ballots = opened.ballots(include_replaced=True)
    ids = {ballot.key: ballot.id for ballot in ballots}
    acknowledged = {f"{person.name}/{key}": id for person in people for key, id in person.acknowledged.items()}
    pairs = [(ballot.item_id, ballot.annotator) for ballot in ballots]
    per_item: dict[int | None, int] = {}
    for item, _ in pairs:
        per_item[item] = per_item.get(item, 0) + 1
    latency = sorted(1000 * second for person in people for second in person.latency_s)
    return {
        "annotators": len(people),
        "ballots_each": max((len(person.acknowledged) for person in people), default=0),
        "acknowledged": len(acknowledged),
        "stored": len(ballots),
        "lost": sum(ids.get(key) != id for key, id in acknowledged.items()),
        "stored_without_acknowledgement": len(set(ids) - set(acknowledged)),
        "duplicates": len(pairs) - len(set(pairs)),
        "items_over_overlap": sum(count > overlap for count in per_item.values()),
        "sent_again": sum(person.again for person in people),
        "stale": sum(person.stale for person in people),
        "unexpected": [words for person in people for words in person.unexpected],
        "vote_ms": {
            "p50": round(statistics.median(latency), 1),
            "p99": round(latency[int(0.99 * (len(latency) - 1))], 1),
            "max": round(latency[-1], 1),
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--annotators", type=int, default=20)
    parser.add_argument("--ballots", type=int, default=200)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--store", default="", help="an address of PostgreSQL; a new SQLite file when left out")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = chosen.store or str(Path(folder) / "feedback.db")
        found = measure(
            store,
            Path(folder),
            num_annotators=chosen.annotators,
            num_ballots=chosen.ballots,
            num_kills=chosen.kills,
        )
    found = {"database": "postgresql" if chosen.store else "sqlite", "kills": chosen.kills, **found}
    print(json.dumps(found, indent=1))
    sound = not (found["lost"] or found["duplicates"] or found["items_over_overlap"] or found["unexpected"])
    sound = sound and found["acknowledged"] == chosen.annotators * chosen.ballots
    if sound and (chosen.annotators, chosen.ballots, chosen.kills, chosen.store) == (20, 200, 2, ""):
        from process import hardware  # beside this file; the tests load this file from elsewhere

        RESULTS.write_text(json.dumps({**found, "hardware": hardware()}, indent=1) + "\n", encoding="utf-8")
    print("every acknowledged vote is stored, once" if sound else "NOT SOUND: no figures were kept")
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
