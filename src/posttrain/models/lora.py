"""Low-rank adapters, by peft. They stay apart from the base weights: never merged while training."""

from collections.abc import Sequence
from typing import Any

from peft import LoraConfig, get_peft_model

from posttrain.errors import ModelError
from posttrain.models.load import Policy


def add_lora(
    policy: Policy,
    *,
    r: int = 16,
    alpha: int = 32,
    dropout: float = 0.0,
    targets: str | Sequence[str] = "all-linear",
    use_rslora: bool = False,
    use_dora: bool = False,
    new_token_ids: Sequence[int] = (),
) -> Policy:
    """Freeze the base and add trainable adapters (Hu et al., 2021; rsLoRA: Kalajdzievski, 2023; DoRA:
    Liu et al., 2024).

    `new_token_ids`: rows of the embedding that are trained in full, because nothing has trained them yet.
    """
    options: dict[str, Any] = {"trainable_token_indices": list(new_token_ids)} if new_token_ids else {}
    config = LoraConfig(
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        use_rslora=use_rslora,
        use_dora=use_dora,
        task_type="CAUSAL_LM",
        **options,
    )
    try:
        model = get_peft_model(policy.model, config)
    except ValueError as error:
        raise ModelError(f"LoRA cannot be added to {policy.name}: {error}") from error
    return Policy(model, policy.tokenizer, policy.name)
