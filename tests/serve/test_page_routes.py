"""The chat page's files: what is given, with which headers, and that there is no way to another file."""

import re
from types import SimpleNamespace

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from posttrain.serve.page_routes import FILES, HEADERS, PAGE, add_page_routes


@pytest.fixture(scope="module")
def client() -> TestClient:
    app = FastAPI()
    add_page_routes(app, SimpleNamespace(keeper=None, default_model="m"))
    return TestClient(app)


@pytest.mark.parametrize(("name", "address"), FILES.items())
def test_files_come_with_a_strict_policy(client: TestClient, name: str, address: str) -> None:
    answer = client.get(address)
    assert answer.status_code == 200
    assert answer.content == PAGE.joinpath(name).read_bytes()
    assert {key: answer.headers[key] for key in HEADERS} == HEADERS
    assert answer.headers["content-type"].endswith("charset=utf-8")
    assert client.head(address).status_code == 200


def test_the_policy_lets_nothing_in_from_elsewhere() -> None:
    policy = dict(part.strip().split(" ", 1) for part in HEADERS["Content-Security-Policy"].split(";"))
    assert policy.pop("default-src") == "'none'"
    assert set(policy.values()) == {"'self'", "'none'"}


def test_the_page_needs_no_inline_script_and_names_only_its_own_files() -> None:
    html = PAGE.joinpath("chat.html").read_text(encoding="utf-8")
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=|<style|javascript:", html)
    assert set(re.findall(r'(?:src|href)="(/[^"]*)"', html)) <= set(FILES.values())
    for name in FILES:
        text = PAGE.joinpath(name).read_text(encoding="utf-8")
        assert set(re.findall(r'from "\./([^"]+)"', text)) <= set(FILES)
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text)
        assert set(re.findall(r"//[a-z0-9-]+\.[a-z0-9.]+", text)) <= {"//www.w3.org"}, (
            f"{name} names another server"
        )  # SVG
        assert len(text.splitlines()) <= 400


@pytest.mark.parametrize(
    "path", ["/page/", "/page/page_routes.py", "/page/../page_routes.py", "/page/%2e%2e/app.py", "/page/chat.html"]
)
def test_there_is_no_way_to_another_file(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


@pytest.mark.parametrize(("keeper", "votes"), [(None, False), (object(), True)])
def test_the_page_is_told_what_the_server_offers(keeper: object, votes: bool) -> None:
    app = FastAPI()
    add_page_routes(app, SimpleNamespace(keeper=keeper, default_model="m"))
    assert TestClient(app).get("/page/settings").json() == {"votes": votes, "default_model": "m"}
