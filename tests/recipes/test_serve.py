"""`posttrain serve`: names, keys, wiring, a pipeline's good model, and the whole of it in a process of its own."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import httpx
import pytest

from posttrain.errors import ConfigError, ModelError, PosttrainError
from posttrain.recipes.serve import run
from posttrain.recipes.serve_config import ServeConfig
from posttrain.recipes.serve_models import Loading, Named, named_models
from posttrain.recipes.serve_setup import allowed_keys, limits_of, pages_of, service_of
from posttrain.serve.doors import Load, Outcome
from posttrain.types import Message


class Shelf:
    """An engine that keeps what it was told to load."""

    def __init__(self) -> None:
        self.loaded: list[tuple[str, str]] = []
        self.event = threading.Event()

    def load_model(self, name: str, folder: str) -> None:
        if "broken" in folder:
            raise ModelError("no weights here")
        self.loaded.append((name, folder))
        self.event.set()

    def models(self) -> list[Any]:
        return [SimpleNamespace(name=name) for name, _ in self.loaded]

    def load(self) -> Load:
        return Load()


def test_models_have_the_names_of_their_folders_or_those_given() -> None:
    models = named_models(ServeConfig(models=["runs/a/", "runs/b"]))
    assert [(model.name, model.given) for model in models] == [("a", "runs/a/"), ("b", "runs/b")]
    assert [m.name for m in named_models(ServeConfig(models=["x/a"], served_model_name=["mine"]))] == ["mine"]
    assert [m.name for m in named_models(ServeConfig())] == ["pocket"]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"models": ["x/a", "y/a"]}, "--served-model-name"),
        ({"models": ["x/a"], "served_model_name": ["b", "c"]}, "2 names for 1"),
        ({"models": ["x/auto"]}, "A/B"),
        ({"models": []}, "empty"),
    ],
)
def test_names_that_cannot_be(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        named_models(ServeConfig(**keys))


def test_other_machines_need_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POSTTRAIN_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="--api-key-file"):
        allowed_keys(ServeConfig(host="0.0.0.0"))
    assert not allowed_keys(ServeConfig(host="0.0.0.0", allow_no_key=True)).hashes
    assert not allowed_keys(ServeConfig()).hashes
    assert allowed_keys(ServeConfig(host="0.0.0.0", api_key=["a-long-key"])).name("Bearer a-long-key") == "owner"
    monkeypatch.setenv("POSTTRAIN_API_KEY", "another-key")
    assert allowed_keys(ServeConfig(host="0.0.0.0")).name("Bearer another-key") == "owner"


def test_keys_become_bounds() -> None:
    limits = limits_of(ServeConfig(max_body_mb=0.5, max_n=2, max_tokens=9, request_limit_s=3, max_requests=4))
    assert (limits.max_body, limits.max_n, limits.max_tokens) == (524_288, 2, 9)
    assert (limits.request_s, limits.max_requests) == (3, 4)


def test_everything_is_put_together(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text("log: null\nrules:\n  - {name: bombs, kind: pattern, phrases: [bomb]}\n")
    config = ServeConfig(
        models=["x/a", "x/b"], store=str(tmp_path / "votes.db"), split="fixed", shares=[3, 1],
        adapters_root=str(tmp_path), guardrails=str(rules),
    )  # fmt: skip
    with ExitStack() as stack:
        service = service_of(config, named_models(config), Shelf(), stack, print)  # type: ignore[arg-type]
        assert (service.split.arms, service.default_model, service.state) == (("a", "b"), "a", "starting")
        arms = [service.split.arm(f"user {number}") for number in range(400)]
        assert 250 < arms.count("a") < 350
        assert service.keeper.outcomes() == []
        assert service.guard.check([Message("user", "a bomb")], "u").action == "refuse"
        assert len(pages_of(config)) == 2
        service.split.heard([Outcome("u", "a", 1.0, "up")])
    with ExitStack() as stack:  # the same users, the same arms
        again = service_of(config, named_models(config), Shelf(), stack, print)  # type: ignore[arg-type]
        assert [again.split.arm(f"user {number}") for number in range(400)] == arms


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"split": "fixed"}, "two models"),
        ({"shares": [1, 2]}, "--split fixed"),
        ({"models": ["a", "b"], "split": "thompson", "shares": [1, 2]}, "fixed split"),
        ({"models": ["a", "b"], "split": "fixed", "shares": [1]}, "2 numbers"),
        ({"adapters_root": "/no/such/folder"}, "adapters_root"),
        ({"guardrails": "/no/such/file.yaml"}, "file.yaml"),
    ],
)
def test_wishes_that_do_not_fit(keys: dict[str, Any], said: str) -> None:
    config = ServeConfig(**{"models": ["a"]} | keys)
    with ExitStack() as stack, pytest.raises(PosttrainError, match=re.escape(said)):
        service_of(config, named_models(config), Shelf(), stack, print)  # type: ignore[arg-type]


@contextmanager
def loading(models: list[Named], engine: Shelf, told: list[str], **options: Any) -> Iterator[Loading]:
    made = Loading(
        engine,
        models,
        ready=lambda: told.append("ready"),
        failed=lambda: told.append("failed"),
        say=told.append,
        **options,
    )  # type: ignore[arg-type]
    made.start()
    try:
        yield made
    finally:
        made.close()
        assert not made.is_alive()


def wait(engine: Shelf, num: int) -> None:
    deadline = time.monotonic() + 10
    while len(engine.loaded) < num and time.monotonic() < deadline:
        engine.event.wait(0.05)
        engine.event.clear()
    assert len(engine.loaded) == num


def test_good_model_of_a_pipeline_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posttrain.recipes.serve_models.EVERY_S", 0.02)
    for name in ("one", "two", "broken"):
        (tmp_path / name).mkdir()
    good, engine, told = tmp_path / "good", Shelf(), list[str]()
    good.write_text(f"{tmp_path / 'one'}\n")
    with loading([Named("p", str(tmp_path)), Named("other", "elsewhere")], engine, told) as loader:
        wait(engine, 2)
        assert engine.loaded == [("p", str(tmp_path / "one")), ("other", "elsewhere")]
        good.write_text(f"{tmp_path / 'broken'}\n")
        deadline = time.monotonic() + 10
        while not any("cannot be loaded" in line for line in told) and time.monotonic() < deadline:
            time.sleep(0.01)
        good.unlink()  # withdrawn: what is served goes on
        time.sleep(0.1)
        good.write_text(f"{tmp_path / 'two'}\n")
        wait(engine, 3)
        assert engine.loaded[-1] == ("p", str(tmp_path / "two"))
        assert sum("cannot be loaded" in line for line in told) == 1
        loader.again()
        wait(engine, 5)
    assert told.count("ready") == 1


def test_model_that_cannot_be_loaded_ends_the_server(tmp_path: Path) -> None:
    engine, told = Shelf(), list[str]()
    with loading([Named("a", "broken")], engine, told) as loader:
        loader.join(10)
        assert (told, str(loader.error)) == (["failed"], "no weights here")
    failure: list[BaseException] = []

    def serve() -> None:
        try:
            run(ServeConfig(models=[str(tmp_path / "none")], port=0))
        except PosttrainError as error:
            failure.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert "none" in str(failure[0])


@pytest.fixture(scope="module")
def pipeline(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline's folder whose good model is the first of two."""
    folder = tmp_path_factory.mktemp("pipeline")
    for seed, name in enumerate(("one", "two")):
        tiny.save_base(folder / name, seed=seed)
    (folder / "good").write_text(f"{folder / 'one'}\n")
    return folder


