"""The engine in this process: one thread that owns the models and writes all answers, a batch a model."""

import asyncio
import gc
import os
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from pathlib import Path

import torch

from posttrain.errors import ModelError, PosttrainError
from posttrain.models.load import Policy
from posttrain.rollouts.decode_rows import Growth, Job
from posttrain.serve.doors import Asked, Busy, Load, Piece, Served, Stopped, TooLong, UnknownModel
from posttrain.serve.engine_answers import Answers, Buffer, wake
from posttrain.serve.engine_models import Hosted, host


class LocalEngine:
    """An Engine over the project's own sampler (rollouts/decode_stream.py).

    Each model has a decoder with weights of its own (an adapter is merged into a copy of its base: two adapters of one
    base take its memory twice), and keys and values of at most `max_positions` (by default as many as 1 GiB holds, no
    more than the slots can fill), a quarter of them for the beginnings of finished conversations. Pages are taken as
    answers grow and reused, never given back to the system while the model is served.

    `stream` may be called from any event loop, the other methods from any thread; `load_adapter` and `load_model` read
    and prove weights in the caller's thread, which can take long, while answers go on.
    """

    def __init__(
        self,
        models: Mapping[str, Policy | str | Path],
        *,
        slots: int = 64,
        max_waiting: int = 256,
        max_positions: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """`models`: policies or folders by the name that they are served under; one policy under two names is one
        model. `slots`: answers of a model that are written at once; `max_waiting`: those that wait beyond. `dtype`:
        bfloat16 where the device is fast at it, else float32."""
        if slots < 1 or max_waiting < 0:
            raise ValueError(f"slots is {slots} and max_waiting {max_waiting}, expected at least 1 and 0")
        self.slots, self.max_waiting = slots, max_waiting
        self._host = partial(host, slots=slots, max_positions=max_positions, dtype=dtype)
        self._hosted: dict[str, Hosted] = {}
        self._retired: list[Hosted] = []
        self._condition = threading.Condition()  # of all above and below; reentrant, for a finaliser may interrupt
        self._inbox: deque[Callable[[], None]] = deque()
        self._news: set[Buffer] = set()  # the thread's own
        self._leaving: dict[Buffer, Callable[[], None]] = {}
        self._is_closed = False
        self._loading = threading.Lock()
        made: dict[int, Hosted] = {}
        for name, source in models.items():
            if id(source) not in made:
                made[id(source)] = self._host(name, source)
            self._hosted[name] = made[id(source)]
            made[id(source)].names.add(name)
        self._thread = threading.Thread(target=self._run, name="posttrain-engine", daemon=True)
        self._thread.start()

    def models(self) -> list[Served]:
        """See Engine."""
        with self._condition:
            return [_named(hosted.served, name) for name, hosted in self._hosted.items()]

    def model(self, name: str) -> Served:
        """See Engine."""
        return _named(self._find(name).served, name)

    def stream(self, model: str, asked: Asked) -> AsyncIterator[Piece]:
        """See Engine. What it raises it raises here, before anything is iterated; a ValueError besides where a token id
        is none of the model's."""
        self._require_open()
        hosted = self._find(model)
        limit = _limit(hosted, asked)
        _check_ids(hosted, asked)
        buffer = Buffer(asyncio.get_running_loop(), asked.request.prompt_ids, len(asked.request.seeds))
        tell = partial(self._tell, hosted, buffer, time.monotonic())
        job = Job(
            asked.request, asked.decoding, limit, tell, asked.num_top or 0, asked.score_prompt, dict(asked.logit_bias),
            asked.min_tokens,
        )  # fmt: skip
        leave = partial(self._post, partial(self._cancel, hosted, buffer, job))
        with self._condition:
            self._require_open()
            if hosted not in self._hosted.values():  # unloaded or replaced meanwhile: nobody would step it
                return self.stream(model, asked)
            if hosted.in_flight + buffer.open > self.slots + self.max_waiting:
                wait_s = min(60.0, max(0.5, hosted.mean_s * hosted.in_flight / self.slots))
                raise Busy(f"{hosted.in_flight} answers are being written or wait; ask again later.", wait_s)
            hosted.in_flight += buffer.open
            if buffer.open:
                self._leaving[buffer] = leave
            self._inbox.append(partial(self._submit, hosted, job))
            self._condition.notify()
        return Answers(buffer, leave)

    def load_adapter(self, name: str, folder: str) -> Served:
        """See Engine."""
        if not (Path(folder) / "adapter_config.json").is_file():
            raise ModelError(f"{folder}: no adapter_config.json; give the folder that an adapter was saved in.")
        with self._loading:
            if name in self._hosted:
                raise ValueError(f"a model named {name!r} is served already")
            return self._put(name, folder)

    def load_model(self, name: str, folder: str) -> Served:
        """See Engine."""
        with self._loading:
            return self._put(name, folder)

    def unload(self, name: str) -> None:
        """See Engine. Returns at once; the memory is free when the last of its answers has ended."""
        with self._condition:
            self._retire(name, self._find(name))

    def load(self) -> Load:
        """See Engine."""
        with self._condition:
            every = {id(hosted): hosted for hosted in (*self._hosted.values(), *self._retired)}.values()
            running = sum(hosted.stream.num_running for hosted in every)
            waiting = sum(hosted.in_flight for hosted in every) - running
            return Load(running, max(0, waiting), sum(hosted.stream.held_positions for hosted in every))

    def close(self, wait_s: float = 30.0) -> None:
        """See Engine. Nothing new is taken; answers that have not ended after `wait_s` seconds end with an error."""
        with self._condition:
            self._is_closed = True
            self._condition.notify()
        self._thread.join(wait_s)
        if self._thread.is_alive():
            self._post(self._stop_all)
            self._thread.join()
        with self._condition:
            self._hosted.clear()
            self._retired.clear()

    def _require_open(self) -> None:
        if self._is_closed:
            raise Busy("the server is stopping; ask another one, or later.", 5.0)

    def _find(self, name: str) -> Hosted:
        with self._condition:
            if name not in self._hosted:
                raise UnknownModel(f"no model named {name!r} is served; there are {', '.join(self._hosted) or 'none'}.")
            return self._hosted[name]

    def _put(self, name: str, folder: str) -> Served:
        """Load, prove, then let the name point to it."""
        hosted = self._host(name, folder)
        with self._condition:
            self._require_open()
            old = self._hosted.get(name)
            if old is not None:
                self._retire(name, old)
            self._hosted[name] = hosted
        return hosted.served

    def _retire(self, name: str, hosted: Hosted) -> None:
        del self._hosted[name]
        hosted.names.discard(name)
        if not hosted.names:
            self._retired.append(hosted)
            self._inbox.append(_nothing)  # wakes the thread, which lets go of it
            self._condition.notify()

    def _post(self, task: Callable[[], None]) -> None:
        with self._condition:
            self._inbox.append(task)
            self._condition.notify()

    # All below is of the engine's thread.

    def _run(self) -> None:
        while self._wait():
            while self._inbox:
                self._inbox.popleft()()
            self._step_all()
            self._wake()
            self._drop()

    def _wait(self) -> bool:
        """Sleep until there is something to do; False where there will be nothing more."""
        with self._condition:
            while not self._inbox and not any(hosted.stream.is_busy for hosted in self._live()):
                if self._is_closed:
                    return False
                self._condition.wait()
            return True

    def _live(self) -> list[Hosted]:
        """Every model once, in turn."""
        with self._condition:
            return list(dict.fromkeys((*self._hosted.values(), *self._retired)))

    def _step_all(self) -> None:
        """Whatever goes wrong in a model ends its answers, not the thread."""
        live = self._live()
        for hosted in live:
            try:
                if hosted.stream.is_busy:
                    hosted.stream.others_write = any(other.stream.writing for other in live if other is not hosted)
                    hosted.stream.step()
            except Exception as error:
                said = error if isinstance(error, PosttrainError) else ModelError(f"the model failed: {error!r}")
                hosted.stream.fail(said)

    def _wake(self) -> None:
        for buffer in wake(self._news):
            self._leaving.get(buffer, _nothing)()
        self._news.clear()

    def _drop(self) -> None:
        if self._retired:
            with self._condition:
                gone = [hosted for hosted in self._retired if not hosted.in_flight and not hosted.stream.is_busy]
                self._retired = [hosted for hosted in self._retired if hosted not in gone]
            if gone:
                del gone
                gc.collect()

    def _submit(self, hosted: Hosted, job: Job) -> None:
        try:
            hosted.stream.submit(job)
        except Exception as error:
            for number in range(len(job.request.seeds)):
                job.tell(Growth(number, error=ModelError(f"the request cannot be taken: {error!r}")))

    def _tell(self, hosted: Hosted, buffer: Buffer, began: float, growth: Growth) -> None:
        if growth.finish or growth.error:
            with self._condition:
                hosted.ended(time.monotonic() - began)
        if buffer.add(growth):
            self._news.add(buffer)
        if growth.error:  # the others of its request end with it
            self._leaving.get(buffer, _nothing)()
        if not buffer.open:
            self._leaving.pop(buffer, None)

    def _cancel(self, hosted: Hosted, buffer: Buffer, job: Job) -> None:
        before = hosted.stream.num_rows
        hosted.stream.cancel(job)
        self._leaving.pop(buffer, None)
        with self._condition:
            hosted.in_flight -= before - hosted.stream.num_rows

    def _stop_all(self) -> None:
        for hosted in self._live():
            hosted.stream.fail(Stopped("the server was stopped before the answer's end."))


def _named(served: Served, name: str) -> Served:
    if served.name == name:
        return served
    return Served(name, served.tokenizer, served.context, served.root, served.parent, served.created)


def _limit(hosted: Hosted, asked: Asked) -> int:
    """New tokens that an answer may have: what was asked, cut to the context."""
    length, context = len(asked.request.prompt_ids), hosted.served.context
    if length >= context:
        raise TooLong(
            f"the prompt has {length} tokens and the model's context {context}: no room for an answer; shorten it."
        )
    asked_for = asked.decoding.max_new_tokens
    return min(context - length, asked_for, asked.request.max_new_tokens or asked_for)


def _check_ids(hosted: Hosted, asked: Asked) -> None:
    """One wrong id would end everybody's answers."""
    ids = (*asked.request.prompt_ids, *asked.logit_bias, *asked.decoding.stop_token_ids)
    wrong = next((token for token in ids if not 0 <= token < hosted.vocabulary), None)
    if wrong is not None:
        raise ValueError(f"{wrong} is no token of the model, which knows 0 to {hosted.vocabulary - 1}")
    if asked.decoding.open_ids:
        raise ValueError("open_ids is not for a server")


def _nothing() -> None:
    pass


def leave_a_core() -> None:
    """Let torch use all processors but one, unless OMP_NUM_THREADS says how many: a server and its clients need one
    too, and threads of torch that wait for each other while somebody else has their processor make every step slow."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() - 1))
