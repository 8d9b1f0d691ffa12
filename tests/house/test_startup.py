"""Asking for help must not wait for torch: what start-up imports is part of the contract."""

import json
import subprocess
import sys

import pytest

HEAVY = {"torch", "transformers", "tokenizers", "peft", "datasets", "numpy", "pandas", "matplotlib", "jinja2", "tyro"}


def loaded_by(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter holds after running `code`."""
    program = f"{code}\nimport json, sys\nprint()\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


@pytest.mark.parametrize(
    "code",
    [
        "import posttrain",
        "from posttrain.cli import main; main(['--help'])",
        "from posttrain.cli import main; main(['pocket', '--help'])",
        *(f"from posttrain.cli import main; main(['{verb}', '--help'])" for verb in ("sft", "chat", "quickstart")),
        "from posttrain.cli import main; main(['sft', '--no-such-flag'])",
        "from posttrain.cli import main; main(['sft', 'missing.yaml'])",
    ],
)
def test_no_heavy_import(code: str) -> None:
    assert not loaded_by(code) & HEAVY


def test_overview_needs_no_pydantic() -> None:
    assert not loaded_by("from posttrain.cli import main; main(['--help'])") & {"pydantic", "yaml"}
