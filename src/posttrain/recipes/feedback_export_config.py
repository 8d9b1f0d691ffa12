"""The keys of `posttrain feedback export`."""

from typing import ClassVar, Literal

from pydantic import Field

from posttrain.recipes.config import Config


class FeedbackExportConfig(Config):
    """A preference store as a file."""

    verb: ClassVar[str] = "feedback export"
    positional: ClassVar[str | None] = "output"

    output: str = Field(min_length=1, description="File to write: lines of JSON, or an array where it ends in .json.")
    store: str = Field(
        "runs/feedback.db", min_length=1, description="Store: a file, or postgresql://user@host/database."
    )
    format: Literal["ranking", "preference", "rating", "store", "argilla", "label-studio"] = Field(
        "ranking", description="Layout of the rows; `store` is everything, to be imported again."
    )
    aggregate: Literal["soft", "pairs"] = Field(
        "soft", description="What people who disagree make of a pair: a soft label, or the majority."
    )
