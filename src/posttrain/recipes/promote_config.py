"""The keys of `posttrain promote`."""

from typing import ClassVar, Self

from pydantic import Field, model_validator

from posttrain.recipes.config import Config


class PromoteConfig(Config):
    """Put a model into a live folder, which a server follows."""

    verb: ClassVar[str] = "promote"
    positional: ClassVar[str | None] = "model"

    model: str = Field("", description="Run folder or model folder that is to take the traffic; copied whole.")
    to: str = Field("runs/live", min_length=1, description="Live folder: versions, and `good`, which names one.")
    back: bool = Field(False, description="Go back to the version that was live before this one instead.")
    note: str = Field("", max_length=500, description="Why, in a sentence; kept in history.jsonl.")
    output_dir: str | None = Field(None, description="Folder for promoted.json, what was done; left out, none.")

    @model_validator(mode="after")
    def _one_or_the_other(self) -> Self:
        if bool(self.model) == self.back:
            raise ValueError("model is needed, as in `posttrain promote runs/dpo --to runs/live`, or else --back")
        return self