def test_process_from_start_to_stop(pipeline: Path, tmp_path: Path) -> None:
    """Votes are kept, the good model is swapped in under a running stream, SIGTERM lets the last answer end."""
    keys = tmp_path / "keys"
    keys.write_text("owner:the-owners-key\n")
    code = (
        "import json, sys; from posttrain.recipes.serve import run; "
        "from posttrain.recipes.serve_config import ServeConfig; sys.exit(run(ServeConfig(**json.loads(sys.argv[1]))))"
    )
    config = {
        "models": [str(pipeline)], "served_model_name": ["p"], "port": 0, "api_key_file": str(keys), "dtype": "float32",
        "store": str(tmp_path / "votes.db"),
    }  # fmt: skip
    server = subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(config)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        said = read_until(server, "ready:")
        place = re.search(r"http://\S+/v1", said)[0]  # type: ignore[index]
        with httpx.Client(base_url=place, headers={"Authorization": "Bearer the-owners-key"}, timeout=30) as client:
            assert client.get(f"{place[:-3]}/health", headers={}).json() == {"status": "ok"}
            assert httpx.get(f"{place}/models").status_code == 401
            assert client.get(f"{place[:-3]}/").text.startswith("<!doctype html>")
            body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 150, "seed": 1, "ignore_eos": True}
            before = client.post("/chat/completions", json=body | {"user": "anna", "store": True}).json()
            vote = {"key": "vote-one", "kind": "up", "completion_id": before["id"], "user": "anna"}
            assert client.post("/feedback", json=vote).json() == {"kept": True}
            with client.stream("POST", "/chat/completions", json=body | {"stream": True}) as answer:
                lines = answer.iter_lines()
                next(lines)
                (pipeline / "good").write_text(f"{pipeline / 'two'}\n")
                assert "two" in read_until(server, "p:")
                assert text_of(lines) == before["choices"][0]["message"]["content"]
            after = client.post("/chat/completions", json=body).json()["choices"][0]["message"]["content"]
            assert after != before["choices"][0]["message"]["content"]
            with client.stream("POST", "/chat/completions", json=body | {"stream": True}) as answer:
                lines = answer.iter_lines()
                next(lines)
                server.send_signal(signal.SIGTERM)
                assert text_of(lines) == after
        assert server.wait(30) == 0
    finally:
        server.kill()
        _, errors = server.communicate()
    assert "Traceback" not in errors


def read_until(server: subprocess.Popen[str], start: str) -> str:
    assert server.stdout is not None
    for line in server.stdout:
        if line.startswith(start):
            return line
    raise AssertionError(server.stderr.read() if server.stderr else "")


def text_of(lines: Iterator[str]) -> str:
    """What a stream says; the first line was taken already."""
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
