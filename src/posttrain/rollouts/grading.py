"""Rewards and their weighted sum. A reward says a value and why; what fails in it is counted, never taken for wrong."""

import hashlib
import json
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from posttrain.errors import ConfigError
from posttrain.types import Message, Prompt, Rollout, Score

Reward = Callable[[Sequence[Rollout]], Sequence[Score | None]]
"""Answers to their scores, in order. None: this reward has nothing to say of that answer (a mixture of tasks)."""
Verdict = Score | float | bool | tuple[float, str] | None

SILENT = "graded"
"""The name of the score of an answer that no reward had anything to say of."""


@dataclass(frozen=True)
class Weighted:
    """A reward under a name, and how much it counts. `cached`: it is slow and always says the same of the same text,
    so that its verdicts are kept. `has_gold`: it compares with the prompt's gold answer, which must earn 1 of it (see
    `check_gold`)."""

    name: str
    reward: Reward
    weight: float = 1.0
    cached: bool = False
    has_gold: bool = False


def each(function: Callable[[Rollout], Verdict]) -> Reward:
    """A Reward from a function of one rollout. An exception is the error of that rollout's score alone."""

    def reward(rollouts: Sequence[Rollout]) -> list[Score | None]:
        return [_attempted(function, rollout) for rollout in rollouts]

    return reward


class Grader:
    """Fills in scores and rewards: $R = sum_k w_k r_k$ over the rewards that have something to say of the answer.

    Scores that an environment gave count with weight 1. `limit`: how many verdicts of cached rewards are kept; those
    asked for longest ago go first.
    """

    def __init__(self, rewards: Sequence[Weighted], *, cache: bool = True, limit: int = 100_000) -> None:
        names = [weighted.name for weighted in rewards]
        if len(set(names)) < len(names):
            raise ConfigError(f"reward: two of the same name among {', '.join(names)}; write one as file.py:function.")
        self.rewards, self.limit = tuple(rewards), limit if cache else 0
        self._kept: OrderedDict[str, Score | None] = OrderedDict()

    def grade(self, rollouts: Sequence[Rollout]) -> list[Rollout]:
        """The same rollouts with their scores and reward. Episodes that broke are not graded: nothing is known."""
        whole = [number for number, rollout in enumerate(rollouts) if not rollout.error]
        scores: list[dict[str, Score]] = [dict(rollout.scores) for rollout in rollouts]
        for weighted in self.rewards:
            found = self._asked(weighted, [rollouts[number] for number in whole])
            for number, score in zip(whole, found, strict=True):
                if weighted.name in rollouts[number].scores:
                    score = _failed(f"the environment gives a score of the name {weighted.name!r} as well; rename one")
                if score is not None:
                    scores[number][weighted.name] = score
        for number in whole:
            if not scores[number]:
                scores[number][SILENT] = _failed("no reward has anything to say of this answer")
        weights = {weighted.name: weighted.weight for weighted in self.rewards}
        return [
            replace(rollout, scores=given, reward=sum(weights.get(name, 1.0) * s.value for name, s in given.items()))
            for rollout, given in zip(rollouts, scores, strict=True)
        ]

    def state(self) -> dict[str, Any]:
        """The kept verdicts, oldest first, as JSON holds them."""
        return {"kept": [[key, s and [s.value, s.reason]] for key, s in self._kept.items()]}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on with the verdicts of `state`."""
        self._kept = OrderedDict((key, Score(*kept) if kept else None) for key, kept in state["kept"])

    def _asked(self, weighted: Weighted, rollouts: Sequence[Rollout]) -> list[Score | None]:
        if not (weighted.cached and self.limit):
            return _scored(weighted.reward, rollouts)
        keys = [_key(weighted.name, rollout) for rollout in rollouts]
        new = {key: rollout for key, rollout in zip(keys, rollouts, strict=True) if key not in self._kept}
        found = dict(zip(new, _scored(weighted.reward, list(new.values())), strict=True))
        # Read before the bound is kept, which may drop what this very call asked for. Errors are not remembered.
        scores = [found[key] if key in found else self._kept[key] for key in keys]
        for key, score in zip(keys, scores, strict=True):
            if score is None or not score.error:
                self._kept[key] = score
                self._kept.move_to_end(key)
        while len(self._kept) > self.limit:
            self._kept.popitem(last=False)
        return scores


def error_counts(rollouts: Sequence[Rollout]) -> dict[str, int]:
    """How many answers each reward failed to judge, and under 'episode' how many episodes broke."""
    counts: Counter[str] = Counter()
    for rollout in rollouts:
        counts["episode"] += bool(rollout.error)
        counts.update(name for name, score in rollout.scores.items() if score.error)
    return dict(+counts)


@dataclass(frozen=True)
class GoldFailure:
    """A gold answer that does not earn the most. `source`: where the prompt came from."""

    source: str
    answer: str
    score: Score | None


@dataclass(frozen=True)
class GoldReport:
    """What a reward says of gold answers. `without`: prompts that have none."""

    num_checked: int
    without: int
    failures: tuple[GoldFailure, ...]

    def __str__(self) -> str:
        right = self.num_checked - len(self.failures)
        lines = [f"{right} of {self.num_checked} gold answers earn the most; {self.without} prompts have none"]
        for failure in self.failures[:5]:
            score = failure.score
            why = "nothing" if score is None else score.error or f"{score.value:g}, {score.reason}"
            lines.append(f"{failure.source}: {failure.answer[:80]!r} earns {why}")
        more = len(self.failures) - 5
        return "\n".join(lines + ([f"and {more} more"] if more > 0 else []))


def check_gold(
    prompts: Sequence[Prompt],
    reward: Reward,
    *,
    top: float = 1.0,
    answered: Callable[[Prompt], str] = lambda prompt: prompt.answer,
) -> GoldReport:
    """Whether the gold answer of every prompt earns `top`. `answered`: what to hand in for a prompt."""
    asked = [prompt for prompt in prompts if answered(prompt)]
    texts = [answered(prompt) for prompt in asked]
    scores = _scored(reward, [as_rollout(prompt, text) for prompt, text in zip(asked, texts, strict=True)])
    failures = tuple(
        GoldFailure(prompt.source, text, score)
        for prompt, text, score in zip(asked, texts, scores, strict=True)
        if score is None or score.error or score.value < top
    )
    return GoldReport(len(asked), len(prompts) - len(asked), failures)


def why_unjudged(prompts: Sequence[Prompt], reward: Reward) -> str:
    """Why a reward has an error for every one of the prompts, whatever is answered: what it says of the first. Empty
    where it can judge one of them."""
    errors = ""
    for prompt in prompts:
        score = _scored(reward, [as_rollout(prompt, "")])[0]
        if score is None or not score.error:
            return ""
        errors = errors or score.error
    return errors


def as_rollout(prompt: Prompt, text: str, token_ids: Sequence[int] = (), *, finish: str = "stop") -> Rollout:
    """An answer as text, so that a reward can judge it, with its token ids where they were kept. Nothing is known of
    its prompt's tokens nor of log-probabilities: those are 0."""
    ids = tuple(token_ids)
    said = (Message("assistant", text),)
    return Rollout(prompt, (), ids, (True,) * len(ids), (0.0,) * len(ids), said, finish=finish)


