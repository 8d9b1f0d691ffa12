"""The keys of `posttrain annotate`."""

from typing import ClassVar

from pydantic import Field, field_validator

from posttrain.recipes.config import Config


class AnnotateConfig(Config):
    """A web page on which a team compares answers."""

    verb: ClassVar[str] = "annotate"
    headings: ClassVar[dict[str, str]] = {
        "store": "What is compared",
        "annotators": "Who compares",
        "random_share": "What comes next",
        "host": "Where the page is",
    }

    store: str = Field(
        "runs/feedback.db", min_length=1, description="Store: a file, or postgresql://user@host/database."
    )
    input: list[str] = Field(
        default_factory=list, description="File of prompts with answers to add to the store; may be repeated."
    )
    answers: str = Field(
        "2..4", pattern=r"^[2-4](\.\.[2-4])?$", description="How many answers stand side by side: 2, or 2..4."
    )
    overlap: int = Field(
        2, ge=1, description="How many people compare each item; items of the store are widened to it."
    )
    annotators: list[str] = Field(
        default_factory=list, description="Names, with commas between them; those of the store stay without it."
    )
    new_tokens: bool = Field(False, description="Make new links for the annotators named; the old ones end.")
    guidelines: str | None = Field(None, description="Markdown file that stands beside the answers.")
    random_share: float = Field(0.1, ge=0, le=1, description="Share of items that chance chooses, as a control.")
    reward_model: list[str] = Field(
        default_factory=list, description="Reward models whose disagreement chooses; repeat it for an ensemble."
    )
    lease_minutes: float = Field(30.0, gt=0, description="Minutes without a sign of life until an item goes to others.")
    seed: int = Field(0, ge=0, description="Seed of the order of answers and of the control items.")
    host: str = Field(
        "127.0.0.1", min_length=1, description="Address to listen on; 0.0.0.0 lets others reach the page."
    )
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")

    @field_validator("annotators", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(one, str) for one in values):
            return value
        return list(dict.fromkeys(name.strip() for one in values for name in one.split(",") if name.strip()))

    @field_validator("answers")
    @classmethod
    def _rising(cls, value: str) -> str:
        if value[0] > value[-1]:
            raise ValueError(f"answers is {value!r}, expected the smaller number first")
        return value

    @property
    def num_answers(self) -> tuple[int, int]:
        """The fewest and the most answers of an item."""
        return int(self.answers[0]), int(self.answers[-1])
