"""Every shipped recipe runs as it is, but for its length. Its name begins with its verb."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from posttrain.feedback.served import ServedStore
from posttrain.feedback.store import Store
from posttrain.recipes.promote import promote
from posttrain.serve.doors import Exchange, Outcome, Vote
from posttrain.types import Message

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))
ALONE = ("sft", "grpo")
"""As a user starts them, in a process of their own; the others in this one, since torch takes seconds to load."""

REPORTS = {"eval": "eval.json", "promote": "promoted.json"}
BRIEF: dict[str, dict[str, Any]] = {
    "sample": {"max_samples": 8, "num_samples": 4, "max_new_tokens": 24, "keep": "all"},
    "instruct": {"num_instructions": 3, "batch_size": 2, "max_new_tokens": 96},
    "compare": {"max_samples": 4, "num_samples": 1, "max_new_tokens": 24},
    "judge": {"max_samples": 8, "num_null_prompts": 1},
    "redteam": {"limit": 1, "attacks": ["prefix", "crescendo"], "canaries": 1, "max_new_tokens": 8},
    # A model that was trained for so few steps passes no gate but one that every model does.
    "eval": {
        "suite": "pocket",
        "task": "pocket",
        "limit": 1,
        "gates": ["pocket.facts >= 0", "pocket.facts <= base + 1"],
    },
}


def first_of(entries: Any, num: int) -> list[dict[str, Any]]:
    """The same data, but a few samples of each entry."""
    each = entries if isinstance(entries, list) else [entries]
    return [({"path": entry} if isinstance(entry, str) else entry) | {"max_samples": num} for entry in each]


def few(verb: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What makes a stage short."""
    if "rounds" in settings:
        return {"rounds": 2, "stages": [stage | few(stage["verb"], stage) for stage in settings["stages"]]}
    if verb in BRIEF:
        return BRIEF[verb]
    if verb == "promote":
        return {}
    if verb == "constitution":
        # A model that was trained for so few steps revises nothing for the better.
        given = {"unchecked": True, "reward": []} if settings["phase"] == "supervised" else {}
        return {"max_samples": 8, "num_rounds": 1, "max_new_tokens": 24} | given
    if verb == "toolformer":
        # Nor does it propose calls that help: what can be run is kept.
        tools = [
            tool | {"tau_s": 0.0, "top_k": 4, "num_calls": 4, "tau_f": -100.0} for tool in settings.get("tools", [])
        ]
        if "check" in settings:
            return {"max_rise": 1000.0, "dataset": first_of(settings["dataset"], 24)}
        return {"max_samples": 24, "tools": tools}
    return few_steps(verb, settings)


def served(folder: Path) -> None:
    """What a turn of the flywheel begins with: a live model, and votes on its answers."""
    version = promote("pocket", folder / "live")["version"]
    with Store.open(folder / "served.db") as store:
        keeper = ServedStore(store, outcome=Outcome)
        for number in range(4):
            asked = (Message("user", f"What is the capital of country {number}?"),)
            answers = tuple(Message("assistant", text) for text in ("It is a city. Thank you.", "Do not bother."))
            keeper.keep(Exchange(f"e{number}", "u", asked, answers, "live", may_keep=True,
                                 parameters={"served_from": [version] * 2}))  # fmt: skip
            keeper.vote(Vote(f"key-{number}", "u", "better", f"e{number}", 0, over=((f"e{number}", 1),)))


def few_steps(verb: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What makes a stage of training short."""
    first = settings["dataset"][0] if isinstance(settings["dataset"], list) else None
    name = first.get("name") if isinstance(first, dict) else None
    if name == "manners":
        # Its answers are to come to an end, or the stages after it would have nothing to work on: many small steps.
        return {"max_steps": 24, "max_length": 256, "learning_rate": 3e-3}
    if name == "tool_calls":  # it is to close a call now and then
        return {"max_steps": 30, "max_length": 128, "learning_rate": 3e-3}
    short = {"max_steps": 2, "max_samples": 80} | ({"eval_steps": 1} if "eval_steps" in settings else {})
    if name == "number_echoes":  # as many are made as are asked for
        short |= {"dataset": first_of(settings["dataset"], 80)}
    if "eval_dataset" in settings:
        short |= {"eval_dataset": first_of(settings["eval_dataset"], 40)}
    if verb in ("grpo", "ppo"):
        short |= {"num_prompts": 4, "max_completion_length": 24, "max_eval_samples": 4, "allow_truncated": True}
        # A model that was trained for two steps earns nothing by rules: every answer would be as good as any other.
        short |= {"reward": ["length:5-15"], "num_mini_batches": 1}
    return short


@pytest.mark.parametrize("recipe", EXAMPLES, ids=lambda path: path.stem)
def test_a_shipped_recipe_runs(recipe: Path, posttrain: Any, inside: Any, tmp_path: Path) -> None:
    settings = yaml.safe_load(recipe.read_text().replace("runs/live", f"{tmp_path}/live"))
    short = tmp_path / recipe.name
    verb = recipe.stem.split("-")[0]
    if "stages" in settings:
        if recipe.stem == "gates":  # its second half is the first with other models; the whole of it is read elsewhere
            settings["stages"] = settings["stages"][:2]
        if recipe.stem == "flywheel":
            served(tmp_path)
            settings["stages"][0]["dataset"] = f"store:{tmp_path}/served.db?source=serving&model={{start}}"
            settings["stages"][1]["gates"] = "win_rate >= 0"
        settings["stages"] = [stage | few(stage.get("verb", ""), stage) for stage in settings["stages"]]
    else:
        settings |= few(verb, settings)
    short.write_text(yaml.safe_dump(settings | {"output_dir": str(tmp_path / "run")}))
    command = posttrain if recipe.stem in ALONE else inside
    done = command("run" if "stages" in settings else verb, short)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    last = settings["stages"][-1] if "stages" in settings else {"name": ""}
    place = f"{last['name']}/1/{last['stages'][-1]['name']}" if "rounds" in last else last["name"]
    report = "check.json" if "check" in last else REPORTS.get(last.get("verb", ""), "report.html")
    assert (tmp_path / "run" / place / report).exists()