def _scored(reward: Reward, rollouts: Sequence[Rollout]) -> list[Score | None]:
    """A reward's verdicts; where it fails as a whole, that failure for each."""
    if not rollouts:
        return []
    try:
        scores = list(reward(rollouts))
        if len(scores) != len(rollouts):
            raise ValueError(f"the reward gave {len(scores)} scores for {len(rollouts)} answers")
    except Exception as error:
        return [_failed(_said(error))] * len(rollouts)
    return scores


def _attempted(function: Callable[[Rollout], Verdict], rollout: Rollout) -> Score | None:
    try:
        verdict = function(rollout)
        if verdict is None or isinstance(verdict, Score):
            return verdict
        return Score(float(verdict[0]), str(verdict[1])) if isinstance(verdict, tuple) else Score(float(verdict))
    except Exception as error:
        return _failed(_said(error))


def _failed(why: str) -> Score:
    return Score(0.0, error=why)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _key(name: str, rollout: Rollout) -> str:
    """What a verdict hangs on: the reward, all of the prompt, all that was said, and whether it came to its end."""
    prompt = rollout.prompt
    said = [[message.role, message.content] for message in (*prompt.messages, *rollout.messages)]
    parts = [name, len(prompt.messages), said, prompt.answer, dict(prompt.fields), rollout.finish]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=repr).encode()).hexdigest()[:32]
