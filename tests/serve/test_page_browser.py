"""The chat page in a real browser: asking, stopping, voting, faults of the server, hostile texts, access.

Needs a browser (tests/browsing.py).
"""

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from tests.browsing import CHROMIUM, FLAGS, LAPTOP, PHONE, expect, playwright

from posttrain.feedback.served import ServedStore
from posttrain.feedback.store import Store
from posttrain.serve.doors import Outcome, UnknownExchange
from posttrain.serve.page_routes import add_page_routes
from posttrain.serve.service import Service

Page = Any

CHECKS = (Path(__file__).parents[1] / "feedback" / "page_checks.js").read_text(encoding="utf-8")
HOSTILE = (
    "<script>window.hacked = 1</script> <img src=x onerror='window.hacked = 1'> [a](javascript:window.hacked=1) "
    "[b](data:text/html,x) ![c](http://127.0.0.1:1/x.png) <a href='https://e.example' onclick='window.hacked=1'>d</a> "
    "**e<svg onload=window.hacked=1>** `<b>f</b>`\n\n```html\n<script>window.hacked = 1</script>\n```\n\n"
    "| <i>g</i> | h |\n|-|-|\n| <iframe src=/> | x |\n\n# <style>*{display:none}</style> [i](  vbscript:x )"
)
RICH = (
    "## Two *days*\n\nSome **bold** and `code`, see [the page](https://example.org/a?b=1) or https://example.org/c.\n\n"
    "1. one\n2. two\n   - inner\n\n> said\n\n| a | b |\n|---|--:|\n| 1 | 2 |\n\n```python\nx = 1 < 2\n```\n\n---\n"
    "snake_case_name and 2 * 3 * 4, 5 \\* 6"
)


