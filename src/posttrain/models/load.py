"""Folders to policies and back. Weights are read and written as safetensors only."""

import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils.logging import disable_progress_bar

from posttrain.errors import ModelError
from posttrain.models.bitsandbytes import num_values
from posttrain.models.dequantised import quantisation_of, read_weights
from posttrain.models.logprobs import causal_lm

disable_progress_bar()  # a bar per saved or loaded shard would break into the training's own


@dataclass
class Policy:
    """A causal LM (a transformers model, or peft's wrapping of one) and its tokenizer. Neither library types them."""

    model: Any
    tokenizer: Any
    name: str
    was_adapter: bool = False
    """Whether an adapter was merged into the weights, so that no folder holds them as they are."""
    runs_on: torch.device | None = None
    """Where it computes, if its weights are kept elsewhere."""

    @property
    def num_parameters(self) -> int:
        return sum(map(num_values, self.model.parameters()))

    @property
    def num_trainable(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)

    @property
    def device(self) -> torch.device:
        return self.runs_on or next(self.model.parameters()).device


def load(path: str | Path, *, dtype: torch.dtype = torch.float32, device: str | None = None, **options: Any) -> Policy:
    """Load a model folder, an adapter folder (its base comes with it) or a Hugging Face name. `options`: more of
    `from_pretrained`, for a model that is no adapter.

    Raises ModelError with the mend where a tokenizer, weights in safetensors, or the base of an adapter is missing.
    """
    folder = check_place(path)
    if is_reward_model(path):
        raise ModelError(f"{path}: this is a reward model, which says nothing; give a language model.")
    if (folder / "adapter_config.json").exists():
        policy = _load_adapter(folder, dtype)
    else:
        policy = Policy(load_weights(path, dtype, **options), load_tokenizer(path), str(path))
    policy.model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return policy


def check_place(path: str | Path) -> Path:
    """The folder that a model is read from, or its name on the Hub as a path. Raises ModelError for what is neither."""
    folder = Path(path)
    if not folder.exists() and _looks_local(str(path)):
        raise ModelError(f"{path}: no such folder; give the folder of a model or a run, or a Hub name (owner/name).")
    if folder.exists() and not folder.is_dir():
        raise ModelError(f"{path}: a model is a folder with config.json and *.safetensors, this is a file.")
    return folder


def is_reward_model(path: str | Path) -> bool:
    """Whether a folder or a Hub name holds a sequence classifier, or an adapter of one, by its configuration."""
    adapter = Path(path) / "adapter_config.json"
    if adapter.is_file():
        return '"SEQ_CLS"' in adapter.read_text(encoding="utf-8", errors="replace")
    if Path(path).is_dir() and not (Path(path) / "config.json").is_file():
        return False
    try:
        names = AutoConfig.from_pretrained(path).architectures or []
    except (OSError, ValueError, KeyError):  # whoever loads the weights says what is wrong
        return False
    return any(name.endswith("ForSequenceClassification") for name in names)


def context_length(policy: Policy) -> int:
    """Positions that the model can take; very many where its configuration sets no limit."""
    limit = getattr(causal_lm(policy.model).config, "max_position_embeddings", None)
    return int(limit or 1 << 20)


