"""Every shipped recipe runs as it is, but for its length. Its name begins with its verb."""

from pathlib import Path
from typing import Any

import pytest
import yaml

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))


@pytest.mark.parametrize("recipe", EXAMPLES, ids=lambda path: path.stem)
def test_a_shipped_recipe_runs(recipe: Path, posttrain: Any, tmp_path: Path) -> None:
    settings = yaml.safe_load(recipe.read_text())
    few = {"max_steps": 2, "max_samples": 80} | ({"eval_steps": 1} if "eval_steps" in settings else {})
    short = tmp_path / recipe.name
    stages = {"stages": [stage | few for stage in settings["stages"]]} if "stages" in settings else few
    short.write_text(yaml.safe_dump(settings | stages | {"output_dir": str(tmp_path / "run")}))
    done = posttrain("run" if "stages" in settings else recipe.stem.split("-")[0], short)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    last = tmp_path / "run" / (settings["stages"][-1]["name"] if "stages" in settings else "")
    assert (last / "report.html").exists()
