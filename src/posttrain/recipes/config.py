"""Settings of every verb: a YAML file, then flags over it, both checked by the same pydantic model.

Holds plain values. Doors: `load(Config, path, flags)` in; `command(config)` out, the one command that says the same
again. Fails by ConfigError, naming file, line and key, what was found, what was expected, and what was probably
meant.
"""

import difflib
import shlex
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, Union

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError

from posttrain.errors import ConfigError

# What people type from habit, where spelling alone would not lead to the key that is meant.
HABITS = {
    "response_length": "max_completion_length",
    "max_new_tokens": "max_completion_length",
    "reward_funcs": "reward",
    "reward_model_path": "reward_model",
    "total_episodes": "max_steps",
    "kl_coef": "beta",
    "lr": "learning_rate",
    "peak_lr": "learning_rate",
    "scheduler": "lr_scheduler_type",
    "epochs": "num_train_epochs",
    "steps": "max_steps",
    "batch_size": "per_device_train_batch_size",
    "micro_batch_size": "per_device_train_batch_size",
    "grad_accum": "gradient_accumulation_steps",
    "grad_clip": "max_grad_norm",
    "clip": "max_grad_norm",
    "max_seq_length": "max_length",
    "cutoff_len": "max_length",
    "block_size": "max_length",
    "rank": "lora_r",
    "lora_rank": "lora_r",
    "target_modules": "lora_target_modules",
    "lora": "use_peft",
    "model_name_or_path": "model",
    "model_name": "model",
    "dataset_name": "dataset",
    "val_set_size": "eval_split",
    "resume": "resume_from_checkpoint",
    "output": "output_dir",
    "out_dir": "output_dir",
    "train_on_inputs": "prompt_loss_weight",
    "attn_implementation": "attn",
}


class Config(BaseModel):
    """Base of a verb's settings: frozen, unknown keys refused. Each field's `description` is its line of help."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    verb: ClassVar[str]
    headings: ClassVar[dict[str, str]] = {}
    """The heading that `--help` prints above a key, by that key."""
    positional: ClassVar[str | None] = None
    """The key that may be given without its flag, as in `posttrain chat runs/sft`."""

    @classmethod
    def implied(cls, given: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG003 (for those that have such keys)
        """What keys that are left out stand at beside the `given` ones, where that is not the field's own default."""
        return {}

    @classmethod
    def meant(cls, words: Sequence[str]) -> "type[Config]":  # noqa: ARG003 (for those that have more keys by them)
        """The settings that these words of a command line are for."""
        return cls

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: object, info: ValidationInfo) -> object:
        # Python counts true as 1; a recipe that says `max_steps: true` means something else.
        if isinstance(value, bool) and info.field_name and bool not in members(cls.model_fields[info.field_name]):
            raise PydanticCustomError("wrong_type", "true or false where none is expected")
        return value


ConfigT = TypeVar("ConfigT", bound=Config)