def save(
    policy: Policy,
    folder: Path,
    *,
    stop_token_ids: list[int] | None = None,
    state_dict: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write a plain Hugging Face (or peft) folder that every other tool reads; `stop_token_ids` end a generation.
    `state_dict`: the weights, where they are not what the model holds here."""
    folder.mkdir(parents=True, exist_ok=True)
    lm = causal_lm(policy.model)
    stop_token_ids = stop_token_ids if lm.can_generate() else None  # a reward model says nothing
    if stop_token_ids:
        config = GenerationConfig.from_model_config(lm.config)
        config.eos_token_id, config.pad_token_id = stop_token_ids, policy.tokenizer.pad_token_id
        lm.generation_config = config
    # peft would add both whole embeddings because they grew; the adapter already holds the rows that are new.
    options: dict[str, Any] = {} if lm is policy.model else {"save_embedding_layers": False}
    options |= {} if state_dict is None else {"state_dict": state_dict}
    policy.model.save_pretrained(folder, **options)
    if lm is not policy.model and stop_token_ids:
        lm.generation_config.save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)


def _looks_local(name: str) -> bool:
    """Whether a path that does not exist was meant as one, so that the network is not asked for it."""
    return (
        name.startswith((".", "/", "~", "runs/", "checkpoint-"))
        or name.count("/") > 1
        or ("/" in name and Path(name.split("/")[0]).is_dir())
    )


def load_weights(path: str | Path, dtype: torch.dtype, kind: Any = AutoModelForCausalLM, **options: Any) -> Any:
    """The model of a folder or a Hugging Face name, as `kind` (an Auto class of transformers, or a model's own) builds
    it; weights in eight or four bits come as the numbers that they stand for. Raises ModelError where there is none,
    or none in safetensors."""
    folder = Path(path)
    if folder.is_dir():
        if not (folder / "config.json").exists():
            raise ModelError(f"{path}: no config.json; give the folder that a model was saved in.")
        if not list(folder.glob("*.safetensors")):
            raise ModelError(
                f"{path}: no *.safetensors weights. Pickled weights (*.bin, *.pt) can run code when they are opened "
                "and are not read; save the model again with safe serialisation."
            )
    if quantisation_of(path) is not None:
        return read_weights(path, dtype, kind, **options)
    try:
        return kind.from_pretrained(path, dtype=dtype, use_safetensors=True, **options)
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        raise ModelError(f"{path}: the model cannot be loaded: {_first_line(error)}") from error


def load_tokenizer(path: str | Path) -> Any:
    """The tokenizer of a model folder, without its weights. Raises ModelError where there is none that is fast."""
    folder = Path(path)
    files = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")
    if folder.is_dir() and not any((folder / file).exists() for file in files):
        raise ModelError(f"{path}: no tokenizer; copy tokenizer.json and tokenizer_config.json of the model into it.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{path}: the tokenizer cannot be loaded: {_first_line(error)}") from error
    if not tokenizer.is_fast:
        raise ModelError(f"{path}: the tokenizer is a slow one without character offsets; save it as tokenizer.json.")
    return tokenizer


def _load_adapter(folder: Path, dtype: torch.dtype) -> Policy:
    from peft import PeftModel

    base = base_of(folder)
    tokenizer = load_tokenizer(folder)
    model = load_weights(base, dtype)
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with quiet_peft():
        return Policy(PeftModel.from_pretrained(model, folder), tokenizer, str(folder))


def base_of(folder: Path) -> str:
    """The model that an adapter is for. Raises ModelError where it is gone."""
    base: str = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    if not base or not (Path(base).is_dir() or "/" in base):
        raise ModelError(f"{folder}: its adapter_config.json names the base {base!r}, which is not a model folder.")
    return base


@contextmanager
def quiet_peft() -> Iterator[None]:
    """peft asks transformers for a property that was renamed, and says that it has mended a setting by itself; the
    warnings are between the two libraries alone."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False but the target module is `Conv1D`")
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        yield


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


def restore(policy: Policy, folder: Path) -> None:
    """Put the weights saved in `folder` (by `save`, from a policy of the same shape) back into this policy."""
    if causal_lm(policy.model) is policy.model:
        saved = load_weights(folder, next(policy.model.parameters()).dtype, type(policy.model))
        policy.model.load_state_dict(saved.state_dict())
        return
    from peft import load_peft_weights, set_peft_model_state_dict

    set_peft_model_state_dict(policy.model, load_peft_weights(str(folder), device=str(policy.device)))


@torch.no_grad()
def restore_laid(policy: Policy, folder: Path, lay: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
    """`restore` into weights that are not whole here: `lay(held, saved)` is what was saved, laid out as `held` is."""
    if causal_lm(policy.model) is policy.model:
        saved = load_weights(folder, next(policy.model.parameters()).dtype, type(policy.model)).state_dict()
        held = policy.model.state_dict()
    else:
        from peft import get_peft_model_state_dict, load_peft_weights

        saved = load_peft_weights(str(folder), device="cpu")
        held = get_peft_model_state_dict(policy.model, save_embedding_layers=False)
    for name, value in saved.items():
        held[name].copy_(lay(held[name], value))