class Scripted:
    """A server that speaks the protocol and says what the last message asks for: what is not in SAID is said back."""

    SAID: ClassVar[dict[str, str]] = {"hostile": HOSTILE, "rich": RICH}

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.votes: list[dict[str, Any]] = []
        self.key = ""
        self.faults: list[int] = []
        self.vote_faults: list[int] = []
        self.hold = threading.Event()
        self.hold.set()
        self.left = threading.Event()
        self.app = FastAPI()
        add_page_routes(self.app, SimpleNamespace(keeper=self, default_model="second"))
        for path, answer in (("/v1/chat/completions", self.chat), ("/v1/feedback", self.feedback)):
            self.app.post(path)(answer)
        self.app.get("/v1/models")(self.models)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}/"

    def up(self) -> None:
        self.server = uvicorn.Server(
            uvicorn.Config(
                self.app, host="127.0.0.1", port=self.port, log_level="critical", timeout_graceful_shutdown=1
            )
        )
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.005)

    def down(self) -> None:
        self.server.should_exit = True
        self.hold.set()
        self.thread.join()

    def _fault(self, request: Request, faults: list[int]) -> JSONResponse | None:
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return JSONResponse({"error": {"message": "wrong key"}}, 401)
        if faults:
            return JSONResponse({"error": {"message": "not <b>now</b>"}}, faults.pop(0), {"Retry-After": "1"})
        return None

    async def models(self, request: Request) -> Any:
        return self._fault(request, []) or {"data": [{"id": "first"}, {"id": "second"}]}

    async def feedback(self, request: Request) -> Any:
        if fault := self._fault(request, self.vote_faults):
            return fault
        self.votes.append(await request.json())
        return {"kept": True}

    async def chat(self, request: Request) -> Any:
        if fault := self._fault(request, self.faults):
            return fault
        self.asked.append(await request.json())
        return StreamingResponse(self._events(self.asked[-1], len(self.asked)), media_type="text/event-stream")

    async def _events(self, body: dict[str, Any], number: int) -> AsyncIterator[str]:
        said = body["messages"][-1]["content"]
        texts = [self.SAID.get(said, f"{said} {number}.{place}") for place in range(body.get("n", 1))]
        try:
            for place, text in enumerate(texts):
                half = len(text) // 2
                yield self._event(number, place, {"role": "assistant", "content": text[:half]})
                while not self.hold.is_set():
                    await asyncio.sleep(0.01)
                if said == "break off":
                    return
                yield self._event(number, place, {"content": text[half:]})
                yield self._event(number, place, {}, "length" if said == "long" else "stop")
            yield "data: [DONE]\r\n\r\n"
        except asyncio.CancelledError:
            self.left.set()
            raise

    def _event(self, number: int, place: int, delta: dict[str, Any], finish: str | None = None) -> str:
        choice = {"index": place, "delta": delta, "finish_reason": finish}
        return f"data: {json.dumps({'id': f'c{number}', 'choices': [choice]}, ensure_ascii=False)}\r\n\r\n"

    def wait_for(self, num: int) -> list[dict[str, Any]]:
        """The votes, once there are so many."""
        deadline = time.monotonic() + 15
        while len(self.votes) < num and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(self.votes) == num
        return self.votes


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def server() -> Iterator[Scripted]:
    made = Scripted()
    made.up()
    yield made
    made.down()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Page]]:
    """`visit(address)`: a page in a browser of its own, watched: no script fails, no policy is broken, and nothing is
    asked of another server."""
    contexts, faults = [], []

    def open_page(address: str, *, size: dict[str, int] = LAPTOP, **more: Any) -> Page:
        context = browser.new_context(viewport=size, **{"reduced_motion": "reduce", **more})
        context.set_default_timeout(15_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(f"script: {error}"))
        page.on("dialog", lambda dialog: (faults.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("console", lambda said: faults.append(said.text) if "Content Security" in said.text else None)
        page.on("request", lambda sent: faults.append(sent.url) if not sent.url.startswith(address) else None)
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not faults


def ask(page: Page, text: str, *, whole: bool = True) -> None:
    page.locator("#say").fill(text)
    expect(page.locator("#send")).to_be_enabled()
    page.keyboard.press("Enter")
    if whole:
        expect(page.locator("#send")).to_be_visible()
        expect(page.locator(".turn.user").last).to_contain_text(text)
        expect(page.locator("#stop")).to_be_hidden()


def press(page: Page, label: str) -> None:
    page.locator(".turn.assistant").last.get_by_role("button", name=label, exact=True).click()


def answers(page: Page) -> list[str]:
    return [text.strip() for text in page.locator(".turn.assistant .text").all_inner_texts()]


def test_ask_and_go_on(server: Scripted, visit: Callable[..., Page]) -> None:
    page = visit(server.address)
    expect(page.locator("#model")).to_have_value("second")
    page.locator("#open-settings").click()
    page.locator("#system").fill("Be brief.")
    page.locator("#temperature").fill("0.3")
    page.locator("#max-tokens").fill("50")
    page.keyboard.press("Escape")
    page.locator("#model").select_option("first")
    ask(page, "hello")
    ask(page, "again")
    assert answers(page) == ["hello 1.0", "again 2.0"]
    first, second = server.asked
    user = first.pop("user")
    assert user.startswith("page-")
    assert first == {
        "model": "first",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}],
        "temperature": 0.3,
        "max_tokens": 50,
        "stream": True,
    }
    assert [one["role"] for one in second["messages"]] == ["system", "user", "assistant", "user"]
    assert second["user"] == user
    page.reload()
    expect(page.locator(".turn")).to_have_count(4)
    assert answers(page) == ["hello 1.0", "again 2.0"]
    page.locator("#new").click()
    page.locator("#sure-yes").click()
    expect(page.locator(".turn")).to_have_count(0)
    page.reload()
    expect(page.locator("#welcome")).to_be_visible()


