"""Whether a recipe may have the keys that a plan proposes: its own checks decide."""

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from posttrain.recipes.plan_config import config_of


def accepted_by(config: Any) -> Callable[[Mapping[str, Any]], bool]:
    """`accepts(keys)` of the recipe that is planned."""
    kind = config_of(config.known)
    given = {key: value for key, value in config.model_dump(exclude_unset=True).items() if key in kind.model_fields}

    def accepts(keys: Mapping[str, Any]) -> bool:
        if not keys.keys() <= kind.model_fields.keys():
            return False
        try:
            kind.model_validate({**given, **keys})
        except ValidationError:
            return False
        return True

    return accepts
