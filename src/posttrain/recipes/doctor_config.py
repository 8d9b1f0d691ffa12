"""The keys of `posttrain doctor`."""

import warnings
from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from posttrain.recipes.config import Config
from posttrain.recipes.dataset_config import DatasetEntry, as_entries

# pydantic has a deprecated method named json, which nothing here calls, and warns that the key hides it.
with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)

    class DoctorConfig(Config):
        """A check of data, of a model, and of this machine."""

        verb: ClassVar[str] = "doctor"
        positional: ClassVar[str | None] = "dataset"
        headings: ClassVar[dict[str, str]] = {"dataset": "data", "model": "model", "fail_on": "output"}

        dataset: list[DatasetEntry] = Field(
            default_factory=list,
            description="File, folder, glob or Hugging Face name, repeatable; left out, the model is checked.",
        )
        eval_dataset: list[DatasetEntry] = Field(
            default_factory=list, description="Held-out data, to look for its rows in the training data."
        )
        max_length: int = Field(1024, ge=2, description="Longest sample in tokens that training will take.")
        train_on: Literal["all", "last"] = Field(
            "all", description="Which assistant turns of a conversation are trained."
        )
        max_rendered: int = Field(
            20_000, ge=1, description="Rows turned into tokens; of more, a sample, and that is said."
        )
        seed: int = Field(0, ge=0, description="Seed of the samples.")

        model: str = Field("pocket", description="Model folder or Hugging Face name; `pocket` is the embedded base.")
        chat_template: str | None = Field(
            None, description="Template for turns: a shipped name, a Jinja file, or `raw` for none; left out, its own."
        )
        num_loss_samples: int = Field(
            64, ge=0, description="Conversations measured under each template; 0 loads no weights."
        )

        fail_on: Literal["refuse", "warn"] = Field(
            "refuse", description="Exit with 1 at a refusal, or at a warning too."
        )
        json: bool = Field(False, description="Print one JSON object and nothing else.")  # type: ignore[assignment]
        examples: int = Field(3, ge=0, description="Samples to show with their tokens and weights.")
        output_dir: str = Field("runs/doctor", min_length=1, description="Folder to write the page doctor.html into.")

        @field_validator("dataset", "eval_dataset", mode="before")
        @classmethod
        def _entries(cls, value: object) -> object:
            return as_entries(value)

        @model_validator(mode="after")
        def _agree(self) -> Self:
            """A key that would be ignored in silence."""
            if self.eval_dataset and not self.dataset:
                raise ValueError("eval_dataset is given without dataset, so there is nothing to look for it in")
            return self
