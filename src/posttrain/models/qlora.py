"""A base whose linear maps are held in four bits, for adapters in full precision (QLoRA; Dettmers et al., 2023)."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from posttrain.errors import ModelError
from posttrain.models.bitsandbytes import options_4bit, plain_, settle_4bit
from posttrain.models.dequantised import quantisation_of
from posttrain.models.load import Policy, base_of, is_reward_model, load, load_tokenizer, quiet_peft
from posttrain.models.lora import merge_lora


def load_4bit(
    path: str | Path,
    *,
    read: Callable[..., Policy] = load,
    quant_type: str = "nf4",
    double_quant: bool = True,
    device: str | None = None,
) -> Policy:
    """A model folder or a Hugging Face name with the linear maps of its layers in four bits; embeddings, head and norms
    are in fp32. The name stays the plain model's, which an adapter on it is then for. `read`: `load`, or another of
    its shape.

    Raises ModelError for an adapter, for a folder that is quantised already, and where a package is missing.
    """
    if (Path(path) / "adapter_config.json").exists():
        raise ModelError(f"{path}: this is an adapter; it is merged into its base before that is held in four bits.")
    if quantisation_of(path) is not None:
        raise ModelError(f"{path}: its weights are quantised already; give the folder that they were made from.")
    device = device or ("cuda:0" if torch.cuda.is_available() else "cpu")
    options: dict[str, Any] = options_4bit(device, quant_type=quant_type, double_quant=double_quant)
    policy = read(path, device=device, **options)
    if not settle_4bit(policy.model):
        kind = type(policy.model).__name__
        raise ModelError(f"{path}: bitsandbytes holds no linear map of {kind} in four bits; leave load_in_4bit out.")
    return policy


def held_in(folder: str | Path) -> dict[str, Any] | None:
    """In which four bits the base of an adapter was held while it was trained, as options of `load_4bit`, by the
    run.json of its folder; None where it was not, or where that is not known."""
    try:
        record = json.loads((Path(folder) / "run.json").read_text(encoding="utf-8"))
        told = record["model"]
        return {"quant_type": told["base_held_in"], "double_quant": told["double_quant"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def merge_held(folder: str | Path, *, device: str | None = None) -> Policy:
    """An adapter in one piece with the numbers that its base stood for in four bits, in fp32: the very model that was
    trained. (`load` and `merge_lora` put it on the plain base.) Nothing is rounded to four bits again.

    Raises ModelError for a folder whose run.json tells of no base in four bits.
    """
    from peft import PeftModel  # seconds to import

    bits = held_in(folder)
    if bits is None or not (Path(folder) / "adapter_config.json").is_file():
        raise ModelError(
            f"{folder}: its run.json tells of no base that was held in four bits; merge it into its plain base."
        )
    if is_reward_model(folder):
        raise ModelError(f"{folder}: this is a reward model, which says nothing; give a language model.")
    base, tokenizer = load_4bit(base_of(Path(folder)), device=device, **bits), load_tokenizer(folder)
    model = plain_(base.model)
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with quiet_peft():
        made = PeftModel.from_pretrained(model, folder)
    return merge_lora(Policy(made, tokenizer, str(folder)))
