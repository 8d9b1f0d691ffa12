"""The owner's page of a test."""

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from posttrain.serve import ab_page
from posttrain.serve.ab_page import add_ab_routes
from posttrain.serve.app import create_app
from posttrain.serve.doors import Load
from posttrain.serve.keys import read_keys
from posttrain.serve.service import Service

OWNER, OTHER = {"Authorization": "Bearer owners-key"}, {"Authorization": "Bearer others-key"}


class Idle:
    def models(self):
        return []

    def load(self):
        return Load()


@pytest.fixture
def asked():
    return []


@pytest.fixture
def client(asked):
    def state():
        asked.append(1)
        return {"arms": ["<b>A", "B"], "number": len(asked)}

    service = Service(Idle(), keys=read_keys(["owner:owners-key", "guest:others-key"]))
    app = create_app(service, (lambda app, service: add_ab_routes(app, service, state),))
    with TestClient(app, base_url="http://localhost") as client:
        yield client


def test_the_page_holds_nothing_and_the_figures_are_the_owners(client, asked):
    page = client.get("/ab")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]
    assert client.get("/ab/state").status_code == 401
    assert client.get("/ab/state", headers=OTHER).status_code == 403
    assert not asked
    assert client.get("/ab/state", headers=OWNER).json()["arms"] == ["<b>A", "B"]


def test_its_files_are_served_and_nothing_of_them_is_made_from_markup(client):
    for path, kind in (
        ("/page/ab.css", "text/css"),
        ("/page/ab.js", "text/javascript"),
        ("/page/ab_chart.js", "text/javascript"),
    ):
        found = client.get(path)
        assert found.status_code == 200
        assert found.headers["content-type"].startswith(kind)
        assert not any(
            word in found.text for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write")
        )
        assert "http:" not in found.text.replace("http://www.w3.org/2000/svg", "")
        assert path in client.get("/ab").text or path == "/page/ab_chart.js"


def test_many_readers_cost_as_one(client, asked, monkeypatch):
    for _ in range(3):
        assert client.get("/ab/state", headers=OWNER).json()["number"] == 1
    monkeypatch.setattr(ab_page.time, "monotonic", lambda: 1e12)
    assert client.get("/ab/state", headers=OWNER).json()["number"] == 2
    assert len(asked) == 2


def test_without_a_test_it_says_so():
    service = Service(Idle())
    app = create_app(service, (add_ab_routes,))
    assert isinstance(app, FastAPI)
    with TestClient(app, base_url="http://localhost") as client:
        answer = client.get("/ab/state")
    assert answer.status_code == 404
    assert "no A/B test" in answer.json()["error"]["message"]
