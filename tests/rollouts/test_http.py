"""Sampling and chat over HTTP, against a server in this process that can do all that goes wrong."""

import asyncio
import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType
from typing import Any

import psutil
import pytest

from posttrain.rollouts import endpoint as connection
from posttrain.rollouts.endpoint import Endpoint, ServerError, run_apart
from posttrain.rollouts.http import HttpChat, HttpSampler
from posttrain.rollouts.sampling import Completion, Decoding, Request
from posttrain.types import Message

KEY = "sk-quite-secret"
STOP = 7
Answer = tuple[int, dict[str, str], Any]  # status, headers, JSON or bytes


class Server:
    """Answers with what `script(number, body)` says; keeps what it was asked."""

    def __init__(self, script: Callable[[int, dict[str, Any]], Answer]) -> None:
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.most_at_once = self._now = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer._lock:
                    number = len(outer.asked)
                    outer.asked.append({"path": self.path, **body})
                    outer.keys.append(self.headers.get("Authorization"))
                    outer._now += 1
                    outer.most_at_once = max(outer.most_at_once, outer._now)
                try:
                    self.reply(*script(number, body))
                except (BrokenPipeError, ConnectionResetError):
                    pass  # the client had waited long enough
                finally:
                    with outer._lock:
                        outer._now -= 1

            def reply(self, status: int, headers: dict[str, str], answer: Any) -> None:
                content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(content))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None: ...

        self._inner = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = self._inner.server_address
        self.url = f"http://127.0.0.1:{self.address[1]}/v1"
        self._thread = threading.Thread(target=self._inner.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self._inner.shutdown()
        self._thread.join()
        self._inner.server_close()


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(connection, "FIRST_PAUSE_S", 0.01)


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(script: Callable[[int, dict[str, Any]], Answer]) -> Server:
        servers.append(Server(script))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def drawn(body: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """What vLLM answers: ids that follow from the seed, the stop token at the end."""
    ids = [body["seed"] % 50 + 10, len(body["prompt"]) + 10, STOP]
    choice = {
        "text": " ".join(map(str, ids[:-1])),
        "finish_reason": "stop",
        "token_ids": ids,
        "prompt_token_ids": body["prompt"],
        "logprobs": {"token_logprobs": [-0.5, -1.25, -0.125], "tokens": [f"token_id:{id}" for id in ids]},
    }
    return {"choices": [choice | changes], "usage": {"prompt_tokens": len(body["prompt"]), "completion_tokens": 3}}


def vllm(number: int, body: dict[str, Any]) -> Answer:  # noqa: ARG001
    return 200, {}, drawn(body)


def but(breaking: Callable[[dict[str, Any]], Answer | dict[str, Any]], seed: int = 2) -> Callable[..., Answer]:
    """A server that fails at one seed alone."""

    def script(number: int, body: dict[str, Any]) -> Answer:
        if body["seed"] != seed:
            return vllm(number, body)
        found = breaking(body)
        return (200, {}, found) if isinstance(found, dict) else found

    return script


REQUESTS = [Request((3, 4, 5), (1, 2)), Request((6,), (3,), max_new_tokens=4)]
DECODING = Decoding(16, stop_token_ids=(STOP,))


def sampler(server: Server, **options: Any) -> HttpSampler:
    return HttpSampler(server.url, "policy", **({"timeout_s": 5.0, "retries": 2} | options))


class TestSampler:
    def test_answers_come_back_in_order(self, serve: Callable[..., Server]) -> None:
        server = serve(vllm)
        found = sampler(server).sample(REQUESTS, DECODING)
        assert found == [
            [Completion((10 + s, 13, STOP), (-0.5, -1.25, -0.125), "stop", f"{10 + s} 13") for s in (1, 2)],
            [Completion((13, 11, STOP), (-0.5, -1.25, -0.125), "stop", "13 11")],
        ]

    def test_everything_that_decides_a_draw_is_sent(self, serve: Callable[..., Server]) -> None:
        """What is left out vLLM takes from the model's generation_config.json."""
        server = serve(vllm)
        sampler(server, extra={"cache_salt": "v3"}).sample(REQUESTS, DECODING)
        asked = sorted(server.asked, key=lambda body: body["seed"])
        assert [(b["prompt"], b["seed"], b["max_tokens"]) for b in asked] == [
            ([3, 4, 5], 1, 16),
            ([3, 4, 5], 2, 16),
            ([6], 3, 4),
        ]
        same = {"path": "/v1/completions", "model": "policy", "n": 1, "cache_salt": "v3", "logprobs": 1}
        same |= {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
        same |= {"stop_token_ids": [STOP], "ignore_eos": True, "return_token_ids": True}
        assert all(body[name] == value for body in asked for name, value in same.items())

    def test_ids_from_the_names_of_tokens(self, serve: Callable[..., Server]) -> None:
        def older(_: int, body: dict[str, Any]) -> Answer:
            found = drawn(body)
            del found["choices"][0]["token_ids"], found["choices"][0]["prompt_token_ids"]
            return 200, {}, found

        assert sampler(serve(older)).sample(REQUESTS[1:], DECODING)[0][0].token_ids == (13, 11, STOP)

    def test_text_is_read_from_the_ids(self, serve: Callable[..., Server], tiny: ModuleType) -> None:
        tokenizer = tiny.tokenizer()
        ids = tokenizer("Paris.\n\nuser", add_special_tokens=False).input_ids
        logprobs = {"token_logprobs": [-1.0] * len(ids)}
        server = serve(lambda _, body: (200, {}, drawn(body, token_ids=ids, logprobs=logprobs, text="?")))
        asked, decoding = [Request((6,), (3,))], Decoding(16, stop_strings=("\n\nuser",))
        ((found,),) = sampler(server, tokenizer=tokenizer).sample(asked, Decoding(16, stop_strings=("user",)))
        assert found.text == "Paris.\n\n"
        assert server.asked[0]["stop"] == ["user"]
        assert sampler(server, tokenizer=tokenizer).sample(asked, decoding)[0][0].text == "Paris."

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"logprobs": {"token_logprobs": [-0.5, -0.5]}}, "2 log-probabilities for 3 tokens"),
            ({"logprobs": {"token_logprobs": [-0.5, None, -0.5]}}, "log-probability that is none"),
            ({"logprobs": {"token_logprobs": [-0.5, 0.5, -0.5]}}, "log-probability that is none"),
            ({"prompt_token_ids": [1, 3, 4, 5]}, "other prompt ids"),
            ({"finish_reason": "abort"}, "finish_reason 'abort'"),
            ({"token_ids": [8, 9, 11]}, "stopped without one of the stop tokens"),
            ({"token_ids": [], "logprobs": {"token_logprobs": []}}, "gave 0 tokens, of 1 to 16"),
            ({"token_ids": [8] * 17, "logprobs": {"token_logprobs": [-1.0] * 17}}, "gave 17 tokens, of 1 to 16"),
            ({"token_ids": ["a", "b", "c"]}, "not laid out as OpenAI's"),
            ({"logprobs": [1, 2]}, "not laid out as OpenAI's"),
        ],
    )
    def test_a_wrong_answer_is_stored_and_its_siblings_go_on(
        self, serve: Callable[..., Server], changes: dict[str, Any], said: str
    ) -> None:
        made = sampler(serve(but(lambda body: drawn(body, **changes))))
        (first, broken), (other,) = made.sample(REQUESTS, DECODING)
        assert first.token_ids == (11, 13, STOP)
        assert other.token_ids == (13, 11, STOP)
        assert broken == Completion((), (), "error", broken.text)
        assert said in broken.text
        assert made.usage.failures == 1

    @pytest.mark.parametrize("missing", ["token ids", "log-probabilities"])
    def test_a_server_that_cannot_be_learned_from(self, serve: Callable[..., Server], missing: str) -> None:
        changes: dict[str, Any] = (
            {"logprobs": None}
            if missing == "log-probabilities"
            else {
                "token_ids": None,
                "logprobs": {"token_logprobs": [-1.0], "tokens": [" Paris"]},
            }
        )
        with pytest.raises(ServerError, match=f"gives no {missing} of what it samples"):
            sampler(serve(lambda _, body: (200, {}, drawn(body, **changes)))).sample(REQUESTS, DECODING)

    @pytest.mark.parametrize("logp", [-0.7, 0.0])
    def test_raw_log_probabilities_are_found_out(self, serve: Callable[..., Server], logp: float) -> None:
        """Where one token alone is left its log-probability is 0, unless it is from before that."""

        def script(_: int, body: dict[str, Any]) -> Answer:
            if body["top_k"] == 1:
                return 200, {}, drawn(body, token_ids=[9], logprobs={"token_logprobs": [logp]}, finish_reason="length")
            return 200, {}, drawn(body)

        server = serve(script)
        made = sampler(server)
        made.sample(REQUESTS, DECODING)
        assert len(server.asked) == 3  # nothing to find out at temperature 1
        for _ in range(2):
            if logp:
                with pytest.raises(ServerError, match="--logprobs-mode processed_logprobs"):
                    made.sample(REQUESTS, Decoding(16, temperature=0.7, stop_token_ids=(STOP,)))
            else:
                made.sample(REQUESTS, Decoding(16, temperature=0.7, stop_token_ids=(STOP,)))
        assert len(server.asked) == (5 if logp else 10)

    def test_no_more_than_so_many_at_once(self, serve: Callable[..., Server]) -> None:
        def slow(number: int, body: dict[str, Any]) -> Answer:
            time.sleep(0.03)
            return vllm(number, body)

        server = serve(slow)
        found = sampler(server, concurrency=3).sample([Request((1,), tuple(range(12)))], DECODING)
        assert [completion.token_ids[0] for completion in found[0]] == [10 + seed for seed in range(12)]
        assert server.most_at_once == 3

    def test_an_opening_mark_is_refused(self, serve: Callable[..., Server]) -> None:
        with pytest.raises(ValueError, match="opening mark"):
            sampler(serve(vllm)).sample(REQUESTS, Decoding(4, open_ids=(3,), open_top_k=2))

    def test_nothing_to_ask(self) -> None:
        assert HttpSampler("http://127.0.0.1:1/v1", "policy").sample([], DECODING) == []


