"""The annotation page in a real browser: ranking by keys, drag and buttons, reloads, two people, hostile texts, access.

Needs a browser (tests/browsing.py).
"""

import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from tests.browsing import CHROMIUM, FLAGS, LAPTOP, PHONE, chromium, expect, go_without, playwright

from posttrain.feedback.ballots import Ballot
from posttrain.feedback.queue import Queue
from posttrain.feedback.server import create_app
from posttrain.feedback.store import Store
from posttrain.feedback.verdicts import Verdict
from posttrain.types import Message

Page = Any

OWNER = "owner-token"
CODE = "Here:\n\n```python\ndef f(x):  # a comment\n    return 'text', 12 + x\n```\n\n> a *quote* with `code`\n\n"
CODE += "|a|b|\n|-|-|\n|1|2|"


class Site:
    """A store behind a running server, which can be taken down and put up again on its port."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.tokens = {name: store.add_annotator(name) for name in ("ann", "bob")}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    def add(self, *answers: str, question: str = "Which is right?", overlap: int = 2) -> list[int]:
        """An item; the ids of its answers."""
        number = len(self.store.items())
        prompt = self.store.add_prompt([Message("system", "Be brief."), Message("user", f"{question} ({number})")])
        ids = [
            self.store.add_response(prompt, [Message("assistant", text)], model=f"secret-{place}")
            for place, text in enumerate(answers)
        ]
        self.store.add_item(prompt, ids, overlap=overlap)
        return ids

    def up(self) -> None:
        self.queue = Queue(self.store)
        settings = uvicorn.Config(
            create_app(self.store, self.queue, OWNER),
            host="127.0.0.1",
            port=self.port,
            access_log=False,
            log_level="error",
            timeout_graceful_shutdown=1,
        )
        self.server = uvicorn.Server(settings)
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def down(self) -> None:
        self.server.should_exit = True
        self.thread.join()

    def link(self, name: str) -> str:
        return f"http://127.0.0.1:{self.port}/#{self.tokens.get(name, name)}"

    def ballots(self, **chosen: Any) -> list[Ballot]:
        return self.store.ballots(**chosen)

    def wait_for(self, num: int) -> list[Ballot]:
        """The ballots, once there are so many."""
        deadline = time.monotonic() + 15
        while len(self.ballots()) < num and time.monotonic() < deadline:
            time.sleep(0.02)
        found = self.ballots()
        assert len(found) == num
        return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def site(sqlite_store: Store) -> Iterator[Site]:
    made = Site(sqlite_store)
    yield made
    made.down()


@pytest.fixture
def visit(browser: Any, site: Site) -> Iterator[Callable[..., Page]]:
    """`visit(name)`: a page in a browser of its own, watched: no script fails, no policy is broken, nothing leaves."""
    contexts, faults = [], []

    def open_page(
        name: str = "ann", *, size: dict[str, int] = LAPTOP, path: str = "", wait: bool = True, **more: Any
    ) -> Page:
        context = browser.new_context(viewport=size, **{"reduced_motion": "reduce", **more})
        context.set_default_timeout(15_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(f"script: {error}"))
        page.on("dialog", lambda dialog: (faults.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("console", lambda said: faults.append(said.text) if "Content Security" in said.text else None)
        page.on("request", lambda sent: faults.append(sent.url) if str(site.port) not in sent.url else None)
        page.goto(path or site.link(name))
        if wait:
            expect(page.locator(".answer").first).to_be_visible()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not faults


def texts(page: Page) -> list[str]:
    return [text.strip() for text in page.locator(".answer .body").all_inner_texts()]


def ranked(site: Site, ballot: Ballot) -> list[tuple[str, float]]:
    """(answer, rank), the best first."""
    found = zip(ballot.response_ids, ballot.ranks or (), strict=True)
    return sorted(((site.store.response(id).messages[0].content, rank) for id, rank in found), key=lambda pair: pair[1])


def test_rank_by_keys(site: Site, visit: Callable[..., Page]) -> None:
    site.add("one", "two", "three", "four")
    site.add("five", "six")
    site.up()
    page = visit()
    while len(texts(page)) != 4:
        page.keyboard.press("s")
        expect(page.locator(".answer")).to_have_count(4)
    shown = texts(page)
    for key in "3=14":
        page.keyboard.press(key)
    expect(page.locator("#said")).to_have_text("A = C > D > B")
    page.keyboard.press("4")
    expect(page.locator("#said")).to_have_text("A = C")
    for key in "42":
        page.keyboard.press(key)
    skipped = len(site.ballots())
    page.keyboard.press("Enter")
    ballot = next(one for one in site.wait_for(skipped + 1) if one.kind == "ranking")
    assert [rank for _, rank in ranked(site, ballot)] == [0, 0, 1, 2]
    order = [answer for answer, _ in ranked(site, ballot)]
    assert set(order[:2]) == {shown[2], shown[0]}
    assert order[2:] == [shown[3], shown[1]]


def test_of_two_the_key_names_the_better(site: Site, visit: Callable[..., Page]) -> None:
    site.add("one", "two")
    site.up()
    page = visit()
    shown = texts(page)
    for key, said in (
        ("1", "A > B"),
        ("2", "B > A"),
        ("=", "A = B"),
        ("b", "A = B · both bad"),
        ("2", "B > A · both bad"),
    ):
        page.keyboard.press(key)
        expect(page.locator("#said")).to_have_text(said)
    page.keyboard.press("Enter")
    (ballot,) = site.wait_for(1)
    assert ranked(site, ballot) == [(shown[1], 0), (shown[0], 1)]
    assert ballot.all_bad
    expect(page.locator("#notice-title")).to_have_text("Nothing for you at the moment")


def test_arrows_buttons_and_drag_say_the_same(site: Site, visit: Callable[..., Page]) -> None:
    site.add("one", "two", "three")
    site.up()
    page = visit()
    said = page.locator("#said")
    page.keyboard.press("ArrowRight")
    for key in ("ArrowDown", "ArrowRight", "ArrowDown", "ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    expect(said).to_have_text("A > B > C")
    page.keyboard.press("ArrowUp")
    expect(said).to_have_text("A > B = C")
    page.keyboard.press("ArrowUp")
    expect(said).to_have_text("A > C > B")
    page.keyboard.press("Backspace")
    expect(said).to_have_text("")
    page.get_by_role("button", name="B: Best").click()
    page.get_by_role("button", name="A: 3rd").click()
    expect(said).to_have_text("B > C > A")
    page.get_by_role("button", name="C: 2nd").click()

    def drag(start: Page, end: Page) -> None:
        a, b = start.bounding_box(), end.bounding_box()
        page.mouse.move(a["x"] + a["width"] / 2, a["y"] + a["height"] / 2)
        page.mouse.down()
        page.mouse.move(a["x"] + 40, a["y"] + 40)
        page.mouse.move(b["x"] + 20, b["y"] + b["height"] / 2, steps=4)
        page.mouse.up()

    drag(page.locator("#letter-0"), page.locator(".slot[data-place='0']"))
    expect(said).to_have_text("A = B > C")
    drag(page.locator(".slot .letter[data-answer='1']"), page.locator("#prompt"))
    expect(said).to_have_text("A > C")
    page.get_by_role("button", name="Send").click()
    assert site.wait_for(1)[0].ranks == (0, 1)


def test_reload_restart_and_resume(site: Site, visit: Callable[..., Page]) -> None:
    site.add("one", "two", "three", "four")
    site.add("five", "six", "seven", "eight")
    site.up()
    page = visit()
    shown = texts(page)
    page.keyboard.press("2")
    page.keyboard.press("e")
    page.keyboard.type("my own words")
    page.reload()
    expect(page.locator("#said")).to_have_text("B")
    expect(page.locator("#better")).to_have_value("my own words")
    assert texts(page) == shown
    site.down()
    site.up()
    page.reload()
    expect(page.locator("#better")).to_have_value("my own words")
    assert texts(page) == shown
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    expect(page.locator("#mine")).to_have_text("ann 1")
    found = {ballot.kind: ballot for ballot in site.wait_for(2)}
    assert found["edit"].value == "my own words"
    assert found["ranking"].seconds is not None
    assert texts(page) != shown
    expect(page.locator("#better")).to_have_value("")


def test_two_people_at_once(site: Site, visit: Callable[..., Page]) -> None:
    for number in range(6):
        site.add(*(f"answer {number} {place}" for place in range(4)), overlap=1)
    site.up()
    ann, bob = visit("ann"), visit("bob")
    for number in range(3):
        assert not set(texts(ann)) & set(texts(bob)), "an item of one person is on two screens"
        for page, name in ((ann, "ann"), (bob, "bob")):
            for key in "1234":
                page.keyboard.press(key)
            page.keyboard.press("Enter")
            expect(page.locator("#mine")).to_have_text(f"{name} {number + 1}")
    found = site.wait_for(6)
    assert len({ballot.item_id for ballot in found}) == 6
    for page in (ann, bob):
        page.reload()
        expect(page.locator("#notice-title")).to_have_text("All done. Thank you.")


def test_the_same_item_in_another_order(site: Site, visit: Callable[..., Page]) -> None:
    for number in range(4):
        site.add(*(f"answer {number} {place}" for place in range(4)))
    site.up()
    shown = {}
    for name in ("ann", "bob"):
        page = visit(name)
        shown[name] = {}
        for number in range(4):
            shown[name][page.locator("#prompt").inner_text()] = texts(page)
            page.keyboard.press("=")
            page.keyboard.press("Enter")
            expect(page.locator("#mine")).to_have_text(f"{name} {number + 1}")
    assert shown["ann"].keys() == shown["bob"].keys()
    assert shown["ann"] != shown["bob"]
    assert {frozenset(order) for order in shown["ann"].values()} == {
        frozenset(order) for order in shown["bob"].values()
    }


HOSTILE = (
    "<script>window.hacked=1</script><img src=x onerror='window.hacked=1'></script></textarea></template>"
    "[link](javascript:window.hacked=1) [fine](https://example.org) ![pixel](http://example.org/p.png)\n\n"
    "<style>*{display:none}</style><svg onload='window.hacked=1'><iframe srcdoc='<script>parent.hacked=1</script>'>"
)


def test_hostile_texts_stay_texts(site: Site, visit: Callable[..., Page]) -> None:
    site.add(HOSTILE, f"```html\n{HOSTILE}\n```", question=HOSTILE)
    site.store.set_guidelines(HOSTILE)
    site.up()
    page = visit()
    for place in ("#prompt", "#answers", "#guide-text"):
        expect(page.locator(place)).to_contain_text("<script>window.hacked=1</script>")
        assert page.locator(f"{place} :is(script, img, svg, iframe, style)").count() == 0
        for link in page.locator(f"{place} a").all():
            assert link.get_attribute("href") == "https://example.org"
            assert "noopener" in (link.get_attribute("rel") or "")
    assert page.evaluate("window.hacked") is None
    assert "secret" not in page.content()
    page.keyboard.press("e")
    for start in page.locator("#from button").all():
        start.click()
        page.fill("#better", "")
    assert page.evaluate("window.hacked") is None


def test_a_double_click_is_one_vote(site: Site, visit: Callable[..., Page]) -> None:
    site.add("one", "two")
    site.add("three", "four")
    site.up()
    page = visit()
    page.keyboard.press("1")
    page.locator("#send").dblclick()
    expect(page.locator("#mine")).to_have_text("ann 1")
    page.wait_for_timeout(200)
    assert len(site.ballots()) == 1


def test_a_stale_tab_goes_on(site: Site, visit: Callable[..., Page]) -> None:
    for number in range(3):
        site.add(f"{number} one", f"{number} two")
    site.up()
    first = visit()
    second = first.context.new_page()
    second.goto(site.link("ann"))
    expect(second.locator(".answer").first).to_be_visible()
    assert texts(first) == texts(second)
    before = texts(first)
    first.keyboard.press("1")
    first.keyboard.press("Enter")
    expect(first.locator("#mine")).to_have_text("ann 1")
    second.keyboard.press("2")
    second.keyboard.press("Enter")
    expect(second.locator("#note")).to_contain_text("already voted")
    assert len(site.ballots()) == 1
    assert texts(second) == texts(first) != before


def test_changed_guidelines_are_shown_and_the_vote_kept(site: Site, visit: Callable[..., Page]) -> None:
    site.add("one", "two")
    site.store.set_guidelines("the old rules")
    site.up()
    page = visit()
    page.keyboard.press("2")
    site.store.set_guidelines("the new rules")
    page.keyboard.press("Enter")
    expect(page.locator("#note")).to_contain_text("guidelines have changed")
    expect(page.locator("#guide-text")).to_have_text("the new rules")
    expect(page.locator("#said")).to_have_text("B > A")
    page.keyboard.press("Enter")
    (ballot,) = site.wait_for(1)
    assert ballot.guidelines == 2


def test_guidelines_that_are_gone_stop_no_vote(site: Site, visit: Callable[..., Page]) -> None:
    """Another store at the same address, without guidelines, under an open page."""
    site.add("one", "two")
    site.store.set_guidelines("the rules")
    site.up()
    page = visit()
    page.keyboard.press("2")
    site.down()
    with site.store.batch() as connection:
        connection.exec_driver_sql("DELETE FROM guidelines")
    site.up()
    page.keyboard.press("Enter")
    expect(page.locator("#note")).to_contain_text("guidelines have changed")
    expect(page.locator("#guide")).to_be_hidden()
    page.keyboard.press("Enter")
    assert site.wait_for(1)[0].guidelines is None


def test_a_server_that_is_away(site: Site, visit: Callable[..., Page]) -> None:
    """The vote is kept, sent again under its key, and outlives even the tab."""
    site.add("one", "two")
    site.add("three", "four")
    site.up()
    page = visit()
    page.keyboard.press("1")
    site.down()
    page.keyboard.press("Enter")
    expect(page.locator("#note")).to_contain_text("Your vote is kept here")
    site.up()
    page.get_by_role("button", name="Send now").click()
    expect(page.locator("#mine")).to_have_text("ann 1")
    page.keyboard.press("2")
    site.down()
    page.keyboard.press("Enter")
    expect(page.locator("#note")).to_contain_text("Your vote is kept here")
    context = page.context
    page.close()
    site.up()
    again = context.new_page()
    again.goto(site.link("ann"))
    expect(again.locator("#mine")).to_have_text("ann 2")
    assert len(site.wait_for(2)) == 2


@pytest.mark.parametrize("better", ["", "a long answer of my own"])
def test_a_leftover_vote_that_is_refused(site: Site, visit: Callable[..., Page], better: str) -> None:
    """Its item was taken out meanwhile: the page says so, and what was written stays until its writer discards it."""
    site.add("one", "two")
    site.add("three", "four")
    site.up()
    page = visit()
    gone = site.queue.next("ann")
    page.keyboard.press("1")
    if better:
        page.keyboard.press("e")
        page.keyboard.type(better)
    site.down()
    page.keyboard.press("Control+Enter")
    expect(page.locator("#note")).to_contain_text("Your vote is kept here")
    context = page.context
    page.close()
    item = next(item for item in site.store.items() if item.id == gone.item_id)
    site.store.vote(Ballot("flag", item.prompt_id, item.response_ids, "bob", item_id=item.id, value="broken"))
    site.up()
    again = context.new_page()
    again.goto(site.link("ann"))
    expect(again.locator("#note")).to_contain_text("A vote of an earlier visit was not stored. This one has been")
    expect(again.locator(".answer").first).to_be_visible()
    assert [ballot.annotator for ballot in site.ballots()] == ["bob"]
    again.reload()
    expect(again.locator(".answer").first).to_be_visible()
    if not better:
        expect(again.locator("#note")).to_be_hidden()
        return
    again.get_by_role("button", name="Show what you wrote").click()
    expect(again.get_by_role("textbox", name="What you wrote")).to_have_value(better)
    again.get_by_role("button", name="Discard it").click()
    expect(again.locator("dialog[open]")).to_have_count(0)
    again.reload()
    expect(again.locator(".answer").first).to_be_visible()
    expect(again.locator("#note")).to_be_hidden()


def test_a_leftover_vote_with_old_guidelines_comes_back_with_its_item(site: Site, visit: Callable[..., Page]) -> None:
    site.add("one", "two")
    site.up()
    page = visit()
    page.keyboard.press("2")
    site.down()
    page.keyboard.press("Enter")
    expect(page.locator("#note")).to_contain_text("Your vote is kept here")
    context = page.context
    page.close()
    site.store.set_guidelines("new rules")
    site.up()
    again = context.new_page()
    again.goto(site.link("ann"))
    expect(again.locator("#note")).to_contain_text("was not stored. The guidelines have changed")
    expect(again.locator("#said")).to_have_text("B > A")
    again.keyboard.press("Enter")
    assert site.wait_for(1)[0].guidelines == 1


def test_a_vote_that_is_refused_keeps_what_was_written(site: Site, visit: Callable[..., Page]) -> None:
    site.add("one", "two")
    site.add("three", "four")
    site.up()
    page = visit()
    site.queue.vote("ann", Verdict("ranking", "another tab", (0, 1)), assignment_id=site.queue.next("ann").id)
    page.keyboard.press("1")
    page.keyboard.press("e")
    page.keyboard.type("a long answer")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#note")).to_contain_text("already voted on this one, in another tab perhaps.")
    expect(page.locator("#note")).to_contain_text("What you wrote is kept.")
    expect(page.locator("#better")).to_have_value("")
    page.get_by_role("button", name="Show what you wrote").click()
    expect(page.get_by_role("textbox", name="What you wrote")).to_have_value("a long answer")
    page.get_by_role("button", name="Keep it").click()
    page.reload()
    expect(page.get_by_role("button", name="Show what you wrote")).to_be_visible()
    assert len(site.ballots()) == 1


def test_a_vote_under_way_changes_no_more(site: Site, visit: Callable[..., Page]) -> None:
    site.add("one", "two", "three")
    site.up()
    page = visit()
    for key in "123":
        page.keyboard.press(key)
    page.keyboard.press("e")
    page.keyboard.type("mine")
    site.down()
    page.keyboard.press("Control+Enter")
    expect(page.locator("#note")).to_contain_text("Your vote is kept here")
    page.keyboard.type(", and more")
    page.get_by_role("button", name="C: Best").click()
    for name in ("#tie", "#bad", "#flag"):
        page.locator(name).click()
    page.locator("#from button").first.click()
    start, end = (page.locator(name).bounding_box() for name in ("#letter-2", ".slot[data-place='0']"))
    page.mouse.move(start["x"] + 5, start["y"] + 5)
    page.mouse.down()
    page.mouse.move(end["x"] + 20, end["y"] + 10, steps=4)
    page.mouse.up()
    expect(page.locator("dialog[open]")).to_have_count(0)
    expect(page.locator("#said")).to_have_text("A > B > C")
    expect(page.locator("#better")).to_have_value("mine")
    site.up()
    page.get_by_role("button", name="Send now").click()
    found = {ballot.kind: ballot for ballot in site.wait_for(2)}
    assert found["ranking"].ranks == (0, 1, 2)
    assert not found["ranking"].all_bad
    assert found["edit"].value == "mine"


def test_what_is_kept_belongs_to_one_link(site: Site, visit: Callable[..., Page]) -> None:
    """Another annotator or another store at the same address, whose assignments count from 1 too, finds none of it."""
    site.add("one", "two")
    site.store.set_guidelines("the rules")
    site.up()
    page = visit()
    page.keyboard.press("2")
    page.keyboard.press("e")
    page.keyboard.type("mine alone")
    names = json.loads(page.evaluate("JSON.stringify(Object.keys(localStorage))"))
    marks = {name.split("/")[1] for name in names}
    assert len(names) == 2
    assert len(marks) == 1
    assert {name.split("/")[2] for name in names} == {"draft", "guidelines"}
    draft = next(name for name in names if "draft" in name)
    site.tokens["ann"] = site.store.new_token("ann")  # the same assignment under another link
    other = page.context.new_page()
    other.goto(site.link("ann"))
    expect(other.locator(".answer").first).to_be_visible()
    expect(other.locator("#said")).to_have_text("")
    expect(other.locator("#better")).to_have_value("")
    expect(other.locator("#guide-text")).to_be_visible()
    assert "mine alone" in other.evaluate(f"localStorage.getItem('{draft}')")


def test_ci_skips_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no browser starts, these tests skip and say so, and fail under POSTTRAIN_CI=1."""
    stub = tmp_path / "chromium"
    stub.write_text("#!/bin/sh\necho install me first; exit 1\n")
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("chromium")
    assert chromium() is None
    for ci, outcome in (("1", pytest.fail.Exception), ("0", pytest.skip.Exception)):
        monkeypatch.setenv("POSTTRAIN_CI", ci)
        with pytest.raises(outcome, match="needs a browser"):
            go_without("needs a browser")


