"""An engine that says what it is told to, and a server around it on a port of its own."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import certifi
import pytest

from posttrain.errors import ModelError
from posttrain.serve.app import Service, create_app
from posttrain.serve.doors import Asked, Load, Piece, Served, Token, TooLong, UnknownModel
from posttrain.serve.running import Server, listen


class ScriptedEngine:
    """Says `script(asked, number)`, a token at a time: each text one piece. Log-probabilities are -(place + 1)."""

    def __init__(self, tokenizer: Any, names: Sequence[str] = ("tiny",), context: int = 4_096) -> None:
        self.tokenizer = tokenizer
        self.served = {name: Served(name, tokenizer, context, f"/folders/{name}", "", 7) for name in names}
        self.script: Callable[[Asked, int], list[str]] = lambda *_: ["Hel", "lo", " you"]
        self.pause_s = 0.0
        self.error: Exception | None = None
        self.asked: list[tuple[str, Asked]] = []
        self.num_open = self.num_left = 0

    def models(self) -> list[Served]:
        return list(self.served.values())

    def model(self, name: str) -> Served:
        if name not in self.served:
            raise UnknownModel(f"the model {name!r} does not exist")
        return self.served[name]

    async def stream(self, model: str, asked: Asked) -> AsyncIterator[Piece]:
        self.asked.append((model, asked))
        if self.error is not None:
            raise self.error
        served = self.model(model)
        if len(asked.request.prompt_ids) >= served.context:
            raise TooLong("no room")
        self.num_open += 1
        try:
            async for piece in self._pieces(asked):
                yield piece
        except (GeneratorExit, asyncio.CancelledError):
            self.num_left += 1
            raise
        finally:
            self.num_open -= 1

    async def _pieces(self, asked: Asked) -> AsyncIterator[Piece]:
        scripts = [self.script(asked, number) for number in range(len(asked.request.seeds))]
        prompt: tuple[Token, ...] = ()
        if asked.score_prompt:
            ids = asked.request.prompt_ids
            prompt = tuple(self._token(id, place - 1, asked) for place, id in enumerate(ids))
            prompt = (Token(ids[0]), *prompt[1:])
        for step in range(max(map(len, scripts))):
            for number, texts in enumerate(scripts):
                if step < len(texts):
                    await asyncio.sleep(self.pause_s)
                    yield self._piece(asked, texts, step, number, prompt if not (step or number) else ())

    def _piece(self, asked: Asked, texts: list[str], step: int, number: int, prompt: tuple[Token, ...]) -> Piece:
        most = asked.request.max_new_tokens or asked.decoding.max_new_tokens
        ids = self.tokenizer.encode(texts[step][:100], add_special_tokens=False)
        finish = "stop" if step == len(texts) - 1 else "length" if step == most - 1 else ""
        if finish == "stop" and asked.decoding.stop_token_ids:
            ids.append(asked.decoding.stop_token_ids[0])
        tokens = tuple(self._token(id, step, asked) for id in ids)
        return Piece(number, texts[step], tokens, finish, prompt)

    def _token(self, id: int, place: int, asked: Asked) -> Token:
        logp = -float(place + 1)
        top = tuple((other, logp - n) for n, other in enumerate((id, 40, 41, 42)))
        return Token(id, logp, top[: asked.num_top or 0])

    def load_adapter(self, name: str, folder: str) -> Served:
        if name in self.served:
            raise ValueError(f"the name {name} is taken")
        if not folder.endswith("good"):
            raise ModelError("no adapter in this folder")
        self.served[name] = Served(name, self.tokenizer, 4_096, folder, "tiny", 8)
        return self.served[name]

    load_model = load_adapter

    def unload(self, name: str) -> None:
        self.model(name)
        del self.served[name]

    def load(self) -> Load:
        return Load(self.num_open, 0, 10 * self.num_open)

    def close(self) -> None:
        pass


@pytest.fixture(scope="session", autouse=True)
def one_certificate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """httpx reads all certificates of the world for every call; nothing here is asked over TLS."""
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    first = Path(certifi.where()).read_text(encoding="utf-8").partition(begin)[2].partition(end)[0]
    file = tmp_path_factory.mktemp("certificates") / "one.pem"
    file.write_text(f"{begin}{first}{end}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(file))
        yield


@pytest.fixture(scope="session")
def scripted_engine(tiny: ModuleType) -> Callable[..., ScriptedEngine]:
    """Makes scripted engines around the small tokenizer."""
    tokenizer = tiny.tokenizer()
    return lambda *names, **options: ScriptedEngine(options.pop("tokenizer", tokenizer), names or ("tiny",), **options)


@contextmanager
def _running(service: Service, *pages: Any, grace_s: float = 5.0) -> Iterator[str]:
    listener = listen("127.0.0.1", 0)
    server = Server(create_app(service, pages), service, grace_s=grace_s)
    thread = threading.Thread(target=lambda: server.run(sockets=[listener]), daemon=True)
    thread.start()
    deadline = time.monotonic() + 10
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def running() -> Callable[..., Any]:
    """A context manager: a service on a free port of this machine, as its address."""
    return _running