class TestFaults:
    @pytest.mark.parametrize(
        "fault",
        [
            (500, {}, {"error": {"message": "out of memory"}}),
            (503, {}, b"<html>busy</html>"),
            (429, {"Retry-After": "0"}, {"error": "slow down"}),
            (200, {}, b'{"choices": [{"text"'),
            (200, {"Content-Length": "9999", "Connection": "close"}, b'{"choices": ['),
        ],
        ids=["500", "503", "429", "malformed", "cut off"],
    )
    def test_what_may_pass_is_tried_again(self, serve: Callable[..., Server], fault: Answer) -> None:
        server = serve(lambda number, body: fault if number < 2 else vllm(number, body))
        made = sampler(server)
        ((found,),) = made.sample(REQUESTS[1:], DECODING)
        assert found.token_ids == (13, 11, STOP)
        assert (made.usage.requests, made.usage.retries, made.usage.failures) == (3, 2, 0)

    def test_not_for_ever(self, serve: Callable[..., Server]) -> None:
        server = serve(but(lambda _: (500, {}, {"error": {"message": "out of memory"}})))
        (first, broken), _ = sampler(server).sample(REQUESTS, DECODING)
        assert first.finish == "stop"
        assert broken.finish == "error"
        assert broken.text.endswith("/v1/completions: HTTP 500: out of memory")
        assert len(server.asked) == 2 + 3

    def test_a_server_that_hangs(self, serve: Callable[..., Server]) -> None:
        def hang(number: int, body: dict[str, Any]) -> Answer:
            if body["seed"] == 2:
                time.sleep(0.6)
            return vllm(number, body)

        (_, broken), _ = sampler(serve(hang), timeout_s=0.4, retries=0).sample(REQUESTS, DECODING)
        assert "no answer within 0.4 seconds" in broken.text

    def test_a_server_that_drips(self) -> None:
        """Each byte is in time; the answer is not."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            ended = threading.Event()

            def drip() -> None:
                peer, _ = listener.accept()
                with peer:
                    peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n")
                    while not ended.wait(0.02) and _takes_more(peer):
                        pass

            thread = threading.Thread(target=drip)
            thread.start()
            started = time.monotonic()
            made = HttpSampler(f"http://127.0.0.1:{listener.getsockname()[1]}", "m", timeout_s=0.3, retries=0)
            with pytest.raises(ServerError, match=r"no answer within 0\.3 seconds"):
                made.sample(REQUESTS[1:], DECODING)
            assert time.monotonic() - started < 2
            ended.set()
            thread.join()

    def test_the_deadline_is_over_all_attempts(self, serve: Callable[..., Server]) -> None:
        server = serve(lambda *_: (503, {"Retry-After": "60"}, {}))
        started = time.monotonic()
        with pytest.raises(ServerError, match="HTTP 503"):
            sampler(server, retries=9, deadline_s=1.0).sample(REQUESTS[1:], DECODING)
        assert time.monotonic() - started < 1
        assert len(server.asked) == 1  # what the server asks to wait for would be too late

    def test_retry_after_is_waited_for(self, serve: Callable[..., Server]) -> None:
        server = serve(lambda n, body: (429, {"Retry-After": "0.2"}, {}) if n == 0 else vllm(n, body))
        started = time.monotonic()
        sampler(server).sample(REQUESTS[1:], DECODING)
        assert time.monotonic() - started >= 0.2

    @pytest.mark.parametrize(
        ("header", "wanted"), [("3", 3), ("-1", 0), ("", 0), ("soon", 0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0)]
    )
    def test_forms_of_retry_after(self, header: str, wanted: float) -> None:
        assert connection._wait_s(header) == wanted

    def test_retry_after_as_a_date(self) -> None:
        from email.utils import formatdate

        assert 8 < connection._wait_s(formatdate(time.time() + 10, usegmt=True)) <= 10

    def test_a_request_that_is_refused_is_not_tried_again(self, serve: Callable[..., Server]) -> None:
        server = serve(but(lambda _: (400, {}, {"error": {"message": "the prompt is too long"}})))
        (_, broken), _ = sampler(server).sample(REQUESTS, DECODING)
        assert broken.text.endswith("HTTP 400: the prompt is too long")
        assert len(server.asked) == 3

    def test_an_unknown_model(self, serve: Callable[..., Server]) -> None:
        server = serve(lambda *_: (404, {}, {"error": {"message": "The model `policy` does not exist."}}))
        with pytest.raises(ServerError, match=r"no such model \(policy\) or no such path; see .*/v1/models"):
            sampler(server, concurrency=1).sample(REQUESTS, DECODING)
        assert len(server.asked) == 1

    def test_nobody_listens(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with pytest.raises(ServerError, match=r"nobody answers there .*Start the server, or mend base_url"):
            HttpSampler(f"http://127.0.0.1:{port}/v1", "m", retries=0).sample(REQUESTS, DECODING)

    def test_something_else_answers(self, serve: Callable[..., Server]) -> None:
        with pytest.raises(ServerError, match="is this the address of an OpenAI-compatible server"):
            sampler(serve(lambda *_: (200, {}, {"hello": 1}))).sample(REQUESTS, DECODING)
        with pytest.raises(ServerError, match="give the address it redirects to"):
            sampler(serve(lambda *_: (308, {"Location": "http://elsewhere"}, b""))).sample(REQUESTS, DECODING)

    @pytest.mark.parametrize("url", ["localhost:8000", "ftp://host/v1", "https://"])
    def test_an_address_that_is_none(self, url: str) -> None:
        with pytest.raises(ServerError, match="begins with http:// or https://"):
            Endpoint(url)


def _takes_more(peer: socket.socket) -> bool:
    """One more byte; False where nobody takes it."""
    try:
        peer.sendall(b" ")
    except OSError:
        return False
    return True


class TestKey:
    def test_it_goes_into_the_header_and_nowhere_else(
        self, serve: Callable[..., Server], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
    ) -> None:
        caplog.set_level("DEBUG")
        server = serve(but(lambda _: (500, {}, {"error": {"message": f"Incorrect key {KEY}"}})))
        made = sampler(server, api_key=KEY, retries=0)
        (_, broken), _ = made.sample(REQUESTS, DECODING)
        assert server.keys == [f"Bearer {KEY}"] * 3
        assert broken.text.endswith("Incorrect key ***")
        assert KEY not in caplog.text + "".join(capfd.readouterr()) + repr(made) + repr(made.endpoint)

    def test_a_key_that_is_not_taken(self, serve: Callable[..., Server]) -> None:
        server = serve(lambda *_: (401, {}, {"error": {"message": f"bad key {KEY}"}}))
        with pytest.raises(ServerError, match="HTTP 401, the key is missing or not taken: bad key") as raised:
            sampler(server, api_key=KEY).sample(REQUESTS[1:], DECODING)
        assert KEY not in str(raised.value)

    def test_a_password_in_the_address(self) -> None:
        with pytest.raises(ServerError, match="the address holds a password") as raised:
            Endpoint(f"https://user:{KEY}@host/v1")
        assert KEY not in str(raised.value)


def chat(texts: list[Any], **usage: int) -> Answer:
    choices = [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"} for text in texts]
    return 200, {}, {"choices": choices, "usage": {"prompt_tokens": 5, "completion_tokens": 2} | usage}


ASKED = (Message("system", "You judge."), Message("user", "A or B?"))


class TestChat:
    def test_one_conversation(self, serve: Callable[..., Server]) -> None:
        server = serve(lambda _, body: chat([f"B{i}" for i in range(body["n"])]))
        judge = HttpChat(server.url, "judge", api_key=KEY)
        reply = judge.complete(ASKED, 3, max_tokens=9, temperature=0.2, seed=4, stop=["\n"])
        assert reply.texts == ("B0", "B1", "B2")
        assert reply.finishes == ("stop",) * 3
        assert (reply.prompt_tokens, judge.usage.prompt_tokens, judge.usage.completion_tokens) == (5, 5, 2)
        (asked,) = server.asked
        assert asked["messages"] == [
            {"role": "system", "content": "You judge."},
            {"role": "user", "content": "A or B?"},
        ]
        wanted = {"model": "judge", "n": 3, "max_tokens": 9, "temperature": 0.2, "seed": 4, "stop": ["\n"]}
        assert {name: asked[name] for name in wanted} == wanted
        assert asked["path"] == "/v1/chat/completions"

    def test_a_server_that_gives_one_at_a_time(self, serve: Callable[..., Server]) -> None:
        server = serve(lambda _, body: chat([str(body["seed"])]))
        reply = HttpChat(server.url, "judge").complete(ASKED, 3, seed=10)
        assert reply.texts == ("10", "11", "12")
        assert reply.completion_tokens == 6

    def test_a_conversation_that_fails_leaves_the_others(self, serve: Callable[..., Server]) -> None:
        def script(_: int, body: dict[str, Any]) -> Answer:
            word = body["messages"][0]["content"]
            return chat([None]) if word == "refuse" else (400, {}, {"error": "no"}) if word == "bad" else chat([word])

        asked = [[Message("user", word)] for word in ("one", "refuse", "bad", "two")]
        judge = HttpChat(serve(script).url, "judge", retries=0, limit_key="max_completion_tokens")
        one, refused, bad, two = judge.complete_all(asked)
        assert (one.texts, two.texts) == (("one",), ("two",))
        assert "an answer without text" in refused.error
        assert "HTTP 400: no" in bad.error
        assert judge.usage.failures == 2

    def test_all_of_them_fail(self, serve: Callable[..., Server]) -> None:
        server = serve(lambda *_: (500, {}, {"detail": "gone"}))
        with pytest.raises(ServerError, match="HTTP 500"):
            HttpChat(server.url, "judge", retries=0).complete(ASKED)


def test_a_caller_with_an_event_loop_may_ask_too(serve: Callable[..., Server]) -> None:
    """As in a notebook."""
    server = serve(lambda *_: chat(["yes"]))

    async def notebook() -> tuple[str, ...]:
        return HttpChat(server.url, "judge").complete(ASKED).texts

    assert run_apart(notebook()) == ("yes",)


def test_an_interrupt_ends_what_is_under_way() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a test runner may ignore it
    started = time.monotonic()
    timer = threading.Timer(0.1, lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run_apart(asyncio.sleep(30))
    finally:
        signal.signal(signal.SIGINT, before)
    timer.join()
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("end", ["an error that nobody foresaw", "an interrupt"])
def test_nothing_outlasts_the_call(serve: Callable[..., Server], end: str) -> None:
    """Whatever ends it while others wait for their answers: their tasks end too, and their connections are closed."""
    loops, all_asked, ended = [], threading.Event(), threading.Event()

    def script(number: int, body: dict[str, Any]) -> Answer:
        if number == 7:
            all_asked.set()
        (all_asked if body["number"] == 0 else ended).wait(10)
        return chat(["yes"])

    def read(*_: Any) -> None:
        loops.append(asyncio.get_running_loop())
        if end != "an interrupt":
            raise RuntimeError("a reader's own fault")
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    server = serve(script)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a test runner may ignore it
    try:
        with pytest.raises((RuntimeError, KeyboardInterrupt)):
            Endpoint(server.url, concurrency=8).ask_each("/x", [{"number": number} for number in range(12)], read)
        assert not asyncio.all_tasks(loops[0])
        peers = [peer.raddr for peer in psutil.Process().net_connections("tcp4")]
        assert server.address not in peers
    finally:
        signal.signal(signal.SIGINT, before)
        ended.set()
