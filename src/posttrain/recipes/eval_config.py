"""The keys of `posttrain eval`."""

from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from posttrain.recipes.config import Config
from posttrain.recipes.dataset_config import DatasetEntry, as_entries
from posttrain.recipes.ray_config import RayKeys
from posttrain.recipes.tools_config import ToolKeys


class QuestionKeys(Config):
    """What is asked of which model, and what is right."""

    model: str = Field("pocket", description="Run folder, model or adapter folder, or Hugging Face name.")
    dataset: list[DatasetEntry] = Field(
        default_factory=list,
        description="Questions with gold answers, repeatable: a file, a folder, a Hugging Face name, or `pocket`.",
    )
    max_samples: int | None = Field(None, ge=1, description="Ask at most this many questions.")
    reward: str = Field(
        "numeric", min_length=1, description="What judges an answer, named as in `posttrain grpo`: numeric, exact, ..."
    )
    right_at: float = Field(1.0, description="An answer is right whose reward is at least this.")
    by: str = Field("kind", description="Field of the questions to break the figures down by, where they have it.")


OF_QUESTIONS = (
    "reward", "right_at", "by", "num_shots", "shots", "shots_dataset", "system_prompt", "top_p", "top_k", "min_p",
    "max_new_tokens", "stop_strings", "tools",
)  # fmt: skip
"""What a suite's tasks say themselves."""


class SuiteKeys(Config):
    """Which suites a model takes, and what its figures are held against."""

    suite: list[str] = Field(
        default_factory=list,
        description="In place of dataset, repeatable: pocket, gsm8k, truthfulqa, ..., file.yaml, file.py:function.",
    )
    task: list[str] = Field(default_factory=list, description="Only these tasks of the suite, repeatable.")
    limit: int | None = Field(None, ge=1, description="At most so many items of each task, drawn by the seed.")
    data: list[str] = Field(
        default_factory=list, description="NAME=PATH: where the items of a built-in task are, repeatable."
    )
    shift: list[str] = Field(
        default_factory=list,
        description="Ask all again so, repeatable: typos, case, punctuation, paraphrase, long_context, of shift_data.",
    )
    shift_data: str | None = Field(
        None, description="File of wordings for shift, rows {prompt, kind, text, answer}: any kind, any language."
    )
    against: str | None = Field(
        None, description="Another model, or an earlier evaluation (folder or eval.json), to compare with in pairs."
    )
    gates: list[str] = Field(
        default_factory=list, description="What figures must be, repeatable: 'pocket.facts >= 0.6'; else exit code 1."
    )


class EvalKeys(ToolKeys, SuiteKeys, QuestionKeys):
    """How questions are put and answered, and where the figures go."""

    num_shots: int = Field(0, ge=0, description="Worked examples put before every question, the same for all.")
    shots: Literal["worked", "answer"] = Field(
        "worked", description="Examples with their steps (chain of thought), or with the answer alone."
    )
    shots_dataset: list[DatasetEntry] = Field(
        default_factory=list, description="Where examples come from; left out, the training rows of dataset."
    )
    system_prompt: str | None = Field(None, description="Text of a system turn before everything.")

    num_samples: int = Field(1, ge=1, le=1024, description="Answers to each question; several give pass@k, majority@k.")
    temperature: float | None = Field(
        None, ge=0, description="Randomness; left out, 0 (the likeliest) for one answer and 1 for several."
    )
    top_p: float = Field(1.0, gt=0, le=1, description="Sample only from the likeliest tokens that make up this share.")
    top_k: int = Field(0, ge=0, description="Sample only from so many likeliest tokens; 0 from all.")
    min_p: float = Field(0.0, ge=0, le=1, description="Drop tokens less likely than this share of the likeliest.")
    max_new_tokens: int = Field(512, ge=1, description="Longest answer, in tokens.")
    stop_strings: list[str] = Field(default_factory=list, description="Text that ends an answer too; repeatable.")
    seed: int = Field(0, ge=0, description="Seed of the sampling and of which examples are shown.")
    sampler_slots: int = Field(64, ge=1, description="Answers written at the same time.")
    sampler_dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Precision of the weights; auto: bfloat16 where the hardware is fast at it."
    )

    output_dir: str = Field("runs/eval", min_length=1, description="Folder for answers.jsonl and eval.json.")
    overwrite_output_dir: bool = Field(
        False, description="Begin output_dir anew; otherwise what it has of these settings is not asked again."
    )

    @property
    def drawn_at(self) -> float:
        """The temperature, as it was given or by the number of answers."""
        return self.temperature if self.temperature is not None else float(self.num_samples > 1)

    @property
    def is_numeric(self) -> bool:
        """Whether answers are compared as numbers, so that they vote as such."""
        return self.reward.partition(":")[0] in ("numeric", "math")

    @field_validator("dataset", "shots_dataset", mode="before")
    @classmethod
    def _entries(cls, value: object) -> object:
        return as_entries(value)

    @field_validator("shift", mode="before")
    @classmethod
    def _kinds(cls, value: object) -> object:
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            return texts
        return list(dict.fromkeys(part.strip() for text in texts for part in text.split(",") if part.strip()))

    @field_validator("stop_strings", "suite", "task", "data", "gates", mode="before")
    @classmethod
    def _one(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _agree(self) -> Self:
        self._asks_one_thing()
        if self.temperature == 0 and self.num_samples > 1:
            raise ValueError(
                "temperature is 0, which gives the same answer every time: raise it, or set num_samples to 1"
            )
        if self.shots_dataset and not self.num_shots:
            raise ValueError("shots_dataset is given and num_shots is 0: say how many examples to show")
        return self

    def _asks_one_thing(self) -> None:
        if self.suite and self.dataset:
            raise ValueError("dataset is given beside suite: keep one, or name the dataset in a suite file")
        if not self.suite and not self.dataset:
            raise ValueError("dataset is empty, and so is suite: name a file, a folder or `pocket`, or a suite")
        alone = [name for name in SuiteKeys.model_fields if name != "suite" and getattr(self, name)]
        if alone and not self.suite:
            raise ValueError(f"{alone[0]} is given without a suite: name one, as in --suite pocket")
        if self.shift_data and not self.shift:
            raise ValueError("shift_data is given without shift: name the kinds of its rows, as in --shift spanish")
        if self.suite and self.max_samples is not None:
            raise ValueError("max_samples is given beside suite: a suite knows it as limit")
        fields = type(self).model_fields
        for name in OF_QUESTIONS if self.suite else ():
            if getattr(self, name) != fields[name].get_default(call_default_factory=True):
                raise ValueError(f"{name} is given beside suite: the tasks say it themselves; write a suite file")


class EvalConfig(RayKeys, EvalKeys):
    """Figures of a model with intervals: suites of tasks, or prompts with gold answers (accuracy, pass@k,
    majority@k)."""

    verb: ClassVar[str] = "eval"
    positional: ClassVar[str] = "model"
    headings: ClassVar[dict[str, str]] = {
        "model": "model and questions",
        "suite": "suites",
        "tools": "tools",
        "num_shots": "prompting",
        "num_samples": "answers",
        "output_dir": "output",
        "ray": "more than one process or machine",
    }
