"""The state of an A/B test from a store of votes and the server's file of assignments."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from posttrain.errors import ConfigError
from posttrain.evals.ab import ab_state
from posttrain.feedback.served import ServedStore
from posttrain.serve.ab_page import add_ab_routes
from posttrain.serve.assignments import Test, read_assignments
from posttrain.serve.doors import Keeper, Outcome, Split
from posttrain.serve.service import Service
from posttrain.serve.split import FixedSplit, ThompsonSplit

SUFFIX = ".assignments.jsonl"


def assignments_of(store: str) -> Path | None:
    """Where a server that keeps votes in this store writes who was drawn to which arm; None beside a database that is
    no file."""
    return None if "://" in store else Path(store + SUFFIX)


def stored_state(
    outcomes: Sequence[Outcome],
    *,
    arms: Sequence[str] | None = None,
    assignments: str | Path | None = None,
    test: str | None = None,
    shares: Sequence[float] | None = None,
    **asked: Any,
) -> dict[str, Any]:
    """The state of a test that may be over. `assignments`: a file of tests, of which the one named `test`, else the
    last, is meant. `asked`: as of evals.ab.ab_state."""
    if assignments is not None:
        found = _test_of(assignments, test, arms)
        return _state(outcomes, found.arms, None, found, asked)
    if arms is None:
        arms = sorted({name for one in outcomes for name in (one.arm, one.versus) if name})
        if len(arms) < 2:
            raise ConfigError(
                f"The votes name {len(arms) or 'no'} model{'s' if len(arms) != 1 else ''} under test: there is nothing "
                "to compare yet. Serve two models with --split, or name them with --arms."
            )
    if shares is not None and len(shares) != len(arms):
        raise ConfigError(f"--shares: expected {len(arms)} numbers, one for each of {', '.join(arms)}.")
    chances = dict(zip(arms, shares, strict=True)) if shares is not None else None
    return _state(outcomes, arms, chances, None, asked)


def _test_of(assignments: str | Path, name: str | None, arms: Sequence[str] | None) -> Test:
    tests = read_assignments(assignments)
    fitting = [one for one in tests if name in (None, one.name) and (arms is None or tuple(arms) == one.arms)]
    if not fitting:
        known = "; ".join(f"{one.name or 'without a name'}: {', '.join(one.arms)}" for one in tests) or "none"
        raise ConfigError(f"{assignments}: there is no such test. Those that there are: {known}.")
    return fitting[-1]


def live_state(split: Split, outcomes: Callable[[], Sequence[Outcome]], **asked: Any) -> Callable[[], dict[str, Any]]:
    """What a server's state page calls: the state of the test that is running, with the traffic of now."""

    def now() -> dict[str, Any]:
        told = outcomes()  # before the test: who has voted by now is in it
        test = split.test() if isinstance(split, FixedSplit | ThompsonSplit) else None
        found = _state(told, split.arms, None, test, {"now": datetime.now(UTC)} | asked)
        return found | {"traffic": split.state()}

    return now


def ab_pages(app: FastAPI, service: Service, **asked: Any) -> None:
    """Add the state page of whatever test a server runs to its application. `asked`: as of evals.ab.ab_state."""
    split, keeper = service.split, service.keeper
    state = None if split is None or keeper is None else live_state(split, _read(keeper), **asked)
    add_ab_routes(app, service, state)


def _read(keeper: Keeper) -> Callable[[], Sequence[Outcome]]:
    """What was taken back is wanted too, where the keeper tells of it: the user may have counted with it by then."""
    return partial(keeper.outcomes, taken_back=True) if isinstance(keeper, ServedStore) else keeper.outcomes


def _state(
    outcomes: Sequence[Outcome],
    arms: Sequence[str],
    shares: Mapping[str, float] | None,
    test: Test | None,
    asked: Mapping[str, Any],
) -> dict[str, Any]:
    if test is None:
        return ab_state(outcomes, arms, chances=shares, **asked)

    def chances(user: str) -> dict[str, float] | None:
        one = test.users.get(user)
        return None if one is None else dict(zip(arms, one.shares, strict=True))

    users = list(test.users.values())
    return ab_state(outcomes, arms, chances=chances, assigned=users, began=test.began, **asked)