def test_nothing_is_kept_unless_one_agrees(server: Scripted, visit: Callable[..., Page]) -> None:
    page = visit(server.address)
    expect(page.locator("#consent")).not_to_be_checked()
    expect(page.locator("#consent-why")).to_contain_text("Nothing you write is kept")
    ask(page, "one")
    press(page, "Put this answer right")
    expect(page.locator(".editor")).to_contain_text("not kept")
    page.locator(".editor textarea").fill("mine")
    page.get_by_role("button", name="Save").click()
    page.locator("#consent-label").click()
    expect(page.locator("#consent-why")).to_contain_text("blotted out")
    ask(page, "two")
    assert ["store" in one for one in server.asked] == [False, True]
    assert server.asked[1]["messages"][1]["content"] == "mine"
    press(page, "Put this answer right")
    page.locator(".editor textarea").fill("better")
    page.keyboard.press("Control+Enter")
    (vote,) = server.wait_for(1)
    assert {name: vote[name] for name in ("kind", "completion_id", "answer", "text")} == {
        "kind": "edit",
        "completion_id": "c2",
        "answer": 0,
        "text": "better",
    }


def test_votes_are_sent_once_and_survive_a_dead_server(server: Scripted, visit: Callable[..., Page]) -> None:
    page = visit(server.address)
    ask(page, "one")
    server.vote_faults = [503]
    press(page, "A good answer")
    press(page, "A good answer")
    expect(page.get_by_role("button", name="A good answer")).to_have_attribute("aria-pressed", "true")
    assert server.wait_for(1)[0]["kind"] == "up"
    server.down()
    press(page, "A bad answer")
    expect(page.get_by_role("button", name="A bad answer")).to_have_attribute("aria-pressed", "true")
    page.wait_for_timeout(200)  # the first try fails
    server.up()
    up, down = server.wait_for(2)
    assert (down["kind"], down["completion_id"]) == ("down", "c1")
    assert up["key"] != down["key"]
    assert up["user"] == down["user"] == server.asked[0]["user"]


def test_a_vote_that_the_server_refuses_is_taken_back(server: Scripted, visit: Callable[..., Page]) -> None:
    page = visit(server.address)
    ask(page, "one")
    server.vote_faults = [404]
    press(page, "A good answer")
    expect(page.locator("#note")).to_contain_text("does not know this answer")
    expect(page.get_by_role("button", name="A good answer")).to_have_attribute("aria-pressed", "false")


def test_pick_the_better_of_two(server: Scripted, visit: Callable[..., Page]) -> None:
    page = visit(server.address)
    page.locator("#compare-label").click()
    ask(page, "which")
    assert (server.asked[0]["n"], server.asked[0]["metadata"]) == (2, {"compare": "true"})
    assert answers(page) == ["which 1.0", "which 1.1"]
    assert "first" not in page.locator(".cards").inner_text()
    page.locator("#say").fill("next")
    expect(page.locator("#send")).to_be_disabled()
    page.locator("#say").fill("")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("2")
    (vote,) = server.wait_for(1)
    assert (vote["kind"], vote["completion_id"], vote["answer"], vote["over"]) == ("better", "c1", 1, [["c1", 0]])
    assert answers(page) == ["which 1.1"]
    page.locator("#compare-label").click()
    ask(page, "next")
    assert server.asked[1]["messages"][1]["content"] == "which 1.1"


def test_ask_for_another_answer_and_compare(server: Scripted, visit: Callable[..., Page]) -> None:
    page = visit(server.address)
    ask(page, "one")
    press(page, "Ask for another answer")
    expect(page.locator(".pager")).to_contain_text("2 / 2")
    assert answers(page) == ["one 2.0"]
    assert server.asked[1]["metadata"] == {"replaces": "c1"}
    assert server.asked[1]["messages"] == server.asked[0]["messages"]
    page.get_by_role("button", name="Worse").click()
    again, better = server.wait_for(2)
    assert (again["kind"], again["completion_id"]) == ("regenerated", "c1")
    assert (better["kind"], better["completion_id"], better["over"]) == ("better", "c1", [["c2", 0]])
    assert answers(page) == ["one 1.0"]
    press(page, "The answer after")
    assert answers(page) == ["one 2.0"]


