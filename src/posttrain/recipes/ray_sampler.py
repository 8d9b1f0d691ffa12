"""A model in the workers of a cluster as a sampler of this process, which has its tokenizer and none of its weights."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

from transformers import AutoConfig

from posttrain.errors import ModelError
from posttrain.models.load import Policy, base_of, check_place, load_tokenizer
from posttrain.recipes.ray_jobs import Held
from posttrain.recipes.ray_models import model_digest
from posttrain.recipes.ray_spread import Spread
from posttrain.rollouts.sampling import Completion, Decoding, Request

Given = TypeVar("Given")
Found = TypeVar("Found")


class RaySampler:
    """A Sampler. `policy`: see `outline`. May be called from several threads."""

    def __init__(self, spread: Spread, held: Held, policy: Policy) -> None:
        self.spread, self.held, self.policy, self.version = spread, held, policy, 0

    def sample(self, requests: Sequence[Request], decoding: Decoding) -> list[list[Completion]]:
        """See Sampler. A worker has enough at a time to fill its slots."""
        most = max((len(request.seeds) for request in requests), default=1)
        least = max(1, self.held.slots // max(1, most))
        return self.spread.all(self.held, "sample", requests, decoding, least=least)


def held_model(name: str, folder: str, **how: Any) -> Held:
    """The model of a folder or a Hub name for workers. `pocket` is in each one's own package; other folders are meant
    to be the same on all machines."""
    place = name if name == "pocket" else str(Path(folder).resolve()) if Path(folder).is_dir() else folder
    return Held(name, place, model_digest(folder), **how)


def outline(folder: str) -> Policy:
    """A policy without weights: the tokenizer, the name, and the configuration, which knows the context. Raises
    ModelError where there is none."""
    place, tokenizer = check_place(folder), load_tokenizer(folder)
    base = base_of(place) if (place / "adapter_config.json").is_file() else folder
    try:
        config = AutoConfig.from_pretrained(base)
    except (OSError, ValueError, KeyError) as error:
        said = str(error).strip().split("\n")[0]
        raise ModelError(f"{base}: the model's config.json cannot be read: {said}") from error
    return Policy(SimpleNamespace(config=config), tokenizer, str(folder))


def side_by_side(
    answer: Callable[[Given], Found], parts: Sequence[Given], num_workers: int
) -> Iterator[tuple[Given, Found]]:
    """Each part with its answer, in order. Asking begins at once, with enough parts under way to keep workers busy;
    with `num_workers` 0 one at a time."""
    pool = ThreadPoolExecutor(max_workers=min(2 * num_workers + 1, 128))
    waiting: list[Future[Found]] = [pool.submit(answer, part) for part in parts]

    def in_order() -> Iterator[tuple[Given, Found]]:
        try:
            for number, part in enumerate(parts):
                yield part, waiting[number].result()
                waiting[number] = Future()  # what was given is not kept twice
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    return in_order()
