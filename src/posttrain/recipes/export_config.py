"""The keys of `posttrain export`."""

from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from posttrain.recipes.config import Config
from posttrain.recipes.dataset_config import DatasetEntry, as_entries


class ExportConfig(Config):
    """Files for others to run, checked against the model in fp32; what is over a budget is rejected."""

    verb: ClassVar[str] = "export"
    positional: ClassVar[str | None] = "model"
    headings: ClassVar[dict[str, str]] = {
        "model": "what is written",
        "prompts": "the check",
        "suite": "suites that are taken again",
        "max_kl": "budgets (left out: those of each format)",
        "output_dir": "output",
    }

    model: str = Field(
        description="A run, model, adapter or pipeline folder, a Hugging Face name, or pocket.", min_length=1
    )
    format: list[str] = Field(
        default_factory=lambda: ["hf"],
        description="Repeatable: hf, adapter, gguf-f32 (f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0), int8, int4, nf4.",
    )
    dtype: Literal["bfloat16", "float16", "float32"] = Field(
        "bfloat16", description="Weights of the format hf, rounded after adapters are merged in fp32."
    )
    qlora_base: Literal["held", "plain"] | None = Field(
        None, description="Base of a QLoRA adapter: what its four bits stand for (held, default), or the plain one."
    )
    base_name: str = Field(
        "", description="Of the format adapter: the base that it names, a Hugging Face name; left out, as it is."
    )

    prompts: list[DatasetEntry] = Field(
        default_factory=list, description="Prompts of the check; left out, those of the pocket world."
    )
    num_prompts: int = Field(100, ge=2, description="So many of them, drawn by the seed.")
    max_new_tokens: int = Field(64, ge=1, description="Longest answer of the check, in tokens.")
    llama_cpp: Literal["auto", "yes", "no"] = Field(
        "auto", description="Check GGUF by llama.cpp itself: auto where llama-cpp-python is installed, yes: or stop."
    )

    suite: list[str] = Field(
        default_factory=list,
        description="Suites as of eval, repeatable; left out: the exam of a model of the pocket world, else none.",
    )
    task: list[str] = Field(default_factory=list, description="Only these tasks of them; repeatable.")
    data: list[str] = Field(default_factory=list, description="Data of a suite, NAME=PATH; repeatable.")
    limit: int | None = Field(100, ge=1, description="At most this many items of each kind of a task.")
    seed: int = Field(0, ge=0, description="Seed of the choice of prompts and items, and of sampled answers.")
    sampler_slots: int = Field(64, ge=1, description="Answers written at the same time.")

    max_kl: float | None = Field(None, ge=0, description="Mean forward KL from the model in fp32, nats a token.")
    max_flip_rate: float | None = Field(None, ge=0, le=1, description="Share of greedy answers that may differ.")
    max_drop: float | None = Field(None, ge=0, description="What a share of the suites may lose, 0.02 for 2 points.")

    output_dir: str = Field("runs/export", min_length=1, description="Folder of the exports, export.json, export.html.")
    overwrite_output_dir: bool = Field(False, description="Replace what an earlier export left in output_dir.")

    @property
    def merges_held(self) -> bool:
        """Whether an adapter is merged into what its base stood for in four bits; the format adapter is for the plain
        base, so all that is written beside it is too."""
        return (self.qlora_base or ("plain" if "adapter" in self.format else "held")) == "held"

    @field_validator("format", "suite", "task", "data", mode="before")
    @classmethod
    def _some(cls, value: object) -> object:
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list):
            return items
        return [part.strip() for item in items for part in (item.split(",") if isinstance(item, str) else [item])]

    @field_validator("prompts", mode="before")
    @classmethod
    def _entries(cls, value: object) -> object:
        return as_entries(value)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if not self.format:
            raise ValueError("format is empty: name at least one, as in --format gguf-q8_0")
        if len(set(self.format)) != len(self.format):
            raise ValueError("format names one format twice")
        if self.base_name and "adapter" not in self.format:
            raise ValueError("base_name is of the format adapter, which is not asked for")
        if self.qlora_base == "held" and "adapter" in self.format:
            raise ValueError("the format adapter is for the plain base: leave qlora_base out, or export it alone")
        return self
