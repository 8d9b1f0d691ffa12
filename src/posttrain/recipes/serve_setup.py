"""From the keys of `posttrain serve` to what stands around the engine."""

import logging
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch

from posttrain.errors import ConfigError
from posttrain.recipes.ab_state import ab_pages, assignments_of
from posttrain.recipes.serve_config import ServeConfig
from posttrain.recipes.serve_models import Named, Say
from posttrain.serve.app import AddRoutes
from posttrain.serve.doors import Engine, Guard, Keeper, Outcome, Split, UnknownExchange
from posttrain.serve.engine import LocalEngine, leave_a_core
from posttrain.serve.keys import ENVIRONMENT, Keys, is_local, known_hosts, read_keys
from posttrain.serve.limits import Limits
from posttrain.serve.page_routes import add_page_routes
from posttrain.serve.service import Service

MEGABYTE = 1024 * 1024


def service_of(config: ServeConfig, models: list[Named], engine: Engine, stack: ExitStack, say: Say) -> Service:
    """Everything that a recipe asks for, closed with the stack. Raises ConfigError."""
    keys = allowed_keys(config)
    keeper, name_of = _keeper(config, stack)
    split = _split(config, models, name_of, stack)
    if split is not None and keeper is not None:
        split.heard(keeper.outcomes())
    if config.adapters_root is not None and not Path(config.adapters_root).is_dir():
        raise ConfigError(f"adapters_root: there is no folder {config.adapters_root}.")
    return Service(
        engine,
        guard=_guard(config, stack, say),
        split=split,
        keeper=keeper,
        limits=limits_of(config),
        keys=keys,
        hosts=known_hosts(config.host, config.allowed_hosts, config.allowed_origins),
        default_model=models[0].name,
        adapters_root=None if config.adapters_root is None else Path(config.adapters_root),
        state="starting",
    )


def allowed_keys(config: ServeConfig) -> Keys:
    """The API keys. Raises ConfigError where other machines could ask without one."""
    keys = read_keys(config.api_key, config.api_key_file)
    if not (keys.hashes or config.allow_no_key or is_local(config.host)):
        raise ConfigError(
            f"host {config.host} lets other machines in, and there is no API key: give --api-key-file FILE (or "
            f"{ENVIRONMENT}), or --allow-no-key where everybody who reaches this machine may ask."
        )
    return keys


def limits_of(config: ServeConfig) -> Limits:
    """The bounds of a recipe."""
    return Limits(
        max_body=int(config.max_body_mb * MEGABYTE),
        max_n=config.max_n,
        max_tokens=config.max_tokens,
        request_s=config.request_limit_s,
        max_connections=config.max_connections,
        max_requests=config.max_requests,
    )


def pages_of(config: ServeConfig) -> tuple[AddRoutes, ...]:
    """What adds the pages' routes."""
    chat: tuple[AddRoutes, ...] = (add_page_routes,) if config.page else ()
    if config.split == "none":
        return chat
    return (*chat, partial(ab_pages, mde=config.mde, window_hours=config.window_hours))


def engine_of(config: ServeConfig) -> Engine:
    """The engine, without a model yet."""
    if config.threads is None:
        leave_a_core()
    else:
        torch.set_num_threads(config.threads)
    dtype = None if config.dtype == "auto" else getattr(torch, config.dtype)
    return LocalEngine(
        {}, slots=config.slots, max_waiting=config.max_queue, max_positions=config.max_positions, dtype=dtype
    )


def log_to_stderr(level: str) -> None:
    """What the server and uvicorn log, a line each."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    for name in ("posttrain.serve", "uvicorn.error"):
        logging.getLogger(name).setLevel(level.upper())


def _keeper(config: ServeConfig, stack: ExitStack) -> tuple[Keeper | None, Any]:
    """(the store of votes, under which name it knows a user)."""
    if config.store is None:
        return None, None
    from posttrain.feedback.served import ServedStore
    from posttrain.feedback.store import Store

    store = stack.enter_context(Store.open(config.store))
    keeper = ServedStore(store, redact=config.redact, outcome=Outcome, unknown=UnknownExchange)
    return keeper, keeper.name_of


def _guard(config: ServeConfig, stack: ExitStack, say: Say) -> Guard | None:
    if config.guardrails is None:
        return None
    from posttrain.recipes.guardrails_file import read_guardrails

    guard = read_guardrails(config.guardrails, say=say)
    stack.callback(guard.close)
    return guard


def _split(config: ServeConfig, models: list[Named], name_of: Any, stack: ExitStack) -> Split | None:
    """The A/B test between the models, in their order; the first is the one in use."""
    if config.split == "none":
        if config.shares:
            raise ConfigError("shares are those of a test; add --split fixed.")
        return None
    if len(models) < 2:
        raise ConfigError("split: a test is between two models or more; name another one.")
    from posttrain.serve.split import FixedSplit, ThompsonSplit

    arms = [model.name for model in models]
    about: dict[str, Any] = {"seed": config.seed, "name": config.test_name, "name_of": name_of}
    about["path"] = None if config.store is None else assignments_of(config.store)
    if config.split == "thompson":
        if config.shares:
            raise ConfigError("shares are those of a fixed split; leave them out beside --split thompson.")
        thompson = ThompsonSplit(arms, **about)
        stack.callback(thompson.close)
        return thompson
    if config.shares and len(config.shares) != len(arms):
        raise ConfigError(f"shares: expected {len(arms)} numbers, one for each model, got {len(config.shares)}.")
    fixed = FixedSplit(arms, config.shares or None, **about)
    stack.callback(fixed.close)
    return fixed
