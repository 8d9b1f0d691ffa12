"""A model in a worker: everything that it can be asked for there."""

import socket
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

import torch

from posttrain.errors import ModelError
from posttrain.evals.task import Choices
from posttrain.evals.weighing import weigh_options, weigh_texts
from posttrain.models.load import Policy
from posttrain.recipes.policy import load_packed, resolve_model
from posttrain.recipes.ray_jobs import Held
from posttrain.recipes.ray_servers import Servers
from posttrain.recipes.text_model import local_identity, text_model
from posttrain.rollouts.asking import Ask, Manner, Said, Weighed
from posttrain.rollouts.policy import PolicySampler
from posttrain.rollouts.sampling import Completion, Decoding, Request
from posttrain.types import Document

Told = tuple[dict[str, int], list[tuple[str, int, str]]]


class HeldModel:
    """Each method takes the job's number and its items, and gives a result for each item."""

    def __init__(self, held: Held, cpus: float) -> None:
        self.held = held
        torch.set_num_threads(max(1, int(cpus)))
        self._texts: list[Any] = []
        self._spent: dict[str, int] = {}

    @cached_property
    def policy(self) -> Policy:
        """The model. ModelError where it is not the one that the driver has."""
        folder = self._folder()
        return load_packed(folder)

    @cached_property
    def sampler(self) -> PolicySampler:
        """The model as a sampler."""
        held = self.held
        name = held.dtype or (held.cpu_dtype if self.policy.device.type == "cpu" else None)
        dtype = None if name is None else getattr(torch, name)
        return PolicySampler(self.policy, dtype=dtype, slots=held.slots)

    @cached_property
    def text(self) -> Any:
        """The model as one that is asked for text."""
        model = text_model(self._folder(), slots=self.held.slots)
        self._texts.append(model)
        return model

    @cached_property
    def servers(self) -> Servers:
        """The servers of the model."""
        found = Servers(self.held)
        self._texts += found.models
        return found

    def sample(self, _: int, requests: Sequence[Request], decoding: Decoding) -> list[list[Completion]]:
        """See Sampler."""
        return self.sampler.sample(requests, decoding)

    def options(self, _: int, questions: Sequence[Choices], plain: bool) -> list[Any]:
        """See `weigh_options`."""
        return list(weigh_options(self.policy, questions, plain=plain))

    def texts(self, _: int, documents: Sequence[Document]) -> list[Any]:
        """See `weigh_texts`."""
        return list(weigh_texts(self.policy, documents))

    def say(self, number: int, asks: Sequence[Ask], manner: Manner) -> list[list[Said]]:
        """See TextModel."""
        if self.held.urls:
            return self.servers.ask(number, asks, lambda model, some: model.say(some, manner))
        found: list[list[Said]] = self.text.say(asks, manner)
        return found

    def weigh(self, number: int, asks: Sequence[Ask], options: Sequence[str]) -> list[Weighed]:
        """See TextModel."""
        if self.held.urls:
            return self.servers.ask(number, asks, lambda model, some: model.weigh(some, options))
        found: list[Weighed] = self.text.weigh(asks, options)
        return found

    def told(self) -> Told:
        """What was spent, and which servers failed, since the last call."""
        now: dict[str, int] = {}
        for model in self._texts:
            for name, count in asdict(model.spent).items():
                now[name] = now.get(name, 0) + count
        new = {name: count - self._spent.get(name, 0) for name, count in now.items()}
        self._spent = now
        servers = self.__dict__.get("servers")  # not where making them is what failed
        return new, servers.failures() if servers else []

    def _folder(self) -> str:
        folder = resolve_model(self.held.place)
        found = model_digest(folder)
        if found != self.held.digest:
            what = "other weights, or another tokenizer," if found else "no model"
            raise ModelError(
                f"{self.held.name}: machine {socket.gethostname()} of the Ray cluster has {what} in {folder}; put the "
                "model's folder where all machines see the same"
            )
        return folder


def model_digest(folder: str) -> str:
    """Of the weights, the tokenizer and its chat template in a folder; empty where none are in it."""
    found = local_identity(folder)
    return "" if "model" in found else " ".join(found.values())
