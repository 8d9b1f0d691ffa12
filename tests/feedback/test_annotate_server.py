"""The annotation page's addresses: who may ask what, what reaches the browser, and every way to be refused."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from posttrain.errors import StoreAway, StoreError
from posttrain.feedback.ballots import Ballot
from posttrain.feedback.queue import Queue
from posttrain.feedback.server import FILES, MAX_BODY, MAX_TEXT, PAGE, create_app
from posttrain.feedback.store import Store
from posttrain.types import Message, ToolCall

OWNER = "the owner's token"
SECRETS = ("secret-model-a", "secret-model-b")


class Team:
    """A store, its server, and a client for everybody."""

    def __init__(self, store: Store) -> None:
        self.store = store
        for number in range(3):
            prompt = store.add_prompt([Message("system", "be brief"), Message("user", f"question {number}")])
            answers = [
                Message("assistant", f"answer {number}", reasoning="hm"),
                Message("assistant", "", tool_calls=(ToolCall("f"),)),
            ]
            ids = [
                store.add_response(prompt, [answer], model=model, parameters={"secret-parameter": 1}, token_ids=[777])
                for answer, model in zip(answers, SECRETS, strict=True)
            ]
            store.add_item(prompt, ids, overlap=2)
        store.set_guidelines("**Be** right. <script>alert(1)</script>")
        self.queue = Queue(store)
        self.app = create_app(store, self.queue, OWNER)
        self.clients: list[TestClient] = []
        self.tokens = {name: store.add_annotator(name) for name in ("ann", "bob")}
        self.ann, self.bob = (self.client(self.tokens[name]) for name in ("ann", "bob"))

    def client(self, token: str) -> TestClient:
        made = TestClient(self.app, headers={"Authorization": f"Bearer {token}"}, raise_server_exceptions=False)
        self.clients.append(made)
        return made


@pytest.fixture
def team(sqlite_store: Store) -> Iterator[Team]:
    made = Team(sqlite_store)
    yield made
    for client in made.clients:
        client.close()


def vote(shown: dict[str, Any], key: str = "a key of the page", **more: Any) -> dict[str, Any]:
    said = {"kind": "ranking", "key": key, "assignment": shown["assignment"], "places": [0, 1]}
    return {**said, "guidelines": shown["guidelines"]["version"], **more}


def test_the_page_and_its_files(team: Team) -> None:
    with TestClient(team.app) as anybody:
        for name, address in FILES.items():
            answer = anybody.get(address)
            assert answer.status_code == 200
            assert answer.content == PAGE.joinpath(name).read_bytes()
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert "*" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert "set-cookie" not in answer.headers
        for address in ("/page/../server.py", "/page/%2e%2e/server.py", "/docs", "/openapi.json", "/page/", "/redoc"):
            assert anybody.get(address).status_code == 404


def test_the_page_keeps_its_own_policy() -> None:
    """No inline script, style or handler, and nothing from another place."""
    for name in FILES:
        text = PAGE.joinpath(name).read_text(encoding="utf-8")
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), name
        if name.endswith("html"):
            assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=", text), name
        if name.endswith("js"):
            assert not re.search(r"\beval\(|new Function|document\.write|insertAdjacentHTML|outerHTML", text), name
    used = {name for name in FILES if name != "annotate.html"}
    assert used == {path.name for path in PAGE.iterdir() if path.is_file()} - {"annotate.html"}  # type: ignore[attr-defined]


@pytest.mark.parametrize("token", ["", "wrong", "ann", OWNER, "x" * 5_000, "é"])
def test_a_wrong_token_is_told_what_to_do(team: Team, token: str) -> None:
    headers = {"Authorization": f"Bearer {token}".encode()}
    with TestClient(team.app, headers=headers) as stranger:
        asked = [
            stranger.get("/api/next"),
            stranger.get("/api/earlier"),
            stranger.post("/api/alive", json={"assignment": 1}),
        ]
        asked.append(stranger.post("/api/vote", json={"kind": "skip", "key": "12345678"}))
        for answer in asked:
            assert answer.status_code == 403
            assert "ask whoever runs this page" in answer.json()["message"]


def test_figures_are_the_owners(team: Team) -> None:
    assert team.ann.get("/api/stats").status_code == 403
    team.ann.post("/api/vote", json=vote(team.ann.get("/api/next").json()))
    found = team.client(OWNER).get("/api/stats")
    assert found.status_code == 200
    assert found.json()["kinds"] == {"ranking": 1}
    assert found.json()["silent"] == ["bob"]
    assert {model["name"] for model in found.json()["models"]} == set(SECRETS)


def test_an_old_token_ends_with_the_new_one(team: Team) -> None:
    new = team.store.new_token("ann")
    assert team.ann.get("/api/next").status_code == 403
    assert team.client(new).get("/api/next").status_code == 200


def test_what_reaches_the_browser_is_blind(team: Team) -> None:
    """Neither models, nor parameters, nor ids that would tell answers apart."""
    shown = team.ann.get("/api/next").json()
    ballot = team.ann.post("/api/vote", json=vote(shown)).json()
    earlier = team.ann.get("/api/earlier").json()
    for page in (shown, ballot, earlier):
        text = json.dumps(page)
        assert "secret" not in text
        assert "777" not in text
        assert "response" not in text
        assert "model" not in text
    assert set(shown) == {"assignment", "annotator", "prompt", "answers", "guidelines", "progress"}
    turns = [turn for answer in shown["answers"] for turn in answer]
    assert {name for turn in turns for name in turn} <= {"role", "html", "text", "reasoning", "calls"}
    assert [turn["role"] for turn in shown["prompt"]] == ["system", "user"]
    assert shown["guidelines"]["html"].startswith("<p><strong>Be</strong> right. &lt;script&gt;")


def test_the_same_vote_twice(team: Team) -> None:
    shown = team.ann.get("/api/next").json()
    first, second = (team.ann.post("/api/vote", json=vote(shown)) for _ in range(2))
    assert first.status_code == second.status_code == 200
    assert first.json()["ballot"] == second.json()["ballot"]
    assert len(team.store.ballots(include_replaced=True)) == 1
    assert second.json()["progress"]["mine"] == 1


def test_a_stale_page(team: Team) -> None:
    shown = team.ann.get("/api/next").json()
    team.ann.post("/api/vote", json=vote(shown))
    late = team.ann.post("/api/vote", json=vote(shown, "another tab's key"))
    assert late.status_code == 409
    assert late.json()["error"] == "answered"
    other = team.ann.get("/api/next").json()
    foreign = team.bob.post("/api/vote", json=vote(other))
    assert foreign.status_code == 409, "an assignment of somebody else"
    team.store.set_guidelines("new")
    old = team.ann.post("/api/vote", json=vote(other, "yet another key"))
    assert (old.status_code, old.json()["error"]) == (409, "guidelines")
    assert len(team.store.ballots()) == 1


def test_back_and_correct(team: Team) -> None:
    shown = team.ann.get("/api/next").json()
    more = {"better": "mine", "comment": "why", "all_bad": True, "places": [1, 0]}
    first = team.ann.post("/api/vote", json=vote(shown, **more)).json()["ballot"]
    earlier = team.ann.get("/api/earlier").json()
    assert earlier["replaces"] == first
    assert earlier["answers"] == shown["answers"], "in the same order"
    assert earlier["said"] == {
        "kind": "ranking",
        "places": [1, 0],
        "all_bad": True,
        "reason": "",
        "comment": "why",
        "better": "mine",
    }
    new = team.ann.post("/api/vote", json=vote({**shown, "assignment": None}, "second key", replaces=first))
    assert new.status_code == 200
    assert team.ann.get("/api/earlier").json()["replaces"] == new.json()["ballot"]
    assert team.ann.get("/api/earlier", params={"before": new.json()["ballot"]}).json() == {"replaces": None}
    stale = team.ann.post("/api/vote", json=vote({**shown, "assignment": None}, "third key", replaces=first))
    assert stale.status_code == 409
    assert (
        team.bob.post("/api/vote", json=vote({**shown, "assignment": None}, "bob's key", replaces=first)).status_code
        == 409
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "praise"},
        {"places": [0]},
        {"places": [0, 1, 2]},
        {"places": [0, -1]},
        {"places": ["best", 1]},
        {"places": None},
        {"key": ""},
        {"key": "x" * 101},
        {"seconds": -1},
        {"seconds": "NaN"},
        {"better": "x" * (MAX_TEXT + 1)},
        {"better": "half \ud83d"},
        {"comment": "nul \0"},
        {"unknown": 1},
        {"assignment": "first"},
        {"assignment": 10**30},
        {"replaces": 10**30},
        {"guidelines": 10**30},
        {"guidelines": -1},
        {"assignment": None},
    ],
)
def test_what_is_not_understood(team: Team, wrong: dict[str, Any]) -> None:
    shown = team.ann.get("/api/next").json()
    body = json.dumps({**vote(shown), **wrong}).encode()
    answer = team.ann.post("/api/vote", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert answer.json()["message"].startswith("The request was not understood")
    assert team.store.ballots() == []
    assert team.ann.get("/api/next").json()["assignment"] == shown["assignment"]


def test_too_much_and_no_json(team: Team) -> None:
    assert team.ann.post("/api/vote", content=b"x" * (MAX_BODY + 1)).status_code == 413
    assert team.ann.post("/api/vote", content=iter([b"{}"])).status_code == 413, "a body of unknown length"
    for length in ("5", "²", "9" * 5_000):
        headers = {"Content-Length": length.encode("latin-1"), "Transfer-Encoding": b"chunked"}
        longer = team.ann.post("/api/vote", content=iter([b"x" * MAX_BODY] * 2), headers=headers)
        assert longer.status_code == 413, "two lengths at once"
    assert team.ann.post("/api/alive", json={"assignment": 10**30}).status_code == 422
    assert team.ann.get("/api/earlier", params={"before": 10**30}).status_code == 422
    assert team.ann.post("/api/vote", content=b"{").status_code == 422
    assert team.ann.get("/api/vote").status_code == 405


def test_a_database_that_goes_away_loses_nothing(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = team.ann.get("/api/next").json()

    def gone(*_: object, **__: object) -> None:
        raise StoreAway("/path/of/the/owner: gone")

    monkeypatch.setattr(team.store, "vote", gone)
    answer = team.ann.post("/api/vote", json=vote(shown))
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert "path" not in answer.text
    monkeypatch.setattr(team.store, "_run", gone)
    assert team.ann.get("/api/next").status_code == 503
    monkeypatch.undo()
    again = team.ann.post("/api/vote", json=vote(shown))
    assert again.status_code == 200
    assert len(team.store.ballots()) == 1


def test_what_the_store_refuses_is_not_sent_again(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a database that is away asks for the same request once more."""
    shown = team.ann.get("/api/next").json()
    vote_of = Store.vote

    def with_an_item_of_nobody(store: Store, ballot: Ballot, **more: Any) -> int:
        return vote_of(store, replace(ballot, item_id=99), **more)

    monkeypatch.setattr(Store, "vote", with_an_item_of_nobody)
    answer = team.ann.post("/api/vote", json=vote(shown))
    assert (answer.status_code, answer.json()["error"]) == (409, "refused")
    assert "retry-after" not in answer.headers
    assert team.store.place not in answer.text
    monkeypatch.undo()
    assert not isinstance(_refusal(team.store), StoreAway)
    wrong = team.ann.post("/api/vote", json=vote(shown, guidelines=5))
    assert (wrong.status_code, wrong.json()["error"]) == (409, "guidelines")
    assert team.ann.post("/api/vote", json=vote(shown)).status_code == 200


