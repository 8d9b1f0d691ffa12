"""The keys of `posttrain doctor`."""

from typing import ClassVar

from pydantic import Field

from posttrain.recipes.config import Config


class DoctorConfig(Config):
    """A check of the machine and of one model."""

    verb: ClassVar[str] = "doctor"
    positional: ClassVar[str | None] = "model"

    model: str = Field("pocket", description="Model folder or Hugging Face name to check as well.")
