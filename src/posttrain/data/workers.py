"""Processes that turn blocks of rows into shards on disk. They end with the process that started them, however it
ends: what they wait for is its pipe."""

import contextlib
import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from posttrain.data.blocks import Block
from posttrain.data.rendering import Settings, shard_of_block
from posttrain.data.shards import save_shard
from posttrain.errors import PosttrainError

# -P: a file of the working folder that is called like a module of ours is not that module.
START = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); from posttrain.data.workers import serve; serve()"


def make_shard(block: Block, tokenizer: Any, settings: Settings, path: Path) -> None:
    """A block's shard, saved. Raises DataError for a bad row, PosttrainError where the disk takes no more."""
    shard = shard_of_block(block, tokenizer, settings)
    try:
        save_shard(shard, path)
    except OSError as error:
        raise PosttrainError(
            f"{path.parent}: prepared data cannot be written ({error.strerror or error}); make room there, or name "
            "another folder in the environment variable POSTTRAIN_CACHE."
        ) from error


class Workers:
    """`num` processes, each with the tokenizer and one block at a time; none is started before there is a block for
    it. With 0 this process does the work itself."""

    def __init__(self, num: int, tokenizer: Any, settings: Settings) -> None:
        self.num, self._tokenizer, self._settings = num, tokenizer, settings
        self._setup = pickle.dumps((tokenizer, settings))
        self._threads = ThreadPoolExecutor(max(1, num), thread_name_prefix="prepare")
        self._own = threading.local()
        self._started: list[subprocess.Popen[bytes]] = []

    def submit(self, block: Block, path: Path) -> "Future[None]":
        """Have a block's shard made; the future raises what `make_shard` raises, or PosttrainError where the worker
        died."""
        if not self.num:
            done: Future[None] = Future()
            make_shard(block, self._tokenizer, self._settings, path)
            done.set_result(None)
            return done
        return self._threads.submit(self._run, block, path)

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        """End all workers, finished or not."""
        for process in self._started:
            process.kill()
        self._threads.shutdown(cancel_futures=True)
        for process in self._started:
            process.kill()  # one that was started in between
            process.wait()
            for pipe in filter(None, (process.stdin, process.stdout)):
                with contextlib.suppress(OSError):  # what was not sent any more
                    pipe.close()

    def _run(self, block: Block, path: Path) -> None:
        process = getattr(self._own, "process", None) or self._start()
        try:
            if process.poll() is not None:
                raise EOFError
            pickle.dump((block, path), process.stdin, pickle.HIGHEST_PROTOCOL)
            process.stdin.flush()
            failed = pickle.load(process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            raise PosttrainError(_obituary(process, block)) from None
        if failed is not None:
            raise failed

    def _start(self) -> Any:
        # Each worker is one thread; the import path makes it load this very package.
        source = str(Path(__file__).parents[2])
        paths = [source, *filter(None, [os.environ.get("PYTHONPATH")])]
        one = {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        env: Mapping[str, str] = os.environ | one | {"PYTHONPATH": os.pathsep.join(paths)}
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", START], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env
        )
        self._started.append(process)
        self._own.process = process
        assert process.stdin is not None
        process.stdin.write(self._setup)
        return process


def serve() -> None:
    """What a worker does: read the tokenizer and the settings, then block after block until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the starting process says what an interrupt means
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints must not print into the answers
    questions = sys.stdin.buffer
    gc.disable()  # millions of tuples that hold no circle: looking for one takes a twelfth of the time
    try:
        tokenizer, settings = pickle.load(questions)
        gc.freeze()
        while True:
            block, path = pickle.load(questions)
            pickle.dump(_failure(block, tokenizer, settings, path), answers)
            answers.flush()
            gc.collect()
    except (EOFError, BrokenPipeError, pickle.UnpicklingError):
        os._exit(0)  # nobody is there to tell


def _failure(block: Block, tokenizer: Any, settings: Settings, path: Path) -> Exception | None:
    try:
        make_shard(block, tokenizer, settings, path)
    except PosttrainError as error:
        return error
    except Exception:
        return RuntimeError(f"a worker failed\n{traceback.format_exc()}")
    return None


def _obituary(process: "subprocess.Popen[bytes]", block: Block) -> str:
    code = process.wait()
    how = f"was killed by signal {-code}, most often because memory ran out" if code < 0 else f"ended with code {code}"
    return (
        f"{block.files[block.file_R[0]]}, line {block.line_R[0]}: the worker process that prepared the rows from here "
        f"{how}. Run the same command again: finished parts are kept."
    )
