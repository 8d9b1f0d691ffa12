"""Whether a verb's models are asked in this process or by the workers of a Ray cluster, which is imported only then."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from posttrain.recipes.ray_config import RayKeys


def over_ray(config: RayKeys, stack: ExitStack, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Keywords of `text_model` that spread its asks as the recipe says, until the stack is left; none without `ray`.
    Answers on their way are kept in `folder`."""
    if config.ray is None:
        return {}
    from posttrain.recipes.ray_spread import Spread
    from posttrain.recipes.ray_text import asking

    return asking(stack.enter_context(Spread(config, folder / "asked.ray.jsonl", say)))
