"""Tokenise and pack a million conversations with two workers: speed beside `tokenizers` alone, memory, kill and resume.

    python benchmarks/prepare.py [--rows 1000000] [--rounds 3]

Conversations are generated from the pocket world (conversations.py); tokenizer and template are the pocket's and
ChatML. `tokenizers` gets texts that are rendered already, and its better setting of two: one process with two threads,
or two processes with one each. Speeds are compared in rounds that alternate between the two, each on the same rows with
an empty cache. Memory is the sum over all processes of the preparation, sampled five times a second; PSS counts a page
that several share once. Then a run is killed half-way and started again.
"""

import argparse
import json
import os
import pickle
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from conversations import conversations, write_conversations
from prepare_worker import tokenizer
from process import clean_environment, hardware, must_be_unchanged, source_hash

HERE = Path(__file__).parent
NUM_PROC, MAX_LENGTH = 2, 2048
GOAL_SPEED, GOAL_PACKING, GOAL_RSS_MB = 0.70, 0.98, 2048
BYTES_A_ROW = 3_000  # of disk: the text, and the shards of two caches
KILL_AT = 0.5  # of the shards


def command(job: str, *words: object) -> list[str]:
    return [sys.executable, str(HERE / "prepare_worker.py"), job, *map(str, words)]


class Memory:
    """The largest sum of memory over a process and all its children, in MB."""

    def __init__(self, process: int) -> None:
        self.rss_mb = self.pss_mb = 0.0
        self._root, self._over = psutil.Process(process), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(0.2):
            rss = pss = 0
            try:
                for process in (self._root, *self._root.children(recursive=True)):
                    used = process.memory_full_info()
                    rss, pss = rss + used.rss, pss + used.pss
            except psutil.Error:  # one has ended in between
                continue
            self.rss_mb, self.pss_mb = max(self.rss_mb, rss / 2**20), max(self.pss_mb, pss / 2**20)

    def stop(self) -> None:
        self._over.set()
        self._thread.join()


