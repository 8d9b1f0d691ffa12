"""The A/B page in a real browser: the owner's key, hostile names of models, a phone.

Needs a browser (tests/browsing.py).
"""

from tests.browsing import CHROMIUM, FLAGS, playwright

from posttrain.evals.ab import ab_state
from posttrain.serve.ab_page import add_ab_routes
from posttrain.serve.doors import Load, Outcome
from posttrain.serve.keys import read_keys
from posttrain.serve.service import Service
from posttrain.serve.split import FixedSplit

HOSTILE = "<img src=x onerror=alert(1)>"


class Idle:
    def models(self):
        return []

    def load(self):
        return Load()


def figures():
    """A test of eighty users between a model and one with a name that is markup."""
    split = FixedSplit(["old", HOSTILE])
    outcomes = [Outcome(f"u{i}", arm := split.arm(f"u{i}"), float(arm != "old"), "up") for i in range(80)]
    outcomes += [Outcome(f"u{i}", HOSTILE, 1.0, "better", "old") for i in range(9)]
    return ab_state(outcomes, split.arms, window_hours=0) | {"traffic": split.state()}


def test_page(running):
    service = Service(Idle(), keys=read_keys(["owner:owners-key"]))
    found = figures()
    with (
        running(service, lambda app, service: add_ab_routes(app, service, lambda: found)) as address,
        playwright.sync_playwright() as engine,
    ):
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 390, "height": 844})
        wrong = []
        page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(f"{address}/ab")
        page.fill("#key", "not-the-key")
        page.click("text=Show")
        playwright.expect(page.locator("#key-text")).to_have_text("This is not the owner's key.")
        page.fill("#key", "owners-key")
        page.click("text=Show")
        playwright.expect(page.locator("#said")).to_contain_text(f"Stop: {HOSTILE} is better than old")
        assert page.locator("main img").count() == 0
        assert page.locator("#charts svg[role=img]").count() == 1
        assert page.locator("#pairs td").all_text_contents()[1:5] == ["9", "9", "0", "0"]
        page.hover("#charts .plot")
        playwright.expect(page.locator("#charts output")).to_contain_text("always valid")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert wrong == []
        browser.close()