def test_change_a_message_and_ask_anew(server: Scripted, visit: Callable[..., Page]) -> None:
    page = visit(server.address)
    ask(page, "one")
    ask(page, "two")
    page.locator(".turn.user").first.hover()
    page.locator(".turn.user").first.get_by_role("button", name="Change this message").click()
    page.locator(".editor textarea").fill("uno")
    page.keyboard.press("Enter")
    expect(page.locator(".turn.assistant .text")).to_have_text("uno 3.0")
    assert server.asked[2]["messages"] == [{"role": "user", "content": "uno"}]
    page.locator("#say").focus()
    page.keyboard.press("ArrowUp")
    expect(page.locator(".editor textarea")).to_have_value("uno")
    page.keyboard.press("Escape")
    expect(page.locator(".turn.user")).to_have_text("uno")


def test_stop(server: Scripted, visit: Callable[..., Page]) -> None:
    page = visit(server.address)
    server.hold.clear()
    ask(page, "a long tale", whole=False)
    expect(page.locator(".turn.assistant .text")).to_contain_text("a lon")
    page.keyboard.press("Escape")
    expect(page.locator(".turn.assistant")).to_contain_text("You stopped the answer here.")
    assert server.left.wait(10), "the server hears of it"
    server.hold.set()
    ask(page, "long")
    expect(page.locator(".turn.assistant").last).to_contain_text("cut at the most tokens")


def test_faults_are_told_kindly_and_tried_again(server: Scripted, visit: Callable[..., Page]) -> None:
    page = visit(server.address)
    expect(page.locator("#model")).to_be_enabled()
    server.faults = [429, 500, 400]
    told = ["hands full. Try again in 1 s", "could not answer just now", "not <b>now</b>"]
    page.locator("#say").fill("one")
    page.keyboard.press("Enter")
    for words in told:
        expect(page.locator(".failed")).to_contain_text(words)
        page.get_by_role("button", name="Try again").click()
    expect(page.locator(".turn.assistant .text")).to_have_text("one 1.0")
    ask(page, "break off")
    expect(page.locator(".failed")).to_contain_text("broke off")
    server.down()
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".failed")).to_contain_text("does not answer")
    server.up()
    ask(page, "three")
    assert answers(page)[-1] == "three 3.0"


def test_a_key_is_asked_for_and_kept_for_this_tab(server: Scripted, visit: Callable[..., Page]) -> None:
    server.key = "right-key"
    page = visit(server.address)
    expect(page.locator("#note")).to_contain_text("asks for an API key")
    page.locator("#note-button").click()
    expect(page.locator("#api-key")).to_be_focused()
    page.locator("#api-key").fill("right-key")
    page.keyboard.press("Escape")
    expect(page.locator("#note")).to_be_hidden()
    ask(page, "one")
    assert answers(page) == ["one 1.0"]
    assert page.evaluate("JSON.stringify(localStorage).includes('right-key')") is False
    assert page.evaluate("sessionStorage.getItem('posttrain/api-key')") == "right-key"


def test_hostile_texts_stay_text(server: Scripted, visit: Callable[..., Page]) -> None:
    page = visit(server.address)
    ask(page, "hostile")
    ask(page, HOSTILE)
    page.reload()
    expect(page.locator(".turn")).to_have_count(4)
    assert page.evaluate("window.hacked") is None
    inside = page.locator("#turns")
    assert inside.locator("script, img, iframe, style, object, .text svg, .bubble *, .text i, .text b").count() == 0
    # A picture is a link that one may follow, and is not loaded; nothing else leads anywhere.
    links = set(page.evaluate("[...document.querySelectorAll('#turns a')].map((a) => a.href)"))
    assert links == {"http://127.0.0.1:1/x.png", "https://e.example/"}
    names = page.evaluate("[...document.querySelectorAll('.text *')].flatMap((e) => e.getAttributeNames())")
    assert set(names) <= {"class", "tabindex", "type", "aria-label", "href", "target", "rel"}
    text = page.locator(".turn.assistant .text").first.inner_text()
    for part in ("<script>window.hacked = 1</script>", "<img src=x", "javascript:window.hacked=1", "<iframe src=/>"):
        assert part in text
    assert page.locator(".bubble").last.inner_text() == HOSTILE
    ask(page, "<img src=x onerror=window.hacked=1>")
    assert page.evaluate("window.hacked") is None


