"""From the model keys of a recipe to a policy that is ready to train."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from posttrain.data.template import install_template
from posttrain.errors import ConfigError
from posttrain.models.attention import install_attention
from posttrain.models.dropout import drop_nothing
from posttrain.models.fused import fuse
from posttrain.models.load import Policy, context_length, load, save
from posttrain.models.logprobs import causal_lm
from posttrain.models.lora import add_lora, merge_lora
from posttrain.models.qlora import load_4bit
from posttrain.models.vocabulary import grow_embeddings
from posttrain.pocket.base import base_folder
from posttrain.recipes.good_model import good_model
from posttrain.train import distributed


def resolve_model(name: str) -> str:
    """`pocket` is the embedded base, a folder with a file `good` the model that it names; everything else is a model
    folder or a Hugging Face name."""
    return str(base_folder()) if name == "pocket" else good_model(name)


def load_packed(folder: str) -> Policy:
    """A model that answers or is measured, with packed attention."""
    policy = load(folder)
    install_attention(policy.model)
    return policy


def load_policy(config: Any, read: Callable[..., Policy] = load) -> tuple[Policy, bool]:
    """The model with its template, room for new tokens, adapters and packed attention; and whether it already had a
    chat template of its own. `read`: from a folder to a policy, as `load` does it."""
    if config.strategy == "fsdp":  # a device has room for a share of it alone
        read = partial(read, device="cpu")
    policy = _start(config, read)
    if not config.model_dropout:
        drop_nothing(policy.model)
    has_template = policy.tokenizer.chat_template is not None
    if config.chat_template == "raw":
        policy.tokenizer.chat_template = None
    elif config.chat_template or not has_template:
        install_template(policy.tokenizer, config.chat_template or "chatml")
    new_ids = grow_embeddings(policy.model, len(policy.tokenizer), seed=config.seed)
    if config.use_peft:
        policy = add_lora(
            policy,
            r=config.lora_r,
            alpha=config.lora_alpha,
            dropout=config.lora_dropout,
            targets=config.lora_target_modules,
            use_rslora=config.use_rslora,
            use_dora=config.use_dora,
            new_token_ids=new_ids,
        )
    model: Any = policy.model
    install_attention(model, config.attn)
    fuse(model)
    if config.gradient_checkpointing:
        checkpoint_activations(model)
    return policy, has_template and config.chat_template is None


def _start(config: Any, read: Callable[..., Policy]) -> Policy:
    """The model in one piece as it was saved, or its base in four bits. An adapter is merged in fp32 before that."""
    name = resolve_model(config.model)
    bits = {"quant_type": config.bnb_4bit_quant_type, "double_quant": config.bnb_4bit_use_double_quant}
    if config.load_in_4bit and not (Path(name) / "adapter_config.json").exists():
        return load_4bit(name, read=read, **bits)
    policy = read(name)
    if causal_lm(policy.model) is not policy.model:
        policy = merge_lora(policy)
    if policy.was_adapter and config.use_peft:
        folder = _keep_base(config, policy)
        return load_4bit(folder, read=read, **bits) if config.load_in_4bit else policy
    return policy


def checkpoint_activations(model: Any) -> None:
    """Recompute activations in the backward, which saves memory."""
    # The name changed in transformers 5.2x; both take the same.
    new = getattr(model, "activation_checkpointing_enable", None)
    (new or model.gradient_checkpointing_enable)({"use_reentrant": False})
    model.enable_input_require_grads()


def _keep_base(config: Any, policy: Policy) -> Path:
    """A new adapter names the folder of its base, so what was merged becomes a folder beside the run; of several
    processes one writes it."""
    folder = Path(f"{config.output_dir.rstrip('/')}-base")
    distributed.by_main(lambda: _write_base(config, policy, folder))
    policy.model.name_or_path = policy.model.config._name_or_path = str(folder)
    return folder


def _write_base(config: Any, policy: Policy, folder: Path) -> None:
    mark = folder / "merged_from.txt"
    if folder.exists() and not (mark.exists() and mark.read_text(encoding="utf-8") == config.model):
        raise ConfigError(
            f"{folder} is in the way: the base of the new adapter, {config.model} in one piece, is kept there; give "
            "another output_dir, or move that folder."
        )
    if not (config.resume_from_checkpoint and folder.exists()):
        save(policy, folder)
        mark.write_text(config.model, encoding="utf-8")


def fit_length(config: Any, policy: Policy, say: Callable[[str], None]) -> Any:
    """The config with a `max_length` that the model can take."""
    limit = context_length(policy)
    if config.max_length <= limit:
        return config
    say(f"max_length {config.max_length} is over the model's {limit} positions: using {limit}")
    return config.model_copy(update={"max_length": limit})
