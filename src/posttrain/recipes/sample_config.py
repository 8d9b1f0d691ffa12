"""The keys of `posttrain sample`."""

from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from posttrain.recipes.config import Config
from posttrain.recipes.dataset_config import DatasetEntry, as_entries
from posttrain.recipes.ray_config import RayKeys

KEEPING = (
    "keep",
    "correct_at",
    "distinct_paths",
    "max_per_prompt",
    "min_pass_rate",
    "max_pass_rate",
    "conversations",
    "pairs",
    "min_gap",
)


class SampleKeys(Config):
    """What is asked of which models, and what becomes of the answers."""

    model: list[str] = Field(
        default_factory=lambda: ["pocket"],
        description="Run folder, model or adapter folder, or Hugging Face name, repeatable; `pocket` is the base.",
    )
    dataset: list[DatasetEntry] = Field(
        description="Where prompts come from, repeatable: a file, a folder, a Hugging Face name, or `pocket`."
    )
    max_samples: int | None = Field(None, ge=1, description="Use at most this many prompts.")

    num_samples: int = Field(4, ge=1, le=1024, description="Answers to each prompt from each model.")
    temperature: float = Field(1.0, ge=0, description="Randomness of answers; 0 always takes the likeliest token.")
    top_p: float = Field(1.0, gt=0, le=1, description="Sample only from the likeliest tokens that make up this share.")
    max_new_tokens: int = Field(256, ge=1, description="Longest answer, in tokens.")
    seed: int = Field(0, ge=0, description="Seed of the sampling: an answer depends on it, the prompt and its number.")
    batch_size: int = Field(32, ge=1, description="Answers written at the same time.")

    output: str | None = Field(None, min_length=1, description="File to write: a row a prompt, ending in .jsonl.")
    store: str | None = Field(
        None, min_length=1, description="Instead of output, a store: runs/feedback.db or postgresql://user@host/name."
    )
    overlap: int = Field(1, ge=1, description="In a store, how many people are to compare the answers to a prompt.")
    overwrite: bool = Field(False, description="Begin output anew; otherwise answers that it lacks are added.")

    reward: list[str] = Field(
        default_factory=list,
        description="What grades answers, repeatable: numeric, format, my.py:score ... with =WEIGHT behind it.",
    )
    keep: Literal["all", "correct", "best"] = Field(
        "correct", description="Of the graded answers: all, those that earn correct_at, or the best of each prompt."
    )
    correct_at: float = Field(1.0, description="An answer is correct whose reward is at least this.")
    distinct_paths: bool = Field(
        False, description="Of answers to one prompt with the same equations in the same order keep the first."
    )
    max_per_prompt: int | None = Field(
        None, ge=1, description="Keep at most this many answers of a prompt; left out, all, and of the best one."
    )
    min_pass_rate: float = Field(0.0, ge=0, le=1, description="Leave out prompts answered correctly less often.")
    max_pass_rate: float = Field(1.0, ge=0, le=1, description="Leave out prompts answered correctly more often.")
    conversations: str | None = Field(
        None, min_length=1, description="File of what is kept, for `posttrain sft`; left out, beside output."
    )

    pairs: Literal["none", "best_worst", "best_random", "all"] = Field(
        "none", description="Write pairs of graded answers too, beside output: to x.preferences.jsonl for x.jsonl."
    )
    min_gap: float = Field(0.0, ge=0, description="Pairs need rewards that differ by more than this.")

    @property
    def preferences_path(self) -> str:
        """Where pairs go: answers.jsonl has answers.preferences.jsonl beside it."""
        return f"{str(self.output).removesuffix('.jsonl')}.preferences.jsonl"

    @property
    def conversations_path(self) -> str:
        """Where kept answers go: answers.jsonl has answers.conversations.jsonl beside it."""
        return self.conversations or f"{str(self.output).removesuffix('.jsonl')}.conversations.jsonl"

    @field_validator("reward", mode="before")
    @classmethod
    def _rewards(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @field_validator("dataset", mode="before")
    @classmethod
    def _entries(cls, value: object) -> object:
        return as_entries(value)

    @field_validator("model", mode="before")
    @classmethod
    def _models(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if not self.model:
            raise ValueError("model is empty: name a run folder, a model folder or `pocket`")
        if len(set(self.model)) < len(self.model):
            raise ValueError("model names one model twice; name each once, and ask for more answers with num_samples")
        if not self.dataset:
            raise ValueError("dataset is empty: name a file, a folder or `pocket`")
        if (self.output is None) == (self.store is None):
            raise ValueError("output needs a file (ending in .jsonl), or else store a database; give one of the two")
        if self.output is not None and not self.output.endswith(".jsonl"):
            raise ValueError(f"output is {self.output!r}, expected a file that ends in .jsonl")
        if self.overwrite and self.store is not None:
            raise ValueError("overwrite is given beside store: votes hang on what a store holds; name another store")
        self._agree_on_keeping()
        if self.temperature == 0 and self.num_samples > 1:
            raise ValueError(
                "temperature is 0, which gives the same answer every time: raise it, or set num_samples to 1"
            )
        return self

    def _agree_on_keeping(self) -> None:
        if self.reward and self.output is None:
            raise ValueError("reward is given beside store: graded answers go to a file; give output instead of store")
        given = [key for key in KEEPING if getattr(self, key) != type(self).model_fields[key].default]
        if given and not self.reward:
            raise ValueError(
                f"{given[0]} is given and reward is not: say what grades the answers, as in reward: numeric"
            )
        if self.conversations is not None and self.conversations in (self.output, self.preferences_path):
            raise ValueError(
                f"conversations is {self.conversations!r}, where other things are written: name a file of its own"
            )
        if self.min_gap and self.pairs == "none":
            raise ValueError("min_gap is given and pairs is none: say which pairs, as in pairs: best_worst")
        if self.min_pass_rate > self.max_pass_rate:
            raise ValueError(
                f"min_pass_rate is {self.min_pass_rate:g}, above max_pass_rate {self.max_pass_rate:g}: nothing is left"
            )


class SampleConfig(RayKeys, SampleKeys):
    """Answers of one or more models to the same prompts, for people, judges or reward models to compare."""

    verb: ClassVar[str] = "sample"
    headings: ClassVar[dict[str, str]] = {
        "model": "models and prompts",
        "num_samples": "sampling",
        "output": "output",
        "reward": "keeping what is good (rejection sampling)",
        "ray": "more than one process or machine",
    }
