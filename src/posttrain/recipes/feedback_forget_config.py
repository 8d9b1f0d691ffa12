"""The keys of `posttrain feedback forget`."""

from typing import ClassVar

from pydantic import Field

from posttrain.recipes.config import Config


class FeedbackForgetConfig(Config):
    """Delete what a preference store holds of a user who was served."""

    verb: ClassVar[str] = "feedback forget"

    store: str = Field(
        "runs/feedback.db", min_length=1, description="Store: a file, or postgresql://user@host/database."
    )
    user: str = Field(
        min_length=1,
        description="The user: as the chat page's settings show it, a request named it, or the store does.",
    )
    key_name: str = Field(
        "local", min_length=1, description="Name of the API key that they came with; local: the server asked for none."
    )