def test_back_to_correct(site: Site, visit: Callable[..., Page]) -> None:
    site.add("one", "two")
    site.add("three", "four")
    site.up()
    page = visit()
    shown = texts(page)
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    expect(page.locator("#mine")).to_have_text("ann 1")
    current = texts(page)
    page.keyboard.press("u")
    expect(page.locator("#said")).to_have_text("A > B")
    assert texts(page) == shown
    page.keyboard.press("2")
    page.keyboard.press("Enter")
    expect(page.locator("#send-word")).to_have_text("Send")
    assert texts(page) == current
    assert ranked(site, site.wait_for(1)[0])[0] == (shown[1], 0)
    assert len(site.ballots(include_replaced=True)) == 2


def test_flag_and_skip(site: Site, visit: Callable[..., Page]) -> None:
    site.add("one", "two")
    site.add("three", "four")
    site.up()
    page = visit()
    page.keyboard.press("f")
    page.get_by_label("Personal data").check()
    page.get_by_label("In your words").fill("a phone number")
    page.get_by_role("button", name="Flag it").click()
    expect(page.locator("#mine")).to_have_text("ann 1")
    page.keyboard.press("s")
    expect(page.locator("#notice")).to_be_visible()
    flag, skip = site.wait_for(2)
    assert (flag.kind, flag.value) == ("flag", "Personal data: a phone number")
    assert skip.kind == "skip"


