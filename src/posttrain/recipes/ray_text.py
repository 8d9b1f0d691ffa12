"""A model in the workers of a cluster, or on several servers, as one that is asked for text."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from posttrain.recipes.policy import resolve_model
from posttrain.recipes.ray_jobs import Held
from posttrain.recipes.ray_sampler import RaySampler, held_model, outline
from posttrain.recipes.ray_spread import Spread
from posttrain.recipes.text_model import local_identity
from posttrain.rollouts.asking import Ask, Manner, Said, Spent, Weighed
from posttrain.rollouts.text_ids import AskIds
from posttrain.rollouts.text_models import RemoteText

SLOTS = 32
AT_ONCE = 4
"""How many times a worker's share is asked at once, so that none waits long for the others' last ones."""


def asking(spread: Spread) -> dict[str, Any]:
    """Keywords of `text_model` that have it asked by the workers."""
    return {"elsewhere": partial(RayText, spread), "chunk": AT_ONCE * 64 * spread.workers.num}


class RayText:
    """A TextModel. Its name and identity are those of the same model asked without Ray, so what a cache holds of either
    serves both; of several servers (addresses with commas between them) the first stands for all."""

    def __init__(self, spread: Spread, name: str, *, url: str | None = None, **server: Any) -> None:
        self.spread, self.name = spread, name
        self.held, self.least, self.identity = self._of_servers(url, server) if url else self._of_folder()
        self.spent: Spent = spread.spent_of(self.held)
        if not url:  # what whoever asks may want to know of a model of its own
            self.policy = outline(resolve_model(name))
            self.sampler = RaySampler(spread, self.held, self.policy)
            self.ids = AskIds(self.policy.tokenizer)

    def say(self, asks: Sequence[Ask], manner: Manner) -> list[list[Said]]:
        """See TextModel."""
        return self.spread.all(self.held, "say", asks, manner, least=max(1, self.least // manner.num))

    def weigh(self, asks: Sequence[Ask], options: Sequence[str]) -> list[Weighed]:
        """See TextModel."""
        return self.spread.all(self.held, "weigh", asks, tuple(options), least=self.least)

    def _of_folder(self) -> tuple[Held, int, Mapping[str, Any]]:
        held = held_model(self.name, resolve_model(self.name), slots=SLOTS)
        return held, SLOTS, local_identity(self.name)

    def _of_servers(self, urls: str, server: Mapping[str, Any]) -> tuple[Held, int, Mapping[str, Any]]:
        models = [RemoteText(url.strip(), self.name) for url in urls.split(",") if url.strip()]
        addresses = tuple(dict.fromkeys(model.endpoint.base_url for model in models))
        held = Held(self.name, urls=addresses, server=tuple(sorted(server.items())))
        return held, int(server.get("concurrency", SLOTS)), models[0].identity
