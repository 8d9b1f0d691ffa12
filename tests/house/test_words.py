"""No file of the project carries the path of a machine that it was written on."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Put together from pieces, so that this file does not match itself.
PLACES = ("work", "root", r"home/\w+", r"Users/\w+")
MACHINE_PATH = re.compile(rf"(?<![\w.~:/-])/(?:{'|'.join(PLACES)})(?:/|\b)|[A-Z]:\\Users\\")
TEXT_BUT_NOT_OURS = {"LICENSE"}


def project_files() -> list[Path]:
    """What git tracks, or would if it were added; empty outside a checkout."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    names = listed.stdout.decode().split("\0") if listed.returncode == 0 else []
    return [ROOT / name for name in names if name and name not in TEXT_BUT_NOT_OURS and (ROOT / name).is_file()]


def test_no_machine_paths() -> None:
    found = []
    for path in project_files():
        content = path.read_bytes()
        if b"\0" in content[:8192]:
            continue
        for line, text in enumerate(content.decode("utf-8", errors="replace").splitlines(), 1):
            found += [f"{path.relative_to(ROOT)}:{line}: {match.group()}" for match in MACHINE_PATH.finditer(text)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", ["/" + "work/x", " /" + "root", "(/" + "home/ann/data)", '"/' + 'Users/ann"'])
def test_paths_are_seen(path: str) -> None:
    assert MACHINE_PATH.search(path)


@pytest.mark.parametrize("text", ["and/or", "a network/root", "https://example.org/work/", "../work/", "~/work"])
def test_other_text_is_not(text: str) -> None:
    assert not MACHINE_PATH.search(text)