@pytest.mark.parametrize("name", ["", "no-such-token"])
def test_a_wrong_link_says_what_to_do(site: Site, visit: Callable[..., Page], name: str) -> None:
    site.add("one", "two")
    site.up()
    page = visit(wait=False, path=f"http://127.0.0.1:{site.port}/#{name}")
    expect(page.locator("#notice")).to_contain_text("ask whoever runs this page")
    expect(page.locator("#dock")).to_be_hidden()


def test_keyboard_alone_for_everything(site: Site, visit: Callable[..., Page]) -> None:
    """With single keys switched off, Tab and Enter reach every control, and the focus can be seen on each."""
    site.add("one", "two", "three")
    site.add("four", "five", "six")
    site.up()
    page = visit()
    page.keyboard.press("?")
    page.get_by_label("Single keys are on").focus()
    page.keyboard.press("Space")
    page.keyboard.press("Escape")
    expect(page.locator("dialog[open]")).to_have_count(0)
    page.keyboard.press("1")
    expect(page.locator("#said")).to_have_text("")

    reached = {}
    for _ in range(60):
        page.keyboard.press("Tab")
        found = page.evaluate(f"({CHECKS}).focused()")
        if found[0] in reached:
            break
        reached[found[0]] = found[1:]
        if found[0] in ("B: Best", "C: 2nd"):
            page.keyboard.press("Enter")
    expect(page.locator("#said")).to_have_text("B > C > A")
    assert {"jump", "help-open", "tie", "bad", "edit", "flag", "skip", "send", "prompt", "A: 3rd"} <= set(reached)
    assert all(visible for name, (visible, is_control) in reached.items() if is_control), reached
    page.locator("#send").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#mine")).to_have_text("ann 1")
    assert site.wait_for(1)[0].ranks is not None


