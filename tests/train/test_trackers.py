"""Trackers get every line; a missing package is named with its mend."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from posttrain.errors import ConfigError
from posttrain.train.trackers import start_trackers


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb"])
def test_a_missing_package_is_named(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=f"pip install {name}"):
        start_trackers([name], tmp_path, {})


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_lines_reach_the_tracker(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[Any] = []
    fake = SimpleNamespace(
        init=lambda **options: seen.append(options), log=lambda line, step: seen.append((step, line))
    )
    monkeypatch.setitem(sys.modules, name, fake)
    (tracker,) = start_trackers([name], tmp_path, {"seed": 1})
    tracker.write({"step": 3, "loss": 0.5})
    assert seen[0]["project"] == "posttrain"
    assert seen[0]["config"] == {"seed": 1}
    assert seen[1] == (3, {"loss": 0.5})
