"""What stands before the routes: sizes, times, keys, hosts, connections; and what all errors look like."""

import http.client
import json
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from posttrain.errors import ConfigError
from posttrain.serve.app import Service
from posttrain.serve.keys import Keys, hashed_user, is_local, known_hosts, read_keys
from posttrain.serve.limits import Limits, depth
from posttrain.serve.protocol_answers import ErrorAnswer

CHAT = {"messages": [{"role": "user", "content": "hi"}]}
JSON = {"Content-Type": "application/json"}
KEYS = read_keys(["owner-key-1", "anna:another-key"], environment={})


@pytest.fixture(scope="module")
def stage(
    scripted_engine: Any, running: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Service, str]]:
    root = tmp_path_factory.mktemp("adapters")
    for name in ("in/good", "in/bad", "out/good"):
        (root / name).mkdir(parents=True)
    (root / "in" / "link").symlink_to(root / "out" / "good")
    limits = Limits(
        max_body=20_000, max_depth=20, header_s=0.3, body_s=0.3, stall_s=0.3, request_s=0.5, max_connections=40
    )
    service = Service(scripted_engine(), limits=limits, adapters_root=root / "in")
    with running(service) as place:
        yield service, place


@pytest.fixture
def served(stage: tuple[Service, str]) -> Iterator[tuple[Service, str]]:
    service, before = stage[0], (stage[0].limits, stage[0].keys, stage[0].hosts)
    yield stage
    service.limits, service.keys, service.hosts = before
    service.state, service.engine.pause_s = "ready", 0.0
    service.engine.script = lambda *_: ["Hello"]


def post(place: str, content: Any, path: str = "/v1/chat/completions", **headers: str) -> httpx.Response:
    return httpx.post(place + path, content=content, headers=JSON | headers)


def refused(found: httpx.Response, status: int) -> str:
    assert found.status_code == status
    assert found.headers["content-type"] == "application/json"
    return ErrorAnswer.model_validate(found.json()).error.code


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"null", b"[]", b'"text"', b"\xff\xfe", b'{"messages": NaN}', b'{"messages": [1]}', b"{}{}",
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}', b'{"seed": ' + b"9" * 5_000 + b"}",
        b'{"messages": [{"role": "user", "content": "a"}], "temperature": 1e999}', b"\x00" * 50,
        b'{"messages": [{"role": "user", "content": "\xed\xa0\x80"}]}',
        b'{"messages": [], "tools": [{"function": {"name": "f", "description": "\\udfff"}}]}',
    ],
)  # fmt: skip
def test_malformed_bodies(served: Any, body: bytes) -> None:
    assert refused(post(served[1], body), 400) == "invalid_request"


def test_nested_bodies(served: Any) -> None:
    tools = '[{"function": {"name": "f", "parameters": {"a": %s}}}]'
    deep = json.dumps(CHAT)[:-1] + ', "tools": ' + tools % ("[" * 9_000 + "]" * 9_000) + "}"
    assert refused(post(served[1], deep), 400) == "depth"
    brackets = json.dumps({"messages": [{"role": "user", "content": '["{' * 50}]})
    assert post(served[1], brackets).status_code == 200  # in a text they are text
    assert depth(b'{"a": [["]", "\\"[["]]}') == 3


def test_large_bodies_declared_and_in_chunks(served: Any) -> None:
    _, place = served
    large = json.dumps({"messages": [{"role": "user", "content": "x" * 30_000}]}).encode()
    assert refused(post(place, large), 413) == "too_large"
    assert refused(post(place, (large[i : i + 1_000] for i in range(0, len(large), 1_000))), 413) == "too_large"
    small = json.dumps(CHAT).encode()
    assert post(place, (small[i : i + 10] for i in range(0, len(small), 10))).status_code == 200
    connection = http.client.HTTPConnection(urlsplit(place).netloc, timeout=5)
    with closing(connection):  # what is announced is refused before it is sent
        connection.putrequest("POST", "/v1/chat/completions")
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", "99999999999")
        connection.endheaders()
        assert connection.getresponse().status == 413