CHECKS = Path(__file__).with_name("page_checks.js").read_text(encoding="utf-8")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_names_and_languages(site: Site, visit: Callable[..., Page], scheme: str) -> None:
    """WCAG 2.2: 4.5:1 for every text, a name for every control; on the page, its dialogs, and the figures."""
    site.add(CODE, "two ![x](https://a.b/c.png)", "[three](https://example.org)")
    site.store.set_guidelines("# Rules\n\nBe `right`.\n\n> ask")
    site.up()
    page = visit(color_scheme=scheme)
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(19, 21, 25)") == (scheme == "dark")
    page.keyboard.press("1")
    page.keyboard.press("2")
    page.keyboard.press("b")
    page.keyboard.press("e")
    page.evaluate("document.activeElement.blur()")

    def check(least: int) -> None:
        assert page.evaluate(f"({CHECKS}).nameless()") == []
        measured = page.evaluate(f"({CHECKS}).contrast()")
        assert measured["found"] == []
        assert measured["checked"] >= least

    check(40)
    for key in "?f":
        page.keyboard.press(key)
        expect(page.locator("dialog[open]")).to_be_visible()
        check(10)
        page.locator("dialog[open] button").first.click()
        expect(page.locator("dialog[open]")).to_have_count(0)
    page.keyboard.press("Backspace")
    page.evaluate("document.activeElement.blur()")
    check(40)
    assert page.locator("html").get_attribute("lang") == "en"
    page.keyboard.press("=")
    page.keyboard.press("Enter")
    site.wait_for(1)
    figures = visit(path=f"http://127.0.0.1:{site.port}/stats#{OWNER}", wait=False, color_scheme=scheme)
    expect(figures.locator("#headline")).to_have_text("0 of 1 item done")
    page = figures
    check(20)


