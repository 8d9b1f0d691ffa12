"""What run.json says of a training run."""

from typing import Any

from posttrain.models.load import Policy
from posttrain.recipes.processes import spoken
from posttrain.train.loop import Run


def record_of(config: Any, policy: Policy, inputs: list[dict[str, Any]]) -> dict[str, Any]:
    """What is known before the first step."""
    anew = config.model_copy(update={"resume_from_checkpoint": False})
    return {
        "verb": config.verb,
        "command": spoken(anew),
        "config": config.model_dump(),
        "seeds": {"seed": config.seed},
        "inputs": inputs,
        "parent": config.model,
        "model": {"parameters": policy.num_parameters, "trainable": policy.num_trainable, **_bits(config)},
    }


def _bits(config: Any) -> dict[str, Any]:
    """What the base was held in while the adapter was trained; the adapter itself names the plain base."""
    if not config.load_in_4bit:
        return {}
    return {"base_held_in": config.bnb_4bit_quant_type, "double_quant": config.bnb_4bit_use_double_quant}


def result_of(done: Run) -> dict[str, Any]:
    """How far it came."""
    return {"steps": done.state.step, "tokens": done.state.num_tokens, "trained_tokens": done.state.num_trained}
