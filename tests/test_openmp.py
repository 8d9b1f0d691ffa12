"""Waiting threads are told to sleep before torch is there, and nobody's own choice is changed."""

import os
import sys

import pytest

from posttrain import openmp


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has not loaded torch; what is set is undone."""
    monkeypatch.setattr(sys, "modules", {name: module for name, module in sys.modules.items() if name != "torch"})
    for name in openmp.CHOSEN:
        monkeypatch.setenv(name, "")  # so that it is put back, whatever it was
        monkeypatch.delenv(name)


def test_it_is_set_before_torch_is_loaded() -> None:
    openmp.tune()
    assert os.environ["GOMP_SPINCOUNT"] == openmp.SPINS


@pytest.mark.parametrize("name", openmp.CHOSEN)
def test_a_choice_is_respected(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "7")
    openmp.tune()
    assert {key: os.environ[key] for key in openmp.CHOSEN if key in os.environ} == {name: "7"}


def test_afterwards_is_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", sys)
    openmp.tune()
    assert "GOMP_SPINCOUNT" not in os.environ