def test_content_type_paths_and_methods(served: Any) -> None:
    _, place = served
    assert refused(httpx.post(f"{place}/v1/chat/completions", content="{}"), 415) == "media_type"
    assert refused(httpx.post(f"{place}/v1/chat/completions", data={"a": "b"}), 415) == "media_type"
    assert refused(httpx.post(f"{place}/v1/models"), 405) == "method_not_allowed"
    assert refused(httpx.get(f"{place}/v1/chat/completions"), 405) == "method_not_allowed"
    for path in ("/v1/nothing", "/v1/models/../../health/x", "/page/../v1/nothing", "//v1/models", "/health/"):
        assert refused(httpx.get(place + path, follow_redirects=False), 404).endswith("not_found")
    assert refused(httpx.get(f"{place}/v1/models/..%2f..%2fetc%2fpasswd"), 404) == "model_not_found"
    assert refused(httpx.get(f"{place}/v1/models/<script>"), 404) == "model_not_found"
    assert httpx.get(f"{place}/v1/models/tiny").json()["root"] == "tiny"


def raw(place: str, sent: bytes, wait_s: float = 3.0) -> tuple[bytes, float]:
    """What comes back until the server hangs up, and when it does."""
    host, _, port = urlsplit(place).netloc.partition(":")
    start = time.monotonic()
    with closing(socket.create_connection((host, int(port)), timeout=wait_s)) as client:
        client.sendall(sent)
        got = b""
        try:
            while piece := client.recv(65_536):
                got += piece
        except ConnectionResetError:
            pass
    return got, time.monotonic() - start