def test_what_a_screen_reader_hears(site: Site, visit: Callable[..., Page]) -> None:
    site.add("one", "two", "three")
    site.up()
    page = visit()
    expect(page.locator("#live")).to_have_text("A new one: 3 answers.")
    page.keyboard.press("2")
    expect(page.locator("#live")).to_have_text("B Best")
    page.keyboard.press("=")
    page.keyboard.press("3")
    expect(page.locator("#live")).to_have_text("B and C Best, tied; A 2nd")
    expect(page.get_by_role("group", name="Answer C, Best, tied")).to_be_visible()
    page.keyboard.press("Backspace")
    page.keyboard.press("Enter")
    expect(page.locator("#live")).to_contain_text("Place at least two answers")
    assert site.ballots() == []


def test_on_a_phone(site: Site, visit: Callable[..., Page]) -> None:
    site.add("x" * 400, "```\n" + "long line " * 60 + "\n```", "three", "four")
    site.add("five", "six")
    site.store.set_guidelines("Be right.")
    site.up()
    page = visit(size=PHONE, has_touch=True, is_mobile=True)
    page.locator("#guide-close").click()
    for _ in range(2):
        widths = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert widths[0] <= widths[1], "the page scrolls sideways"
        boxes = [box.bounding_box() for box in page.locator(".answer").all()]
        assert len({round(box["x"]) for box in boxes}) == 1, "answers stand below each other"
        buttons = [box.bounding_box() for box in page.locator(".dock button:visible, .puts button:visible").all()]
        assert min(box["height"] for box in buttons) >= 40
        assert all(box["x"] >= 0 and box["x"] + box["width"] <= 390.5 for box in buttons)
        num = len(boxes)
        for place in range(num if num > 2 else 1):
            page.locator(f"#answer-{place} .puts button").nth(place).tap()
        page.locator("#send").tap()
        page.wait_for_timeout(300)
    assert [ballot.ranks for ballot in site.wait_for(2) if len(ballot.response_ids) == 4] == [(0, 1, 2, 3)]


