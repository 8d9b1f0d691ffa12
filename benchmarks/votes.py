"""Votes of served users: how well personal data is found, how fast redaction is, and how many votes a store takes.

    python benchmarks/votes.py [--threads 200] [--seconds 5] [--alarms FILE.jsonl …]

Precision and recall are of tests/feedback/personal_data.jsonl, a list of sentences with the kinds of personal data in
them. `--alarms`: files of JSON lines; prints what would be blotted out of their texts, by kind. Writes
results/votes.json.
"""

import argparse
import gzip
import json
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from posttrain.feedback.personal_data import redact
from posttrain.feedback.served import ServedStore
from posttrain.feedback.store import Store
from posttrain.serve.doors import Exchange, Vote
from posttrain.types import Message
from process import hardware

HERE = Path(__file__).parent
LABELLED = HERE.parent / "tests" / "feedback" / "personal_data.jsonl"
RESULTS = HERE / "results" / "votes.json"
PROSE = "The train leaves at 12:30, so be there by noon; it costs 17.50 euros, and 2 of 3 seats are taken. " * 20


def labelled() -> dict[str, Any]:
    """Precision and recall, a find counted right where its kind is in the list."""
    right = wrong = missed = 0
    rows = [json.loads(line) for line in LABELLED.read_bytes().split(b"\n") if line]
    for row in rows:
        found, wanted = Counter(redact(row["text"]).counts), Counter(row["kinds"])
        right += (found & wanted).total()
        wrong += (found - wanted).total()
        missed += (wanted - found).total()
    return {
        "sentences": len(rows),
        "right": right,
        "false_alarms": wrong,
        "missed": missed,
        "precision": round(right / (right + wrong), 3),
        "recall": round(right / (right + missed), 3),
    }


def alarms(path: str) -> dict[str, Any]:
    """What is found in the texts of a file."""
    opened = gzip.open if path.endswith(".gz") else open
    num_texts = num_characters = 0
    found: Counter[str] = Counter()
    with opened(path, "rb") as lines:
        for line in lines:
            for text in _texts(json.loads(line)):
                num_texts, num_characters = num_texts + 1, num_characters + len(text)
                found.update(redact(text).counts)
    return {"texts": num_texts, "characters": num_characters, "found": dict(found)}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def speed() -> float:
    """Megabytes of prose a second, on one core."""
    begun, num = time.process_time(), 0
    while time.process_time() - begun < 1:
        redact(PROSE)
        num += len(PROSE)
    return round(num / 1e6 / (time.process_time() - begun), 2)


def throughput(num_threads: int, seconds: float) -> dict[str, Any]:
    """Exchanges and votes kept by threads that come at once; each is in the file when its call returns."""
    took: list[float] = []
    with tempfile.TemporaryDirectory() as folder, Store.open(Path(folder) / "f.db") as store:
        keeper, end, adding = ServedStore(store), time.monotonic() + seconds, threading.Lock()

        def user(name: str) -> None:
            number, mine = 0, []
            while time.monotonic() < end:
                begun = time.monotonic()
                id = f"{name}-{number}"
                asked = (Message("user", f"{id}: " + PROSE[:400]),)
                answers = (Message("assistant", f"{id} " + PROSE[:400]),)
                keeper.keep(Exchange(id, name, asked, answers, "m", may_keep=True))
                keeper.vote(Vote(id, name, "up", id))
                mine.append(time.monotonic() - begun)
                number += 1
            with adding:
                took.extend(mine)

        threads = [threading.Thread(target=user, args=(f"u{number}",)) for number in range(num_threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        lost = len(took) - store.counts()["ballots"]
    waits = statistics.quantiles(took, n=100)
    return {
        "threads": num_threads,
        "pairs_a_second": round(len(took) / seconds),
        "p50_ms": round(1000 * waits[49], 1),
        "p99_ms": round(1000 * waits[98], 1),
        "lost": lost,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--alarms", nargs="*", default=[])
    chosen = parser.parse_args()
    found: dict[str, Any] = {"labelled": labelled(), "redacted_mb_a_second": speed()}
    found["store"] = throughput(chosen.threads, chosen.seconds)
    found["alarms"] = {Path(path).name: alarms(path) for path in chosen.alarms}
    found["hardware"] = hardware()
    print(json.dumps(found, indent=1))
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