def test_slow_clients_are_hung_up_on(served: Any) -> None:
    _, place = served
    for sent in (b"", b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"):
        got, after_s = raw(place, sent)
        assert (got, after_s < 2) == (b"", True)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    got, after_s = raw(place, head + b'Content-Length: 100\r\n\r\n{"mess')
    assert b" 408 " in got.split(b"\r\n")[0]
    assert b"slow_body" in got
    assert after_s < 4
    got, _ = raw(place, b"NONSENSE\r\n\r\n")
    assert b" 400 " in got.split(b"\r\n")[0]
    assert b'"invalid_request_error"' in got
    got, _ = raw(place, b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000)
    assert b" 400 " in got.split(b"\r\n")[0]


def test_client_that_does_not_read_is_hung_up_on(served: Any) -> None:
    service, place = served
    service.limits = replace(service.limits, request_s=30)
    service.engine.script = lambda *_: ["word " * 8_000] * 150
    host, _, port = urlsplit(place).netloc.partition(":")
    body = json.dumps(CHAT | {"stream": True}).encode()
    with closing(socket.socket()) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.connect((host, int(port)))
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        client.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
        deadline = time.monotonic() + 10
        while not service.num_open and time.monotonic() < deadline:
            time.sleep(0.01)
        while service.num_open and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not service.num_open
    assert time.monotonic() < deadline


def test_answers_have_a_time_limit(served: Any) -> None:
    service, place = served
    service.engine.script = lambda *_: [" word"] * 1_000
    service.engine.pause_s = 0.01
    found = post(place, json.dumps(CHAT))
    assert (refused(found, 504), found.headers["x-should-retry"]) == ("time_limit", "false")
    lines = [line for line in post(place, json.dumps(CHAT | {"stream": True})).text.split("\n") if line]
    assert json.loads(lines[-2][6:])["error"]["code"] == "time_limit"
    assert lines[-1] == "data: [DONE]"
    assert not service.engine.num_open


def whole(client: socket.socket) -> bytes:
    """An answer of /health, which ends in a brace."""
    got = b""
    while not got.endswith(b"}"):
        got += client.recv(65_536)
    return got


def test_connections_have_a_bound(scripted_engine: Any, running: Any) -> None:
    with running(Service(scripted_engine(), limits=Limits(max_connections=2))) as place:
        host, _, port = urlsplit(place).netloc.partition(":")
        first, second = (socket.create_connection((host, int(port)), timeout=10) for _ in range(2))
        asked = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
        with closing(first), closing(second):
            for client in (first, second):
                client.sendall(asked)
                assert b" 200 " in whole(client)
            assert raw(place, b"", 10)[0] == b""
            assert raw(place, asked, 10)[0] == b""
            first.sendall(asked)
            assert b" 200 " in whole(first)


def test_too_many_requests_at_a_time(served: Any) -> None:
    service, place = served
    service.limits = replace(service.limits, max_requests=0)
    found = post(place, json.dumps(CHAT))
    assert (refused(found, 429), found.headers["retry-after"]) == ("busy", "1")


def test_keys(served: Any) -> None:
    service, place = served
    service.keys = KEYS
    body = json.dumps(CHAT)
    for header in ("", "Bearer", "Bearer wrong-key", "owner-key-1", "Basic owner-key-1", "Bearer owner-key-1x"):
        found = post(place, body, Authorization=header)
        assert (refused(found, 401), found.headers["www-authenticate"]) == ("invalid_api_key", "Bearer")
    assert refused(httpx.get(f"{place}/metrics"), 401) == "invalid_api_key"
    assert refused(httpx.get(f"{place}/no/such/page"), 401) == "invalid_api_key"
    assert httpx.get(f"{place}/health").status_code == 200
    assert post(place, body, Authorization="Bearer another-key").status_code == 200
    load = json.dumps({"lora_name": "x", "lora_path": "good"})
    found = post(place, load, "/v1/load_lora_adapter", Authorization="Bearer another-key")
    assert refused(found, 403) == "not_the_owner"
    assert post(place, load, "/v1/load_lora_adapter", Authorization="bearer owner-key-1").status_code == 200
    unload = json.dumps({"lora_name": "x"})
    assert post(place, unload, "/v1/unload_lora_adapter", Authorization="Bearer owner-key-1").status_code == 200


def test_keys_of_file_and_environment(tmp_path: Path) -> None:
    hashed = "sha256:9c68ac6a2f5f7ee9ae2a6f4c0b6ed6a0b5d2b9b6a2a1a5d0a0f7b0c4f1a2b3c4"
    file = tmp_path / "keys"
    file.write_text(f"# ours\nowner: first-of-all\nben:{hashed}\n\nplain-key-123\n")
    keys = read_keys(["cli:key-of-flag"], str(file), {"POSTTRAIN_API_KEY": "env:key-of-environment"})
    assert list(keys.hashes) == ["cli", "env", "owner", "ben", "key-5"]
    assert keys.hashes["ben"].hex() == hashed[7:]
    assert [keys.name(f"Bearer {key}") for key in ("first-of-all", "plain-key-123", "key-of-flag", hashed)] == [
        "owner", "key-5", "cli", None,
    ]  # fmt: skip
    assert [keys.is_owner(name) for name in ("owner", "cli")] == [True, False]
    assert read_keys(["one-key-only"], environment={}).is_owner("owner")
    assert Keys().name("") == "local"
    for given in (["short"], ["a:b c d e f g h"], ["same-key-1", "x:same-key-1"], ["n:sha256:zz"]):
        with pytest.raises(ConfigError):
            read_keys(given, environment={})
    with pytest.raises(ConfigError):
        read_keys((), str(tmp_path / "none"), {})


def test_users_are_known_by_a_hash_of_key_and_name() -> None:
    assert hashed_user("a", "b") == hashed_user("a", "b")
    assert len({hashed_user("a", "b"), hashed_user("b", "b"), hashed_user("a", "c"), hashed_user("ab", "")}) == 4


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "", "127.0.0.1.nip.io"]
)
def test_names_of_others_are_refused(served: Any, host: str) -> None:
    assert refused(httpx.get(f"{served[1]}/v1/models", headers={"Host": host}), 403) == "host"


def test_own_names_and_origins(served: Any) -> None:
    service, place = served
    for host in ("localhost", "LOCALHOST:80", "chat.localhost", "127.0.0.1:1", "[::1]:8000"):
        assert httpx.get(f"{place}/v1/models", headers={"Host": host}).status_code == 200
    own = {"Origin": place}
    assert post(place, json.dumps(CHAT), **own).status_code == 200
    assert refused(post(place, json.dumps(CHAT), Origin="https://evil.example"), 403) == "origin"
    assert refused(post(place, json.dumps(CHAT), Origin="null"), 403) == "origin"
    assert "access-control-allow-origin" not in post(place, json.dumps(CHAT), **own).headers
    service.hosts = known_hosts("127.0.0.1", ["chat.example:443"], ["https://app.example"])
    assert post(place, json.dumps(CHAT), Host="chat.example", Origin="https://app.example").status_code == 200
    assert service.hosts.knows("chat.example")
    assert known_hosts("0.0.0.0").knows(socket.gethostname())
    assert known_hosts("x", ["*"]).knows("anything")
    assert [is_local(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "10.0.0.1")] == [True] * 3 + [
        False
    ] * 2


