"""The allocator is chosen once, before torch, and left alone where somebody else chose."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from posttrain import allocator


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What would have replaced this process."""
    calls: list[Any] = []
    monkeypatch.setattr(os, "execve", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr(allocator, "_keep_memory", lambda: False)
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    monkeypatch.delenv(allocator.MARK, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    return calls


def test_it_starts_itself_again_with_tcmalloc(started: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "find_tcmalloc", lambda: Path("/lib/libtcmalloc.so.4"))
    allocator.tune()
    ((program, arguments, environment),) = started
    assert program == sys.executable
    assert arguments == sys.orig_argv
    assert environment["LD_PRELOAD"] == "/lib/libtcmalloc.so.4"
    assert environment[allocator.MARK] == "tcmalloc"


@pytest.mark.parametrize("setting", [("POSTTRAIN_ALLOCATOR", "system"), ("POSTTRAIN_ALLOCATOR", "tcmalloc")])
def test_it_does_so_once_and_not_when_told_not_to(
    setting: tuple[str, str], started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(allocator, "find_tcmalloc", lambda: Path("/lib/libtcmalloc.so.4"))
    monkeypatch.setenv(*setting)
    allocator.tune()
    assert not started


def test_a_preload_of_the_user_is_respected(started: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "find_tcmalloc", lambda: Path("/lib/libtcmalloc.so.4"))
    monkeypatch.setenv("LD_PRELOAD", "/opt/libjemalloc.so.2")
    assert allocator.tune() == "preloaded"
    assert not started


def test_without_tcmalloc_nothing_is_started(started: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "find_tcmalloc", lambda: None)
    assert allocator.tune() == "system"
    assert not started
