"""The keys of `posttrain feedback import`."""

from typing import ClassVar, Literal

from pydantic import Field

from posttrain.recipes.config import Config


class FeedbackImportConfig(Config):
    """A file into a preference store; reading it again changes nothing."""

    verb: ClassVar[str] = "feedback import"
    positional: ClassVar[str | None] = "file"

    file: str = Field(min_length=1, description="File to read: a dump, Argilla, Label Studio, or any layout of data.")
    store: str = Field(
        "runs/feedback.db", min_length=1, description="Store: a file, or postgresql://user@host/database."
    )
    annotator: str = Field("", description="Whose ballots they are where the file names nobody (the file's name).")
    source: Literal["person", "judge", "verifier", "serving"] = Field(
        "person", description="What cast the ballots, where the file does not say."
    )
    prompt_field: str = Field("", description="Field with the prompt, in Argilla and Label Studio records.")
    answer_fields: list[str] = Field(
        default_factory=list, description="Fields with the answers, in Argilla and Label Studio records."
    )
    on_bad_rows: Literal["error", "skip"] = Field(
        "error", description="What a row that cannot be read does: end the import, or be listed."
    )
