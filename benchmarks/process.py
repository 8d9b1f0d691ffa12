"""One measured process: its peak memory, its processor time, and what others took from the machine meanwhile."""

import hashlib
import importlib.util
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

THREADS = 2
# What would change the memory allocator or the threads of a child behind our back.
FOREIGN_SETTINGS = ("LD_PRELOAD", "POSTTRAIN_ALLOCATOR", "THP_MEM_ALLOC_ENABLE", "GLIBC_TUNABLES", "KMP_", "GOMP_")


@dataclass(frozen=True)
class Usage:
    """What a finished process took. `foreign_cores`: processors that everything else kept busy, on average."""

    wall_s: float
    peak_rss_mb: float
    foreign_cores: float


class WorkerError(Exception):
    """A measured process ended with an error; its last words are the message."""


def clean_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """The environment of a worker: two threads, no GPU, no network, and no allocator settings but those of `extra`."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", *FOREIGN_SETTINGS))}
    fixed = {
        "OMP_NUM_THREADS": str(THREADS),
        "MKL_NUM_THREADS": str(THREADS),
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "PYTHONHASHSEED": "0",
    }
    return kept | fixed | dict(extra)


def run_measured(command: Sequence[str], *, env: Mapping[str, str], log: Path) -> Usage:
    """Run a process to its end; its output goes to `log`. Raises WorkerError where it fails."""
    busy, began = _busy_seconds(), time.perf_counter()
    with log.open("wb") as file:
        process = subprocess.Popen(list(command), env=dict(env), stdout=file, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - began
    if process.returncode != 0:
        last = log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
        raise WorkerError(f"exit code {process.returncode} of {' '.join(command)}\n" + "\n".join(last))
    foreign = (_busy_seconds() - busy - used.ru_utime - used.ru_stime) / wall
    return Usage(wall, used.ru_maxrss / 1024, max(0.0, foreign))


def source_hash() -> str:
    """Of the library that is measured. A run during which it changed compares two programs and is worth nothing."""
    package = importlib.util.find_spec("posttrain")
    if package is None or package.origin is None:
        raise SystemExit("error: posttrain is not installed for this interpreter")
    digest = hashlib.sha256()
    for path in sorted(Path(package.origin).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def must_be_unchanged(before: str) -> None:
    if source_hash() != before:
        raise SystemExit("error: the sources of posttrain changed during the run, so its figures were not written")


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    return sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))


def cpu_model() -> str:
    """The processor's name, as the kernel gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return "unknown"


def hardware() -> dict[str, object]:
    """What the figures were measured on, without anything that names the machine."""
    return {
        "cpu": cpu_model(),
        "cores": psutil.cpu_count(),
        "threads_used": THREADS,
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "instructions": _instructions(),
    }


def _instructions() -> list[str]:
    """Those that decide how fast bfloat16 is."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("flags", 1)[1].split("\n", 1)[0].split()
    except (OSError, IndexError):
        return []
    return [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]
