"""`posttrain sample` over a Ray cluster: all models side by side, the same answers in the same order."""

import hashlib
from collections.abc import Iterator, Sequence
from functools import partial

from rich.console import Console

from posttrain.recipes.ray_sampler import RaySampler, held_model, outline, side_by_side
from posttrain.recipes.ray_spread import Spread
from posttrain.recipes.sample_answers import Job, answers_of
from posttrain.recipes.sample_config import SampleConfig
from posttrain.recipes.sample_file import Answer, FileOutput
from posttrain.recipes.sample_filling import Filling
from posttrain.recipes.sample_store import StoreOutput
from posttrain.types import Prompt

Answered = Iterator[tuple[list[Job], list[list[Answer]]]]


def sample_over_ray(
    config: SampleConfig, prompts: Sequence[Prompt], output: FileOutput | StoreOutput, console: Console
) -> None:
    """Fill the output with what it lacks of every model."""
    say = partial(console.print, markup=False)
    fillings = [Filling(config, name, prompts, output, console) for name in config.model]
    lacking = [filling for filling in fillings if filling.missing]
    with Spread(config, _kept(config), say, num_models=len(lacking), anew=config.overwrite) as spread:
        begun = [(filling, _answered(config, filling, spread)) for filling in lacking]
        for filling, answered in begun:
            filling.fill(answered)


def _answered(config: SampleConfig, filling: Filling, spread: Spread) -> Answered:
    """Begins to ask, and gives the answers in order."""
    policy = outline(filling.folder)
    held = held_model(filling.name, filling.folder, slots=config.batch_size, dtype="float32")
    parts = filling.parts(policy)
    if parts:
        spread.begin(held)
    sampler = RaySampler(spread, held, policy)
    return side_by_side(partial(answers_of, config, sampler), parts, config.num_workers)


def _kept(config: SampleConfig) -> str:
    """The file of answers on their way."""
    if config.output is not None:
        return f"{config.output.removesuffix('.jsonl')}.ray.jsonl"
    store = str(config.store)
    if "://" not in store:
        return f"{store}.ray.jsonl"
    return f"runs/sample-{hashlib.sha256(store.encode()).hexdigest()[:8]}.ray.jsonl"
