"""The keys of `posttrain ab report`."""

import warnings
from typing import ClassVar

from pydantic import Field, field_validator

from posttrain.recipes.config import Config

# pydantic has a deprecated method named json, which nothing here calls, and warns that the key hides it.
with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)

    class AbReportConfig(Config):
        """How an A/B test stands, from the votes in a store."""

        verb: ClassVar[str] = "ab report"
        positional: ClassVar[str | None] = "store"

        store: str = Field("runs/feedback.db", min_length=1, description="Preference store: SQLite file or address.")
        assignments: str | None = Field(
            None,
            description="File of users and their arms that the server wrote; STORE.assignments.jsonl if it is there.",
        )
        test: str | None = Field(None, description="Name of the test; the last one by default.")
        arms: list[str] | None = Field(
            None,
            min_length=2,
            description="The models, the one in use first; from the assignments, else from the votes.",
        )
        shares: list[float] | None = Field(
            None, min_length=2, description="Of a fixed split without assignments: the arms' shares; equal by default."
        )
        mde: float = Field(0.05, gt=0, lt=1, description="Least difference of means that matters.")
        alpha: float = Field(0.05, gt=0, lt=1, description="How often a difference is found where there is none.")
        window_hours: float = Field(
            24.0, ge=0, description="A user counts once, by the votes in so many hours from the first; 0: by the first."
        )
        guards: list[str] = Field(
            default_factory=list, description="Kind of vote and by how much its share may grow, as regenerated:0.02."
        )
        output_dir: str | None = Field(None, description="Folder for report.html and ab.json.")
        json: bool = Field(False, description="Print one JSON object and nothing else.")  # type: ignore[assignment]

        @field_validator("arms")
        @classmethod
        def _are_different(cls, arms: list[str] | None) -> list[str] | None:
            if arms is not None and (len(set(arms)) < len(arms) or not all(arms)):
                raise ValueError("arms: two names are equal, or one is empty; a model is not compared with itself")
            return arms

        @field_validator("shares")
        @classmethod
        def _are_shares(cls, shares: list[float] | None) -> list[float] | None:
            if shares is not None and not all(0 < share < float("inf") for share in shares):
                raise ValueError("shares: expected numbers above 0")
            return shares

        @field_validator("guards")
        @classmethod
        def _are_guards(cls, guards: list[str]) -> list[str]:
            for guard in guards:
                kind, _, most = guard.rpartition(":")
                try:
                    is_share = 0 <= float(most) < 1
                except ValueError:
                    is_share = False
                if not kind or not is_share:
                    raise ValueError(f"guards: {guard!r} is not KIND:SHARE, as regenerated:0.02 is")
            return guards

        @property
        def guard_shares(self) -> dict[str, float]:
            """Kind of vote to by how much its share may grow."""
            return {kind: float(most) for kind, _, most in (guard.rpartition(":") for guard in self.guards)}
