"""Low-rank adapters, by peft. They stay apart from the base weights: never merged while training."""

from collections.abc import Sequence
from typing import Any

from posttrain.errors import ModelError
from posttrain.models.load import Policy, quiet_peft


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
    from peft import LoraConfig, get_peft_model  # seconds to import, and full fine-tuning does without

    options: dict[str, Any] = {}
    is_reward = policy.model.get_output_embeddings() is None  # its new head is trained whole
    if new_token_ids:
        options["trainable_token_indices"] = {name: list(new_token_ids) for name in _row_modules(policy.model)}
    config = LoraConfig(
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        use_rslora=use_rslora,
        use_dora=use_dora,
        task_type="SEQ_CLS" if is_reward else "CAUSAL_LM",
        modules_to_save=["score"] if is_reward else None,
        **options,
    )
    try:
        with quiet_peft():
            model = get_peft_model(policy.model, config)
    except ValueError as error:
        raise ModelError(f"LoRA cannot be added to {policy.name}: {error}") from error
    return Policy(model, policy.tokenizer, policy.name)


def merge_lora(policy: Policy) -> Policy:
    """The same model in one piece, for training that begins where an adapter's ended. It was loaded in fp32, so
    nothing of the base is rounded away."""
    model = policy.model.merge_and_unload()
    model.requires_grad_(True)
    return Policy(model, policy.tokenizer, policy.name, was_adapter=True)


def _row_modules(model: Any) -> list[str]:
    """Names of the modules that hold a row per token: the embedding, and the head where it is a matrix of its own
    (a stop token whose row in the head stays untrained would never be said)."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    wanted = [embedding] if head is None or head.weight is embedding.weight else [embedding, head]
    return [name.rpartition(".")[2] for name, module in model.named_modules() if any(module is w for w in wanted)]
