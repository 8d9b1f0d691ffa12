"""What the routes of a server share."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from fastapi import Request

from posttrain.serve.doors import Engine, Guard, Keeper, Served, Split, UnknownModel
from posttrain.serve.failures import Refused
from posttrain.serve.keys import NOBODY, Hosts, Keys
from posttrain.serve.limits import Limits
from posttrain.serve.metrics import Metrics

AUTO = "auto"
"""The name of whichever model the A/B test gives a user."""


class Ends(Protocol):
    """Something under way that can be told to end."""

    def fail(self, error: Exception) -> None:
        """End with this error."""
        ...


@dataclass(eq=False)
class Service:
    """An engine and what stands around it. `guard`, `split`, `keeper`: None where there is none. `default_model`:
    answers where a request names none; '' for the engine's first. `adapters_root`: adapters below it may be loaded at
    run time; None: no adapters may. `state`: 'starting', 'ready' or 'stopping'."""

    engine: Engine
    guard: Guard | None = None
    split: Split | None = None
    keeper: Keeper | None = None
    limits: Limits = field(default_factory=Limits)
    keys: Keys = field(default_factory=Keys)
    hosts: Hosts = field(default_factory=Hosts)
    metrics: Metrics = field(default_factory=Metrics)
    default_model: str = ""
    adapters_root: Path | None = None
    state: str = "ready"
    under_way: set[Ends] = field(default_factory=set)
    num_open: int = 0
    scribe: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "prompts"))
    """One thread turns texts into ids: tokenizers are not safe in many, and a long text must not stop the others."""

    def __post_init__(self) -> None:
        self.metrics.watch(self.engine.load, lambda: self.num_open)

    @property
    def main_model(self) -> str:
        """The model that answers where nothing is asked for."""
        return self.default_model or self.engine.models()[0].name

    def arm(self, name: str, user: str) -> tuple[str, str]:
        """(model, its arm in the A/B test or '') that answer a user who asks for a model. Raises UnknownModel."""
        known = {served.name for served in self.engine.models()}
        if self.split is not None and (name == AUTO or not name):
            arm = self.split.arm(user)
            return arm, arm
        if name == AUTO and AUTO not in known:
            name = ""
        if name and name not in known:
            shown = ", ".join(sorted(known)[:20])
            raise UnknownModel(f"the model {name[:200]!r} does not exist here; /v1/models lists what does: {shown}.")
        return name or self.main_model, ""

    def listed(self) -> list[Served]:
        """The models, `auto` before them where an A/B test is under way."""
        found = self.engine.models()
        if self.split is None:
            return found
        first = self.engine.model(self.split.arms[0])
        return [Served(AUTO, first.tokenizer, first.context, "", "", first.created), *found]

    def end_all(self, error: Exception) -> None:
        """End what is under way."""
        for one in list(self.under_way):
            one.fail(error)

    async def scribed(self, work: Any, *given: Any) -> Any:
        """What a function makes, in the thread of the prompts."""
        return await asyncio.get_running_loop().run_in_executor(self.scribe, work, *given)


def caller(request: Request) -> str:
    """Whose key a request came with."""
    return str(request.scope.get("state", {}).get("caller", NOBODY))


def require_owner(service: Service, request: Request) -> None:
    """Raises Refused for everybody else."""
    if not service.keys.is_owner(caller(request)):
        raise Refused(403, "this is for the owner of the server; your key is another.", code="not_the_owner")
