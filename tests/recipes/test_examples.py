"""Every shipped recipe runs as it is, but for its length."""

from pathlib import Path
from typing import Any

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))


@pytest.mark.parametrize("recipe", EXAMPLES, ids=lambda path: path.stem)
def test_a_shipped_recipe_runs(recipe: Path, posttrain: Any, tmp_path: Path) -> None:
    few = ["--max-steps", "2", "--max-samples", "80", "--output-dir", str(tmp_path / "run")]
    few += ["--eval-steps", "1"] if "eval_steps" in recipe.read_text() else []
    done = posttrain("sft", recipe, *few)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert (tmp_path / "run" / "report.html").exists()