def test_motion_is_reduced_on_request(site: Site, visit: Callable[..., Page]) -> None:
    site.add("one", "two")
    site.up()
    moving = "[...document.querySelectorAll('*')].some(e => parseFloat(getComputedStyle(e).transitionDuration) > 0)"
    assert visit(reduced_motion="reduce").evaluate(moving) is False
    assert visit(reduced_motion="no-preference").evaluate(moving) is True


def test_the_token_is_in_no_request_line_and_no_log(site: Site, visit: Callable[..., Page], capfd: Any) -> None:
    site.add("one", "two")
    site.up()
    page = visit()
    sent: list[str] = []
    page.on("request", lambda request: sent.append(f"{request.url.split('#')[0]} {request.headers.get('referer', '')}"))
    page.reload()
    expect(page.locator(".answer").first).to_be_visible()
    assert sent
    token = site.tokens["ann"]
    assert not any(token in line for line in sent)
    assert token not in page.evaluate(
        "JSON.stringify({...localStorage}) + JSON.stringify({...sessionStorage}) + document.cookie"
    )
    said = capfd.readouterr()
    assert token not in said.out + said.err


def test_the_page_of_this_module_is_shipped() -> None:
    import posttrain.feedback.server as server

    assert (Path(server.__file__).parent / "page" / "annotate.html").is_file()
