"""The keys of `posttrain ab plan`."""

import warnings
from typing import ClassVar

from pydantic import Field, model_validator

from posttrain.recipes.config import Config

# pydantic has a deprecated method named json, which nothing here calls, and warns that the key hides it.
with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)

    class AbPlanConfig(Config):
        """How many users an A/B test takes, or how many comparisons."""

        verb: ClassVar[str] = "ab plan"
        headings: ClassVar[dict[str, str]] = {
            "baseline": "What is looked for",
            "share": "Users",
            "win_rate": "Comparisons instead (pick the better)",
            "seed": "Simulation",
        }

        baseline: float = Field(0.5, gt=0, lt=1, description="Mean of the votes on the model in use, 0 to 1.")
        difference: float = Field(0.05, gt=-1, lt=1, description="Least difference of means that matters.")
        power: float = Field(0.8, gt=0, lt=1, description="How surely such a difference is found.")
        alpha: float = Field(0.05, gt=0, lt=1, description="How often one is found where there is none.")
        share: float = Field(0.5, gt=0, lt=1, description="Share of users that the new model gets.")
        votes_per_user: int = Field(1, ge=1, le=1000, description="Votes of a user within the window, about.")
        icc: float = Field(
            0.0, ge=0, le=1, description="How alike the votes of one user are: 0 as strangers', 1 all equal."
        )
        users_per_day: float | None = Field(None, gt=0, description="New users who vote a day; says how many days.")
        win_rate: float | None = Field(None, gt=0, lt=1, description="Win rate to tell from 1/2; plans comparisons.")
        ties: float = Field(0.0, ge=0, lt=1, description="Share of ties among comparisons; a tie is half a win.")
        seed: int = Field(0, ge=0, description="Seed of the simulation.")
        json: bool = Field(False, description="Print one JSON object and nothing else.")  # type: ignore[assignment]

        @model_validator(mode="after")
        def _can_be(self) -> "AbPlanConfig":
            if self.win_rate is None and not 0 < self.baseline + self.difference < 1:
                raise ValueError("difference leads out of 0 to 1 from the baseline")
            if self.win_rate is None and not self.difference:
                raise ValueError("difference is 0, and no number of users finds that")
            if self.win_rate is not None and not 0 < abs(self.win_rate - 0.5) < (1 - self.ties) / 2:
                raise ValueError("win_rate is 1/2, or further from it than the ties leave room for")
            return self