def load(model: type[ConfigT], path: Path | None, flags: Mapping[str, object]) -> ConfigT:
    """The settings of one run: defaults, then the recipe file at `path`, then `flags` (values may be text)."""
    values, lines = read_yaml(path) if path else ({}, {})
    unknown = [key for key in values if key not in model.model_fields]
    if unknown:
        key = unknown[0]
        raise ConfigError(f"{path}, line {lines[key]}: unknown key {key!r}{did_you_mean(key, model)}.")
    given = {**values, **flags}
    places = {key: f"{path}, line {lines[key]}: " for key in values} | dict.fromkeys(flags, "")
    try:
        return model.model_validate(given)
    except ValidationError as error:
        faults = [_fault(model, detail, given, places) for detail in error.errors()]
        # A union reports one fault for each of its members; a reader needs the sentence once.
        raise ConfigError(" ".join(dict.fromkeys(faults))) from None


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """The keys of a recipe file with their values, and the line that each key stands on."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: there is no such recipe file. Check the path, or leave it out to use flags alone."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: the recipe cannot be read as UTF-8 text ({error}).") from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{line}: this is not valid YAML: {error.problem or error.context}.") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path}: this is not valid YAML: {' '.join(str(error).split())}.") from None
    if node is None:
        return {}, {}
    if not isinstance(node, yaml.MappingNode):
        found = "a list" if isinstance(node, yaml.SequenceNode) else repr(node.value)
        raise ConfigError(f"{path}, line {node.start_mark.line + 1}: expected `key: value` lines, found {found}.")
    lines: dict[str, int] = {}
    for key_node, _ in node.value:
        key, line = str(key_node.value), key_node.start_mark.line + 1
        if key in lines:
            raise ConfigError(f"{path}, line {line}: key {key!r} was already given on line {lines[key]}; keep one.")
        lines[key] = line
    # YAML reads a bare `on` or `1` as something other than text; what was written is what an error should quote.
    return dict(zip(lines, values.values(), strict=False)), lines


def _fault(model: type[Config], detail: ErrorDetails, given: Mapping[str, object], places: Mapping[str, str]) -> str:
    """One sentence for one thing that pydantic found wrong. `places` has the start of the sentence, by key."""
    key = str(detail["loc"][0]) if detail["loc"] else ""
    if detail["type"] == "value_error":
        said = str(detail["ctx"]["error"])
        return f"{places.get(key or said.split()[0], '')}{said}."
    if len(detail["loc"]) > 1 and (entry := _entry_of(model.model_fields[key])):
        return places[key] + _entry_fault(key, detail, entry)
    if detail["type"] == "missing":
        return f"{key} is required: give {flag(key)}, or the key {key} in a recipe file."
    if detail["type"] == "extra_forbidden":
        return f"unknown flag {flag(key)}{did_you_mean(key, model, as_flag=True)}."
    # A place with a file in it means that the value came from there, and keys are written plainly in a file.
    name = key if places[key] else flag(key)
    return f"{places[key]}{name} is {given[key]!r}, expected {expected(model.model_fields[key])}."


def _entry_of(field: FieldInfo) -> type[BaseModel] | None:
    """The model of the mappings that a list may hold; None where it holds plain values."""
    inner = [kind for member in members(field) for kind in typing.get_args(member) if isinstance(kind, type)]
    return next((kind for kind in inner if issubclass(kind, BaseModel)), None)


def _entry_fault(key: str, detail: ErrorDetails, entry: type[BaseModel]) -> str:
    """One sentence for a fault inside an entry of a list, as in `dataset[1].weight`."""
    place = key + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in detail["loc"][1:])
    last = str(detail["loc"][-1])
    if detail["type"] == "extra_forbidden":
        near = difflib.get_close_matches(last, entry.model_fields, n=1, cutoff=0.55)
        return f"{place} is an unknown key{f', did you mean {near[0]}' if near else ''}? An entry has " + (
            f"{', '.join(entry.model_fields)}."
        )
    if detail["type"] == "missing":
        return f"{place} is required."
    wanted = expected(entry.model_fields[last]) if last in entry.model_fields else "text, or a mapping with `path`"
    return f"{place} is {detail['input']!r}, expected {wanted}."


def did_you_mean(key: str, model: type[Config], *, as_flag: bool = False) -> str:
    """The end of an unknown-key sentence: the nearest key, or where the keys are listed."""
    asked = key.lower().replace("-", "_")
    near = [HABITS[asked]] if HABITS.get(asked) in model.model_fields else []
    near = near or difflib.get_close_matches(asked, model.model_fields, n=1, cutoff=0.55)
    listed = f"`posttrain {model.verb} --help` lists every key"
    if not near:
        return f". {listed}"
    return f", did you mean {flag(near[0]) if as_flag else near[0]}? {listed}"


def flag(key: str) -> str:
    """How a key is written on the command line."""
    return "--" + key.replace("_", "-")


def members(field: FieldInfo) -> tuple[Any, ...]:
    """The types that a field accepts, one by one."""
    union = typing.get_origin(field.annotation) in (Union, types.UnionType)
    return typing.get_args(field.annotation) if union else (field.annotation,)


def takes_list(field: FieldInfo) -> bool:
    """Whether the flag of this field may be repeated."""
    return any(typing.get_origin(kind) is list for kind in members(field))


def expected(field: FieldInfo) -> str:
    """What a field accepts, in plain words."""
    bounds = ", ".join(words for words in map(_bound, field.metadata) if words)
    kinds = [_in_words(kind) for kind in members(field)]
    if bounds:
        kinds = [f"{words} {bounds}" if "number" in words else words for words in kinds]
    return " or ".join(kinds)


def _in_words(kind: Any) -> str:
    plain = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "none"}
    if kind in plain:
        return plain[kind]
    if typing.get_origin(kind) is Literal:
        choices = [str(choice) for choice in typing.get_args(kind)]
        return f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0]
    inner = typing.get_args(kind)
    if kind is dict or typing.get_origin(kind) is dict:
        return "a mapping"
    if isinstance(inner[0], type) and issubclass(inner[0], BaseModel):
        return f"text, a mapping with {next(iter(inner[0].model_fields))}, or a list of them"
    return f"a list of {_in_words(inner[0]).removeprefix('one of ')}"


def _bound(limit: Any) -> str:
    names = {"Gt": "above {0.gt}", "Ge": "of at least {0.ge}", "Lt": "below {0.lt}", "Le": "of at most {0.le}"}
    return names.get(type(limit).__name__, "").format(limit)


def command(config: Config) -> str:
    """The one command line that says the same settings again, every default left out."""
    words = ["posttrain", *config.verb.split()]
    given = config.model_dump()
    implied = type(config).implied(given)
    for key, field in type(config).model_fields.items():
        value = getattr(config, key)
        default = implied.get(key, field.get_default(call_default_factory=True))
        if not field.is_required() and value == default:
            continue
        for item in value if isinstance(value, list) else [value]:
            words += _spoken(key, item)
    return shlex.join(words)


def _spoken(key: str, value: object) -> list[str]:
    if isinstance(value, bool):
        return [flag(key) if value else flag("no_" + key)]
    text = "none" if value is None else str(value)
    # A value that looks like a flag has to be tied to its own.
    return [f"{flag(key)}={text}"] if text.startswith("--") else [flag(key), text]
