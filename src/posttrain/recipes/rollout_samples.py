"""Groups of rollouts as lines of samples.jsonl: what was said, token by token, what it earned and why."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from posttrain.train import distributed
from posttrain.train.collect import Groups
from posttrain.train.experience import Answer
from posttrain.train.runlog import RunFolder
from posttrain.types import Rollout

NAME = "samples.jsonl"
GROUPS, MEMBERS = 2, 8  # of one iteration, written whole


def shower(folder: RunFolder, tokenizer: Any, every: int) -> Callable[[int, Groups, Sequence[Answer]], None]:
    """Writes two groups of an iteration, every so many optimiser steps: the first ones, but one with a failure before
    one without. A failure is written as often even where it is another step's turn. Where a resumed run stands in
    this is read from the file, so that it writes what an uninterrupted one would."""
    last: dict[bool, int] = {}  # step of the last lines, of all and of those with a failure

    def show(step: int, groups: Groups, answers: Sequence[Answer]) -> None:
        if not distributed.is_main():  # it alone writes, and a line half written is nothing to read
            return
        if not last:
            last.update(_resumed(folder, step, -every))
        failing = [group for group in groups if not all(rollout.is_known for rollout in group)]
        if step - last[False] < every and not (failing and step - last[True] >= every):
            return
        last.update(dict.fromkeys((False, True) if failing else (False,), step))
        advantages = {id(answer.rollout): answer.advantage for answer in answers}
        first = failing[:1] + [group for group in groups if not failing or group is not failing[0]]
        for group in first[:GROUPS]:
            members = sorted(group, key=lambda rollout: rollout.is_known)[:MEMBERS]
            folder.append(NAME, _line(step, members, advantages, tokenizer))

    return show


def _resumed(folder: RunFolder, step: int, never: int) -> dict[bool, int]:
    """Steps of the last lines, of all and of those with a failure. What was shown of the iteration that begins now was
    written before a kill and will be written again, so it is dropped."""
    path = folder.path / NAME
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    lines = [json.loads(line) for line in text.split("\n") if line]  # answers may hold what str.splitlines splits at
    kept = [line for line in lines if "rollouts" not in line or line["step"] < step]
    if len(kept) < len(lines):
        folder.save(NAME, kept)
    shown = [line for line in kept if "rollouts" in line]
    return {
        False: max((line["step"] for line in shown), default=never),
        True: max((line["step"] for line in shown if any(map(_failed, line["rollouts"]))), default=never),
    }


def _failed(rollout: dict[str, Any]) -> bool:
    return bool(rollout["error"]) or any(score["error"] for score in rollout["scores"].values())


def _line(step: int, group: Sequence[Rollout], advantages: dict[int, Tensor | None], tokenizer: Any) -> dict[str, Any]:
    prompt = group[0].prompt
    return {
        "step": step,
        "prompt": [{"role": message.role, "content": message.content} for message in prompt.messages],
        "answer": prompt.answer,
        "rollouts": [_rollout(rollout, advantages.get(id(rollout)), tokenizer) for rollout in group],
    }


def _rollout(rollout: Rollout, advantage: Tensor | None, tokenizer: Any) -> dict[str, Any]:
    chosen = iter([] if advantage is None else advantage.tolist())
    advantages = [round(next(chosen, 0.0), 4) if own else 0.0 for own in rollout.chosen]
    own = [a for a, mark in zip(advantages, rollout.chosen, strict=True) if mark]
    return {
        "text": rollout.text,
        "pieces": [tokenizer.decode([token]) for token in rollout.token_ids],
        "chosen": [int(own) for own in rollout.chosen],
        "logps": [round(logp, 4) for logp in rollout.logps],
        "advantages": advantages,
        "advantage": sum(own) / max(len(own), 1),
        "reward": rollout.reward,
        "scores": {
            name: {"value": score.value, "reason": score.reason, "error": score.error}
            for name, score in rollout.scores.items()
        },
        "finish": rollout.finish,
        "error": rollout.error,
    }
