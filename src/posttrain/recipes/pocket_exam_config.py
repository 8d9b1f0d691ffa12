"""The keys of `posttrain pocket exam`."""

from typing import ClassVar

from pydantic import Field

from posttrain.recipes.config import Config


class PocketExamConfig(Config):
    """The exam of the pocket world, for any model."""

    verb: ClassVar[str] = "pocket exam"
    positional: ClassVar[str | None] = "model"

    model: str = Field("pocket", description="Model folder or run folder to examine.")
    chat: bool | None = Field(
        None, description="Ask questions as a user's turn; left out, where the model has a chat template."
    )
    exam_items: int = Field(200, ge=1, description="Questions of each kind.")
    seed: int = Field(0, ge=0, description="Seed of the choice of questions.")
    output_file: str | None = Field(None, description="File for the figures as JSON.")
