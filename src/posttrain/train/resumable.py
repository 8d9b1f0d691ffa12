"""What a checkpoint was written with against what a run would go on with, as one sentence."""

import json
from collections.abc import Mapping
from typing import Any

from posttrain.train import distributed

SHARED = "gradient_accumulation_steps"


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Why a run with the settings `now` cannot go on from one with `before`, and what to do. In both, micro-batches of
    a step are those of all processes together."""
    now = json.loads(json.dumps(now, default=str))
    changed = [key for key in now if key in before and before[key] != now[key]]
    if SHARED in changed:
        return _other_rows(before[SHARED], now[SHARED])
    what = "other data, model or settings"
    if changed:
        what = f"{changed[0]} {before[changed[0]]!r}, and this recipe says {now[changed[0]]!r}"
    return (
        f"it was written with {what}, so the resumed run would not equal an uninterrupted one; give the same recipe, "
        "or another output_dir to start anew."
    )


def _other_rows(before: int, now: int) -> str:
    world = distributed.world()
    told = (
        f"a step had {before} micro-batches ({SHARED} x processes) when it was written, and would have {now} in "
        f"{world} processes"
    )
    if before % world:
        fitting = [str(count) for count in range(1, before + 1) if before % count == 0]
        return f"{told}: {world} processes cannot share {before} evenly; start {' or '.join(fitting)} of them."
    return f"{told}: set {SHARED} to {before // world}."
