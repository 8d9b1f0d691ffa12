"""A real browser for the tests of pages: Playwright for Python with a Chromium on the path.

Importing this skips the test file, saying why, where one of the two is missing, or fails it where POSTTRAIN_CI=1 says
that nothing may be skipped.
"""

import os
import shutil
import subprocess

import pytest


def go_without(reason: str) -> None:
    """These tests cannot run here."""
    if os.environ.get("POSTTRAIN_CI") == "1":
        pytest.fail(f"{reason}, and POSTTRAIN_CI=1 lets nothing be skipped", pytrace=False)
    pytest.skip(reason, allow_module_level=True)


def chromium() -> str | None:
    """A browser that starts: some systems have one on the path that only says how to install it."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        found = shutil.which(name)
        if found and subprocess.run([found, "--version"], capture_output=True, check=False).returncode == 0:
            return found
    return None


try:
    import playwright.sync_api as playwright
except ModuleNotFoundError:
    go_without("needs Playwright (pip install playwright)")
CHROMIUM = chromium()
if CHROMIUM is None:
    go_without("needs a Chromium that starts on the path (apt-get install chromium)")
expect = playwright.expect

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"]
LAPTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