def start(words: Sequence[str], extra: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        words, env=clean_environment(extra or {}), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def result(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The JSON of a worker's last line; the lines before it are shown."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if not line.startswith("{"):
            print(f"    {line.rstrip()}", flush=True)
    if process.wait() != 0:
        raise SystemExit(f"error: exit code {process.returncode} of {process.args}")
    return json.loads(lines[-1])


def run_prepare(data: Path, cache: Path) -> dict[str, Any]:
    process = start(command("prepare", data, cache, NUM_PROC, MAX_LENGTH))
    memory = Memory(process.pid)
    try:
        found = result(process)
    finally:
        memory.stop()
    return found | {"peak_rss_mb": round(memory.rss_mb), "peak_pss_mb": round(memory.pss_mb)}


def run_encode(texts: Sequence[Path], method: str) -> float:
    """Tokens a second: one process a file, all begin together, and the last one counts."""
    threads = {"RAYON_NUM_THREADS": str(NUM_PROC // len(texts)), "TOKENIZERS_PARALLELISM": "true"}
    processes = [start(command("encode", path, method), threads) for path in texts]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    found = [result(process) for process in processes]
    return sum(one["tokens"] for one in found) / max(one["seconds"] for one in found)


def compare(work: Path, num: int, rounds: int) -> list[dict[str, float]]:
    """Rounds of tokenizers alone and of the whole preparation on the same rows."""
    data = work / "some.jsonl"
    write_conversations(data, num)
    made = tokenizer()
    texts = [made.apply_chat_template(row["messages"], tokenize=False) for row in conversations(num)]
    halves = {"whole": texts, "first": texts[::2], "second": texts[1::2]}
    files = {name: work / f"{name}.pickle" for name in halves}
    for name, path in files.items():
        path.write_bytes(pickle.dumps(halves[name]))
    settings = {"threads": [files["whole"]], "processes": [files["first"], files["second"]]}
    found = []
    for number in range(rounds):
        speeds = {
            f"{method}_{setting}": run_encode(paths, method)
            for method in ("encode_batch", "encode_batch_fast")
            for setting, paths in settings.items()
        }
        ours = run_prepare(data, work / f"cache-{number}")
        speeds["prepare"] = ours["tokens"] / ours["prepare_s"]
        shutil.rmtree(work / f"cache-{number}")
        found.append({name: round(speed) for name, speed in speeds.items()})
        print("  " + ", ".join(f"{name} {speed:,.0f} tokens/s" for name, speed in found[-1].items()), flush=True)
    return found


def ratio(rounds: Sequence[Mapping[str, float]], method: str) -> float:
    """The median over rounds of our speed by that of the faster setting of tokenizers."""
    return statistics.median(
        one["prepare"] / max(one[f"{method}_threads"], one[f"{method}_processes"]) for one in rounds
    )


def shards(cache: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in cache.rglob("*.safetensors")}


def kill_and_resume(data: Path, cache: Path, whole: Mapping[str, Any]) -> dict[str, Any]:
    """SIGKILL to the main process alone; its workers must end by themselves."""
    process = start(command("prepare", data, cache, NUM_PROC, MAX_LENGTH))
    while len(shards(cache)) < KILL_AT * whole["num_made"]:
        if process.poll() is not None:
            raise SystemExit("error: the run ended before it was killed")
        time.sleep(0.01)
    workers = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    killed = time.perf_counter()
    process.communicate()
    lingering = psutil.wait_procs(workers, timeout=60)[1]
    ended_s = time.perf_counter() - killed
    finished = shards(cache)
    again = run_prepare(data, cache)
    return {
        "finished_before": len(finished),
        "made_after": again["num_made"],
        "found_after": again["num_found"],
        "redone": sum(shards(cache).get(name) != when for name, when in finished.items()),
        "workers_ended_s": round(ended_s, 2),
        "workers_lingering": len(lingering),
        "identical": again["digest"] == whole["digest"],
        "prepare_s": round(again["prepare_s"], 1),
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows-of-a-round", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="where the data is made; a temporary folder otherwise")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "prepare.json")
    return parser.parse_args()


def measure(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    free, wanted = shutil.disk_usage(work).free, args.rows * BYTES_A_ROW
    if free < wanted:
        raise SystemExit(f"error: {work} has {free / 2**30:.1f} GB free, {wanted / 2**30:.1f} GB are needed")
    print("tokenizers alone and the whole preparation", flush=True)
    rounds = compare(work, args.rows_of_a_round, args.rounds)
    print(f"{args.rows:,} conversations", flush=True)
    data = work / "all.jsonl"
    write_conversations(data, args.rows)
    whole = run_prepare(data, work / "cache")
    print("  once more, from the cache", flush=True)
    cached = run_prepare(data, work / "cache")
    shutil.rmtree(work / "cache")
    print("  killed and started again", flush=True)
    resumed = kill_and_resume(data, work / "cache-killed", whole)
    return {
        "conversations": args.rows,
        "data_mb": round(data.stat().st_size / 2**20),
        "tokens_per_s": round(whole["tokens"] / whole["prepare_s"]),
        "ratio_to_encode_batch": round(ratio(rounds, "encode_batch"), 3),
        "ratio_to_encode_batch_fast": round(ratio(rounds, "encode_batch_fast"), 3),
        "rounds": rounds,
        "whole": whole,
        "from_cache_s": round(cached["prepare_s"], 2),
        "killed": resumed,
    }


def main() -> int:
    args, source = parse(), source_hash()
    with tempfile.TemporaryDirectory(prefix="posttrain-prepare-", dir=args.folder) as folder:
        figures = measure(args, Path(folder))
    must_be_unchanged(source)
    whole, killed = figures["whole"], figures["killed"]
    goals = {
        f"speed of encode_batch {figures['ratio_to_encode_batch']:.2f} (at least {GOAL_SPEED})": figures[
            "ratio_to_encode_batch"
        ]
        >= GOAL_SPEED,
        f"packing {whole['packing_efficiency']:.4f} (at least {GOAL_PACKING})": whole["packing_efficiency"]
        >= GOAL_PACKING,
        f"memory {whole['peak_rss_mb']:,} MB (under {GOAL_RSS_MB:,})": whole["peak_rss_mb"] < GOAL_RSS_MB,
        f"redone after a kill {killed['redone']} (none)": killed["redone"] == 0 and killed["identical"],
    }
    described = {
        "name": "prepare",
        "command": f"python benchmarks/prepare.py --rows {args.rows} --rounds {args.rounds}",
        "hardware": hardware(),
        "versions": {name: version(name) for name in ("posttrain", "tokenizers", "transformers", "numpy")},
        "figures": figures,
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    print(f"{figures['tokens_per_s']:,} tokens/s, {figures['ratio_to_encode_batch_fast']:.2f} of encode_batch_fast")
    for text, is_met in goals.items():
        print(f"{'met' if is_met else 'NOT MET'}: {text}")
    print(f"wrote {args.output}")
    return 0 if all(goals.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
