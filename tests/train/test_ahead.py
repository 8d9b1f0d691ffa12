"""Rollouts that are begun before they are needed: which weights they are of, whose turn it is, and what resumes."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from posttrain.errors import RunStopped
from posttrain.train.ahead import Ahead
from posttrain.train.collect import Groups
from posttrain.types import Message, Prompt, Rollout

PROMPTS = [Prompt((Message("user", f"say {word}"),)) for word in ("one", "two", "three")]


class Sampler:
    """Serves a version at a time; remembers what was asked under which."""

    def __init__(self) -> None:
        self.version, self.policy = -1, object()
        self.log: list[str] = []
        self.may_go_on, self.begun = threading.Event(), threading.Event()
        self.may_go_on.set()

    def refresh(self, version: int) -> None:
        self.log.append(f"refresh {version}")
        self.version = version

    def roll(self, prompts: Sequence[Prompt], seed: int, version: int) -> Groups:
        self.begun.set()
        assert self.may_go_on.wait(10)
        self.log.append(f"roll {seed} at {self.version}")
        rollout = Rollout(prompts[0], (1,), (2,), (True,), (-1.0,), (), "stop", 0, version, {}, "")
        return [[rollout] for _ in prompts]


def test_what_was_asked_for_is_given_with_the_version_that_wrote_it() -> None:
    sampler = Sampler()
    ahead = Ahead(sampler, sampler.roll)
    ahead.refresh(0)
    (first, *_) = ahead.roll(PROMPTS, 1, 0)
    ahead.begin(PROMPTS, 2, 0)
    ahead.refresh(4)
    (second, *_) = ahead.roll(PROMPTS, 2, 4)
    assert [group[0].version for group in (first, second)] == [0, 0]
    assert sampler.log == ["refresh 0", "roll 1 at 0", "roll 2 at 0", "refresh 4"]
    told = ahead.told()
    assert told["ahead"] == 1
    assert ahead.told()["ahead"] == 0
    assert (ahead.version, ahead.policy) == (4, sampler.policy)


def test_weights_change_only_once_nothing_is_under_way() -> None:
    sampler = Sampler()
    ahead = Ahead(sampler, sampler.roll)
    ahead.refresh(0)
    sampler.may_go_on.clear()
    ahead.begin(PROMPTS, 1, 0)
    assert sampler.begun.wait(10)
    handing = threading.Thread(target=ahead.refresh, args=(1,))
    handing.start()
    assert sampler.log == ["refresh 0"], "the hand-over waits"
    sampler.may_go_on.set()
    handing.join(10)
    assert sampler.log == ["refresh 0", "roll 1 at 0", "refresh 1"]


@pytest.mark.parametrize("other", [lambda: (PROMPTS[:2], 1), lambda: (PROMPTS, 2)], ids=["prompts", "seed"])
def test_another_question_is_asked_anew(other: Callable[[], Any]) -> None:
    sampler = Sampler()
    ahead = Ahead(sampler, sampler.roll)
    ahead.refresh(0)
    ahead.begin(PROMPTS, 1, 0)
    ahead.refresh(3)
    prompts, seed = other()
    groups = ahead.roll(prompts, seed, 3)
    assert [group[0].version for group in groups] == [3] * len(prompts)
    assert ahead.told()["ahead"] == 0


def test_an_error_of_the_thread_is_raised_where_its_answers_are_taken() -> None:
    def broken(prompts: Sequence[Prompt], seed: int, version: int) -> Groups:  # noqa: ARG001
        raise RunStopped("no sampling server is left")

    ahead = Ahead(Sampler(), broken)
    ahead.begin(PROMPTS, 1, 0)
    ahead.refresh(1)
    with pytest.raises(RunStopped, match="no sampling server"):
        ahead.roll(PROMPTS, 1, 1)