def _refusal(store: Store) -> StoreError:
    with pytest.raises(StoreError) as caught:
        store.response(99)
    return caught.value


def test_a_locked_file_is_waited_for_then_503(tmp_path: Path) -> None:
    import sqlite3

    with Store.open(tmp_path / "a.db", wait_s=0.3) as store:
        team = Team(store)
        shown = team.ann.get("/api/next").json()
        other = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        assert team.ann.post("/api/vote", json=vote(shown)).status_code == 503
        other.execute("ROLLBACK")
        other.close()
        assert team.ann.post("/api/vote", json=vote(shown)).status_code == 200
        assert len(store.ballots()) == 1
        for client in team.clients:
            client.close()


def test_postgresql_stops_in_mid_work(cluster: Any) -> None:
    """The server of the database ends and comes back: 503 meanwhile, then the same vote is stored, once."""
    with Store.open(cluster.address(), wait_s=1) as store:
        team = Team(store)
        shown = team.ann.get("/api/next").json()
        cluster.stop()
        try:
            for _ in range(2):
                answer = team.ann.post("/api/vote", json=vote(shown))
                assert answer.status_code == 503
                assert "retry-after" in answer.headers
        finally:
            cluster.start()
        assert team.ann.post("/api/vote", json=vote(shown)).status_code == 200
        assert team.ann.post("/api/vote", json=vote(shown)).status_code == 200
        assert len(store.ballots(include_replaced=True)) == 1
        for client in team.clients:
            client.close()


def test_a_sign_of_life(team: Team) -> None:
    shown = team.ann.get("/api/next").json()
    assert team.ann.post("/api/alive", json={"assignment": shown["assignment"]}).json()["yours"] is True
    assert team.bob.post("/api/alive", json={"assignment": shown["assignment"]}).json()["yours"] is False


def test_all_done(team: Team) -> None:
    for client in (team.ann, team.bob):
        for number in range(3):
            assert (
                client.post("/api/vote", json=vote(client.get("/api/next").json(), f"key number {number}")).status_code
                == 200
            )
        found = client.get("/api/next").json()
        assert found["assignment"] is None
    assert found["progress"] == {"mine": 3, "team": 6, "wanted": 6}