def test_markdown_becomes_nodes(server: Scripted, visit: Callable[..., Page]) -> None:
    page = visit(server.address)
    ask(page, "rich")
    text = page.locator(".turn.assistant .text")
    for chosen, inside in {
        "h3 em": "days",
        "p strong": "bold",
        "p code": "code",
        "ol > li >> nth=0": "one",
        "ol li ul li": "inner",
        "blockquote p": "said",
        "td.right": "2",
        "pre code": "x = 1 < 2",
        "p >> nth=-1": "snake_case_name and 2 * 3 * 4, 5 * 6",
    }.items():
        expect(text.locator(chosen)).to_have_text(inside)
    links = page.evaluate("[...document.querySelectorAll('.text a')].map((a) => [a.href, a.rel, a.target])")
    assert links == [[f"https://example.org/{end}", "noopener noreferrer nofollow", "_blank"] for end in ("a?b=1", "c")]
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    text.get_by_role("button", name="Copy the code").click()
    expect(text.locator(".copy-code")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == "x = 1 < 2"


def test_headings_fences_tables_and_links_of_all_shapes(server: Scripted, visit: Callable[..., Page]) -> None:
    page = visit(server.address)
    texts = ["# a ##  ", "## a#", "#b", "###", "# #", "a|b\n-|x", "a|b\n-||", "a | b | c\n:-|-:|-\n1|\n1|2|3|4"]
    texts += ["~~~ js\nx\n~~~", "[a](https://e.example 'b')", "see https://e.example/a).,", "- a\n  b\n- c"]
    found = page.evaluate(
        """async (texts) => {
          const { rendered } = await import("/page/chat_markdown.js");
          return texts.map((text) => {
            const holder = document.createElement("div");
            holder.append(rendered(text));
            return holder.innerHTML;
          });
        }""",
        texts,
    )
    assert found[:7] == ["<h2>a</h2>", "<h3>a#</h3>", "<p>#b</p>", "<h4></h4>", "<h2></h2>", *found[5:7]]
    assert found[5:7] == ["<p>a|b<br>-|x</p>", "<p>a|b<br>-||</p>"]
    head = '<th>a</th><th class="right">b</th><th>c</th>'
    rows = (
        '<tr><td>1</td><td class="right"></td><td></td></tr>',
        '<tr><td>1</td><td class="right">2</td><td>3</td></tr>',
    )
    assert head in found[7].replace(' class="middle"', "")
    assert rows[1] in found[7]
    assert '<tr><td>1</td><td colspan="2"></td></tr>' in found[7]
    assert "<code>x</code>" in found[8]
    assert found[9].startswith('<p><a href="https://e.example/"')
    assert found[10].endswith(">https://e.example/a</a>).,</p>")
    assert found[11] == "<ul><li>a<br>b</li><li>c</li></ul>"


def test_what_stands_in_the_browser_in_place_of_a_chat_is_no_matter(
    server: Scripted, visit: Callable[..., Page]
) -> None:
    page = visit(server.address)
    for junk in ("5", "null", '[{"role": "assistant", "versions": [], "shown": 0}]', '[{"role": "user", "text": {}}]'):
        page.evaluate(
            "(junk) => ['turns', 'settings'].map((n) => localStorage.setItem(`posttrain/chat/${n}`, junk))", junk
        )
        page.reload()
        expect(page.locator("#model")).to_be_enabled()
    ask(page, "one")
    assert answers(page) == ["one 1.0"]


def test_an_answer_that_did_not_come_is_not_compared(server: Scripted, visit: Callable[..., Page]) -> None:
    page = visit(server.address)
    ask(page, "one")
    server.faults = [500]
    press(page, "Ask for another answer")
    expect(page.locator(".failed")).to_be_visible()
    expect(page.locator(".than")).to_have_count(0)


def test_no_text_takes_the_renderer_long(server: Scripted, visit: Callable[..., Page]) -> None:
    page = visit(server.address)
    took = page.evaluate(
        """async () => {
          const { rendered } = await import("/page/chat_markdown.js");
          const parts = ["*", "**a", "_a ", "`", "``a", "[", "[a](", "![", "> ", "- ", "  - a\\n", "|", "|-|\\n",
            "~~", "h", "https://", "\\\\", "#", "```\\n", "1. ", "a|b\\n-|-\\n", "(", "**a** ",
            "*a _b ", "[a](https://e.example) "];
          for (const part of parts) {
            const begun = performance.now();
            rendered(part.repeat(20000 / part.length));
            if (performance.now() - begun > 1500) return [performance.now() - begun, part];
          }
          // Where a pattern went back and tried again, and where few letters asked for many nodes.
          const many = (part, count = 100000) => part.repeat(count / part.length);
          const texts = ["# a" + many(" ") + "b", "# " + many(" ", 3000) + "\\u2028x", "```" + many(" ") + "`",
            many("~") + "`", "a|b\\n-" + many(" ") + "x", "- " + many(" ") + "\\u2028x", many("`", 400000),
            many("a|", 7000) + "\\n" + many("-|", 7000) + "\\n" + many("|\\n", 7000), "https://a" + many(".") + "a",
            many("https://%/"), many("[", 400000) + "](x)", "- a\\n" + many("  b\\n", 600000)];
          for (const text of texts) {
            const begun = performance.now();
            rendered(text);
            if (performance.now() - begun > 1500) return [performance.now() - begun, text.slice(0, 9)];
          }
          return [0, ""];
        }"""
    )
    assert took == [0, ""]


@pytest.mark.parametrize(("scheme", "size"), [("light", LAPTOP), ("dark", PHONE)])
def test_contrast_names_and_width(
    server: Scripted, visit: Callable[..., Page], scheme: str, size: dict[str, int]
) -> None:
    """WCAG 2.2: 4.5:1 for every text, a name for every control; nothing wider than the screen."""
    page = visit(server.address, color_scheme=scheme, size=size)

    def check(least: int) -> None:
        page.evaluate("document.activeElement.blur()")
        assert page.evaluate(f"({CHECKS}).nameless()") == []
        measured = page.evaluate(f"({CHECKS}).contrast()")
        assert measured["found"] == []
        assert measured["checked"] >= least
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")

    expect(page.locator("#model")).to_be_enabled()
    ask(page, "rich")
    press(page, "A good answer")
    page.locator("#compare-label").click()
    page.locator("#consent-label").click()
    ask(page, "w" * 500)
    check(25)
    page.locator("#open-settings").click()
    check(20)


def test_the_whole_way_into_the_store(
    scripted_engine: Callable[..., Any], running: Callable[..., Any], visit: Callable[..., Page], tmp_path: Path
) -> None:
    """The page, the real server, the store: what was agreed to is there, redacted; what was not is nowhere."""
    with Store.open(tmp_path / "f.db") as store:
        keeper = ServedStore(store, outcome=Outcome, unknown=UnknownExchange)
        with running(Service(scripted_engine(), keeper=keeper), add_page_routes) as address:
            page = visit(f"{address}/")
            ask(page, "UNKEPT words")
            press(page, "A good answer")
            page.locator("#consent-label").click()
            ask(page, "I am a@b.org")
            press(page, "A bad answer")
            press(page, "Put this answer right")
            page.locator(".editor textarea").fill("Good day")
            page.keyboard.press("Control+Enter")
            deadline = time.monotonic() + 10
            while len(store.ballots()) < 2 and time.monotonic() < deadline:
                time.sleep(0.02)
        found = [(ballot.kind, ballot.value) for ballot in store.ballots()]
        assert found == [("label", "bad"), ("edit", "Good day")]
        (prompt,) = store.prompts()
        # What one agrees to is told as "this conversation": its earlier turns are part of the prompt.
        assert prompt.messages[-1].content == "I am [EMAIL]"
        assert store.responses()[0].messages[0].content == "Hello you"
