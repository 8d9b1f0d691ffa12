"""One of two processes that meet all that can be wrong in a run of several: `torchrun_pair.py RANK FOLDER PORT...`

Each scenario is a run of `posttrain sft` in both, with something wrong in one of them. What each process said and
how it ended is written to FOLDER/said-RANK.json; in the last one rank 1 is killed.
"""

import contextlib
import errno
import io
import json
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from posttrain import cli
from posttrain.errors import TrainError
from posttrain.recipes import processes, protect, training
from posttrain.train import checkpoint, loop
from posttrain.train.runlog import RunFolder

IS_STARTED = __name__ == "__main__"  # and not looked into for doctests
RANK, FOLDER, PORTS = (int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]) if IS_STARTED else (0, Path(), [])
OUT = FOLDER / "out"
SHARDS = "checkpoint-00000002/sharded"
WORDS = ["sft", str(FOLDER / "sft.yaml"), "--output-dir", str(OUT), "--max-steps", "4", "--ddp-timeout", "60"]
ANEW, ON = [*WORDS, "--overwrite-output-dir"], [*WORDS, "--resume-from-checkpoint", "--strategy", "fsdp"]
HELD = ["--protect", "ewc", "--protect-dataset", str(FOLDER / "text.txt"), "--max-steps", "1"]
SHORT_S = 3


@contextlib.contextmanager
def instead(owner: Any, name: str, value: Any, rank: int) -> Iterator[None]:
    """In this rank another value."""
    before = getattr(owner, name)
    if rank == RANK:
        setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextlib.contextmanager
def small_disk(rank: int) -> Iterator[None]:
    """In this rank no file grows beyond a few bytes: Python ignores the signal, and gets EFBIG."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    if rank == RANK:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def full(_folder: RunFolder, _line: dict[str, Any]) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def sleeping(*args: Any, _step: Callable[..., Any] = loop._step) -> Any:
    time.sleep(SHORT_S + 1)
    return _step(*args)


def killed(folder: Path, *args: Any, _save: Callable[..., Any] = checkpoint.save_shards) -> Any:
    if "4" in folder.name:
        os.kill(os.getpid(), signal.SIGKILL)
    return _save(folder, *args)


def refused(*_: Any, **__: Any) -> Any:
    raise TrainError("this process alone knows why.")


def rounded(*args: Any, _measure: Callable[..., Any] = protect.fisher_diagonal, **kwargs: Any) -> Any:
    """As on another device, where the last digit may be another."""
    return {name: value.nextafter(value + 1) for name, value in _measure(*args, **kwargs).items()}


def broken(*_: Any, **__: Any) -> Any:
    raise ValueError("a bug of this process alone")


def on_shards(change: Callable[[Path], None]) -> None:
    """Rank 0 changes the shards of a fresh copy of the checkpoint before it meets the other."""
    if RANK == 0:
        shutil.rmtree(OUT)
        shutil.copytree(FOLDER / "good", OUT)
        change(OUT / SHARDS)


def truncate(shards: Path) -> None:
    shard = shards / "__1_0.distcp"
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])


def scenarios() -> Iterator[tuple[str, list[str], contextlib.AbstractContextManager[None]]]:
    """Name, words of the command line, and what is wrong meanwhile."""
    ready = contextlib.nullcontext()
    yield "settings", [*ANEW, "--learning-rate", str(1e-3 * (RANK + 1))], ready
    yield "version", ANEW, instead(processes, "__version__", "0.0.1", 1)
    os.chdir(FOLDER / "other" if RANK else FOLDER)
    yield "data", ANEW, ready
    os.chdir(FOLDER / "broken" if RANK else FOLDER)
    yield "reading", ANEW, ready
    os.chdir(FOLDER)
    yield "bug", ANEW, instead(training, "share_models", broken, 1)
    yield "refused", ANEW, instead(loop, "_step", refused, 1)
    yield "rounded", [*ANEW, *HELD], instead(protect, "fisher_diagonal", rounded, 1)
    yield "full metrics", ANEW, instead(RunFolder, "write", full, 0)
    yield "full shard", [*ANEW, "--strategy", "fsdp"], small_disk(1)
    yield "good", [*ANEW, "--strategy", "fsdp"], ready
    if RANK == 0:
        shutil.rmtree(OUT / "checkpoint-00000004")
        shutil.copytree(OUT, FOLDER / "good")
    yield "missing shard", ON, ready_with(lambda shards: (shards / "__1_0.distcp").unlink())
    yield "truncated shard", ON, ready_with(truncate)
    yield "missing list", ON, ready_with(lambda shards: (shards / ".metadata").unlink())
    yield "truncated list", ON, ready_with(lambda shards: (shards / ".metadata").write_bytes(b"\x80\x04\x95"))
    yield "other settings", [*ON, "--learning-rate", "5e-4"], ready_with(lambda _: None)
    yield "other model", [*ON, "--model", "wider"], ready_with(lambda _: None)
    yield "other rows", [*ON, "--gradient-accumulation-steps", "3"], ready_with(lambda _: None)
    yield "hang", [*ANEW, "--ddp-timeout", str(SHORT_S)], instead(loop, "_step", sleeping, 1)
    yield "killed", [*ANEW, "--strategy", "fsdp"], instead(checkpoint, "save_shards", killed, 1)


def ready_with(change: Callable[[Path], Any]) -> contextlib.AbstractContextManager[None]:
    on_shards(change)
    return contextlib.nullcontext()


def run(words: list[str]) -> int:
    try:
        return cli.main(words)
    except SystemExit as stop:
        return int(stop.code or 0)


def recorded() -> Any:
    """What the run folder says of the last run that began to write."""
    record = OUT / "run.json"
    return json.loads(record.read_text()) if RANK == 0 and record.exists() else {}


def main() -> None:
    os.environ |= {"RANK": str(RANK), "LOCAL_RANK": str(RANK), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    said: dict[str, dict[str, Any]] = {}
    for (name, words, wrong), port in zip(scenarios(), PORTS, strict=False):
        os.environ["MASTER_PORT"] = port
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), wrong:
            code = run(words)
        said[name] = {"code": code, "err": err.getvalue(), "out": out.getvalue(), "record": recorded()}
        (FOLDER / f"said-{RANK}.json").write_text(json.dumps(said))


if IS_STARTED:
    main()
