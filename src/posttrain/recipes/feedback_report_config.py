"""The keys of `posttrain feedback report`."""

import warnings
from typing import ClassVar, Literal

from pydantic import Field

from posttrain.recipes.config import Config

# pydantic has a deprecated method named json, which nothing here calls, and warns that the key hides it.
with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)

    class FeedbackReportConfig(Config):
        """What the ballots of a store say so far."""

        verb: ClassVar[str] = "feedback report"
        positional: ClassVar[str | None] = "store"

        store: str = Field("runs/feedback.db", min_length=1, description="Preference store: SQLite file or address.")
        source: Literal["person", "judge", "verifier", "serving", "all"] = Field(
            "person", description="Whose ballots count."
        )
        json: bool = Field(False, description="Print one JSON object and nothing else.")  # type: ignore[assignment]
        seed: int = Field(0, ge=0, description="Seed of the bootstrap intervals.")