@pytest.mark.parametrize(
    "path", ["../out/good", "/etc", "link", "..", "bad\x00", "good/../../out/good", "none", "x" * 5_000]
)
def test_adapters_from_elsewhere(served: Any, path: str) -> None:
    body = json.dumps({"lora_name": "a", "lora_path": path})
    found = post(served[1], body, "/v1/load_lora_adapter")
    assert refused(found, 400) == "invalid_request"
    assert "out" not in found.text.replace("without", "")


def test_adapters(served: Any) -> None:
    service, place = served
    body = json.dumps({"lora_name": "mine", "lora_path": "good"})
    assert post(place, body, "/v1/load_lora_adapter").json()["parent"] == "tiny"
    assert "mine" in {one["id"] for one in httpx.get(f"{place}/v1/models").json()["data"]}
    assert refused(post(place, body, "/v1/load_lora_adapter"), 400)  # the name is taken
    broken = json.dumps({"lora_name": "b", "lora_path": "bad"})
    assert refused(post(place, broken, "/v1/load_lora_adapter"), 400)
    for name in ("../x", "a/b", "", "auto", "<b>"):
        wrong = json.dumps({"lora_name": name, "lora_path": "good"})
        assert refused(post(place, wrong, "/v1/load_lora_adapter"), 400)
    out = json.dumps({"lora_name": "mine"})
    assert post(place, out, "/v1/unload_lora_adapter").json() == {"id": "mine", "object": "model", "deleted": True}
    assert refused(post(place, out, "/v1/unload_lora_adapter"), 404) == "model_not_found"
    base = json.dumps({"lora_name": "tiny"})
    assert refused(post(place, base, "/v1/unload_lora_adapter"), 400)
    service.adapters_root, root = None, service.adapters_root
    try:
        assert refused(post(place, body, "/v1/load_lora_adapter"), 403) == "adapters_off"
    finally:
        service.adapters_root = root


def test_health_while_starting_and_stopping(served: Any) -> None:
    service, place = served
    assert httpx.get(f"{place}/health").json() == {"status": "ok"}
    assert httpx.head(f"{place}/health").status_code == 200
    for state in ("starting", "stopping"):
        service.state = state
        found = httpx.get(f"{place}/health")
        assert (found.status_code, found.json()) == (503, {"status": state})
        assert refused(post(place, json.dumps(CHAT)), 503) == state
        assert httpx.get(f"{place}/metrics").status_code == 200


def test_depth_takes_no_longer_than_reading() -> None:
    start = time.monotonic()
    assert depth(b'"' + b'\\"' * 200_000) == 0  # a text that never ends, and may begin at each of its quotes
    assert depth(b"[" + b'"\\' * 200_000) == 1
    assert time.monotonic() - start < 5
    assert depth(b'["]\\') == 1


def test_origins_that_are_none(served: Any) -> None:
    for origin in ("http://[", "http://[::1", "//", "\\"):
        assert refused(post(served[1], json.dumps(CHAT), Origin=origin), 403) == "origin"


def test_pages_that_may_ask_may_send_what_openais_client_does(scripted_engine: Any, running: Any) -> None:
    service = Service(scripted_engine(), hosts=known_hosts("127.0.0.1", (), ["https://app.example"]))
    asked = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    names = "authorization,content-type,x-stainless-os"
    with running(service) as place:
        url = f"{place}/v1/chat/completions"
        found = httpx.options(url, headers=asked | {"Access-Control-Request-Headers": names})
        assert (found.status_code, found.headers["access-control-allow-origin"]) == (200, "https://app.example")
        assert "x-stainless-os" in found.headers["access-control-allow-headers"]
        assert httpx.options(url, headers=asked | {"Origin": "https://evil.example"}).status_code == 400
        told = post(place, "{", Origin="https://app.example").headers
        assert "retry-after" in told["access-control-expose-headers"].lower()
