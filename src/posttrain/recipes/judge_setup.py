"""From the keys of a verb to a judge, the same one wherever the keys are the same."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from posttrain.errors import ConfigError
from posttrain.feedback.judge import Judge
from posttrain.feedback.judge_records import Criterion
from posttrain.feedback.judge_wordings import load_wording
from posttrain.recipes.judge_config import JudgingKeys
from posttrain.recipes.text_model import cost_of, text_model
from posttrain.rollouts.asking import TextModel
from posttrain.synthesis.constitution_file import SHIPPED, read_constitution

FILES = (".yaml", ".yml", ".json")


def judge_of(
    config: JudgingKeys, say: Callable[[str], None], *, folder: str | Path, rubric: Sequence[str] = (), **asked: Any
) -> Judge:
    """The judge, ready to be asked. What it says is kept in `cache`, or else in `folder`, so that nothing is asked
    twice. `asked`: more keywords of `text_model`. ConfigError, DataError or ModelError before anything is asked."""
    wording, principles = load_wording(config.wording), principles_of(config.principles)
    if config.num_principles is not None and config.num_principles > len(principles):
        raise ConfigError(
            f"num_principles is {config.num_principles}, and principles hold {len(principles)}: lower it, or leave it "
            "out to judge by all of them"
        )
    keys = config.judge_keys | {"cache": config.cache or Path(folder) / "asked.jsonl"}
    return Judge(
        text_model(**keys, say=say, **asked),
        wording=wording,
        how=config.asked_how,
        principles=principles,
        num_principles=config.num_principles,
        rubric=rubric,
        clamp=(config.clamp, 1 - config.clamp),
        seed=config.judge_seed,
        num_votes=config.num_votes,
        temperature=config.judge_temperature,
        max_new_tokens=config.judge_max_new_tokens,
        max_chars=config.max_chars,
        truncation=config.truncation,
    )


def principles_of(given: Sequence[str]) -> tuple[Criterion, ...]:
    """The principles to compare by: those of constitutions (files, or the shipped `default`), and plain texts, which
    are numbered. ConfigError where two have one id."""
    found: list[Criterion] = []
    for name in given:
        if name in SHIPPED or name.endswith(FILES):
            found += [Criterion(rule.id, rule.compare, rule.weight) for rule in read_constitution(name).comparing()]
        elif name.strip():
            found.append(Criterion(str(len(found) + 1), name))
        else:
            raise ConfigError("principles holds an empty text: write the principle, or leave the key out")
    ids = [one.id for one in found]
    twice = sorted({id for id in ids if ids.count(id) > 1})
    if twice:
        raise ConfigError(f"principles holds two with the id {twice[0]!r}: rename one of them in its file")
    return tuple(found)


def spent_of(model: TextModel, config: JudgingKeys) -> dict[str, float | None]:
    """What was asked of the judge in this run, for its record; `cost` where the price of tokens is given."""
    return asdict(model.spent) | {"cost": cost_of(model.spent, **config.prices)}
