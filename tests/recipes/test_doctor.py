"""`posttrain doctor` tells a sound model from one that packed training would get wrong."""

from pathlib import Path
from typing import Any

import pytest
import torch

from posttrain.recipes import doctor


def test_a_sound_model_passes(inside: Any, base: Path) -> None:
    done = inside("doctor", base)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "packed rows  ok" in done.stdout
    assert "with fused modules" in done.stdout


def test_a_difference_is_not_ok(inside: Any, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor.token_logps
    monkeypatch.setattr(doctor, "token_logps", lambda model, batch: real(model, batch) + torch.tensor(0.01))
    done = inside("doctor", base)
    assert done.returncode == 1
    assert "packed rows  NOT OK" in done.stdout
