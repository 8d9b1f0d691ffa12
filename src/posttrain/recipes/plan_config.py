"""The keys of `posttrain plan`. A recipe's own keys stand beside them, as its verb has them."""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, ClassVar, Literal, get_args

from pydantic import Field

from posttrain.errors import ConfigError
from posttrain.recipes.config import Config, read_yaml
from posttrain.recipes.dataset_config import DatasetEntry
from posttrain.verbs import VERBS

Stage = Literal["sft", "reward", "dpo", "kto", "orpo", "simpo", "cpo", "ppo", "grpo"]
STAGES: tuple[str, ...] = get_args(Stage)
NOTHING = "(none)"
"""The data of a plan that names none."""


class PlanKeys(Config):
    """What is planned, and for which machine."""

    stage: Stage | None = Field(None, description="Verb of the recipe; left out, known by its keys or its name.")
    hardware: str = Field("here", min_length=1, description="Devices, as in 8xH100-80G; `here` is this machine.")
    memory_gb: float | None = Field(None, gt=0, description="Memory of a device, in GiB, in place of the table's.")
    tflops: float | None = Field(None, gt=0, description="Dense bf16 TFLOP/s of a device, in place of the table's.")
    bandwidth_gbs: float | None = Field(None, gt=0, description="Memory bandwidth of a device, GB/s.")
    link_gbs: float | None = Field(None, gt=0, description="Link between devices of a node, GB/s one way.")
    net_gbs: float | None = Field(None, gt=0, description="Link of a device to other nodes, GB/s one way.")
    efficiency: float | None = Field(None, gt=0, le=1, description="Share of the peak that products reach.")
    host_gb: float | None = Field(None, gt=0, description="Main memory beside each device, in GiB, for offloading.")
    price_per_hour: float | None = Field(None, gt=0, description="Price of one device for an hour, in any currency.")
    answer_length: float | None = Field(
        None, gt=0, description="Mean tokens of an answer in RL; left out, max_completion_length."
    )
    read_data: bool = Field(True, description="Read the data for its lengths; off, rows are taken to be full.")
    probe: bool = Field(False, description="Run a few steps here first, in a process of its own, to correct the plan.")
    json_file: str | None = Field(None, min_length=1, description="Also write the plan to this file.")
    table: bool = Field(False, description="Print full, LoRA and QLoRA of 7B, 70B and 405B on 1 to 1,024 GPUs.")


class PlanConfig(PlanKeys):
    """What a recipe takes before it is run."""

    verb: ClassVar[str] = "plan"
    headings: ClassVar[dict[str, str]] = {
        "stage": "plan (and every key of the recipe's verb: posttrain plan recipe.yaml --help)"
    }

    @classmethod
    def meant(cls, words: Sequence[str]) -> type[Config]:
        """With the keys of the verb whose recipe these words name."""
        stage = _said(words)
        path = next((Path(word) for word in words if word.endswith((".yaml", ".yml"))), None)
        if stage is None and path is not None:
            stage = recognise(read_yaml(path)[0], path)
        return cls if stage not in STAGES else joined(str(stage))


def _said(words: Sequence[str]) -> str | None:
    for word, after in zip(words, [*words[1:], ""], strict=True):
        if word == "--stage":
            return after
        if word.startswith("--stage="):
            return word.partition("=")[2]
    return None


def recognise(values: dict[str, Any], path: Path) -> str:
    """The verb of a recipe: the one that knows all its keys; of several the one that its file or its folder of output
    is named after. Raises ConfigError where that leaves none or many."""
    if "stage" in values:
        return str(values["stage"])
    if "stages" in values:
        raise ConfigError(f"{path}: this is a recipe of several stages; plan them one by one.")
    own = set(PlanKeys.model_fields)
    known = {stage: set(config_of(stage).model_fields) for stage in STAGES}
    able = [stage for stage in STAGES if set(values) - own <= known[stage]]
    if len(able) == 1:
        return able[0]
    names = (path.stem, Path(str(values.get("output_dir", ""))).name)
    named = [stage for name in names for stage in STAGES if re.match(rf"{stage}(?![a-z0-9])", name)]
    named = [stage for stage in named if stage in able or not able]
    if named:
        return named[0]  # where a key is unknown, its verb says so
    if not able:
        raise ConfigError(f"{path}: its keys are those of no training verb; say which it is for: --stage sft.")
    raise ConfigError(f"{path}: this may be a recipe of {', '.join(able)}; say which: --stage {able[0]}.")


def config_of(stage: str) -> type[Config]:
    """The keys of a training verb."""
    found: type[Config] = resolve_name(VERBS[stage][0])
    return found


@cache
def joined(stage: str) -> type[Config]:
    """The keys of a verb and those of the plan, in one."""
    base: Any = config_of(stage)

    class JoinedConfig(base, PlanKeys):  # type: ignore[misc]
        """What a recipe takes before it is run."""

        known: ClassVar[str] = stage

        verb: ClassVar[str] = "plan"
        headings: ClassVar[dict[str, str]] = {**base.headings, **PlanConfig.headings}
        dataset: list[DatasetEntry] = Field(
            default_factory=lambda: [DatasetEntry(path=NOTHING)],
            description="As in the recipe; left out, rows are taken to be full.",
        )

    made: type[Config] = JoinedConfig
    return made
