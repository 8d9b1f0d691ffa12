"""From start to stop: running answers have a grace time, a second signal waits for nothing."""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from posttrain.errors import ConfigError
from posttrain.serve.app import Service, create_app
from posttrain.serve.running import Server, listen

CHAT = {"messages": [{"role": "user", "content": "hi"}], "stream": True}


@contextmanager
def started(service: Service, grace_s: float) -> Iterator[tuple[Server, threading.Thread, str]]:
    listener = listen("127.0.0.1", 0)
    server = Server(create_app(service), service, grace_s=grace_s)
    thread = threading.Thread(target=lambda: server.run(sockets=[listener]), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    try:
        yield server, thread, f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


@pytest.fixture
def writing(scripted_engine: Any) -> Callable[[int], Service]:
    """A service whose answers take a hundredth of a second a word."""

    def make(num_words: int) -> Service:
        engine = scripted_engine()
        engine.script = lambda *_: [" word"] * num_words
        engine.pause_s = 0.01
        return Service(engine)

    return make


def said(lines: list[str]) -> list[Any]:
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


def test_first_signal_lets_running_answers_end(writing: Any) -> None:
    service = writing(60)
    with (
        started(service, 20) as (server, thread, place),
        httpx.stream("POST", f"{place}/v1/chat/completions", json=CHAT) as answer,
    ):
        lines = answer.iter_lines()
        first = next(lines)
        server.handle_exit(signal.SIGTERM, None)
        time.sleep(0.05)
        refused = httpx.post(f"{place}/v1/chat/completions", json=CHAT)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "stopping")
        assert httpx.get(f"{place}/health").status_code == 503
        chunks = said([first, *lines])
        assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks) == " word" * 60
        assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
        thread.join(5)
        assert not thread.is_alive()


def test_what_outlasts_the_grace_time_is_told_so(writing: Any) -> None:
    service = writing(10_000)
    start = time.monotonic()
    with (
        started(service, 0.2) as (server, thread, place),
        httpx.stream("POST", f"{place}/v1/chat/completions", json=CHAT) as answer,
    ):
        lines = answer.iter_lines()
        first = next(lines)
        server.stop()
        rest = list(lines)
        assert said([first, *rest])[-1]["error"]["code"] == "stopping"
        assert "data: [DONE]" in rest
        thread.join(5)
        assert not thread.is_alive()
    assert time.monotonic() - start < 8
    assert service.engine.num_open == 0


def test_second_signal_ends_at_once(writing: Any, caplog: pytest.LogCaptureFixture) -> None:
    service = writing(10_000)
    with (
        started(service, 60) as (server, thread, place),
        httpx.stream("POST", f"{place}/v1/chat/completions", json=CHAT) as answer,
    ):
        lines = answer.iter_lines()
        first = next(lines)
        server.handle_exit(signal.SIGINT, None)
        time.sleep(0.1)
        assert thread.is_alive()
        server.handle_exit(signal.SIGINT, None)
        assert said([first, *lines])[-1]["error"]["code"] == "stopping"
        thread.join(5)
        assert not thread.is_alive()
    assert "Traceback" not in caplog.text


def test_taken_port_is_known_at_once() -> None:
    listener = listen("127.0.0.1", 0)
    try:
        with pytest.raises(ConfigError, match="--port"):
            listen("127.0.0.1", listener.getsockname()[1])
    finally:
        listener.close()
