"""The keys of `posttrain guard`."""

from typing import ClassVar, Literal

from pydantic import Field, field_validator

from posttrain.recipes.config import Config
from posttrain.types import ROLES


class GuardConfig(Config):
    """What a file of guardrails makes of texts, without a server."""

    verb: ClassVar[str] = "guard"
    headings: ClassVar[dict[str, str]] = {"rules": "what is tried", "text_field": "the rows", "show": "output"}

    rules: str = Field("examples/serving/guardrails.yaml", min_length=1, description="File of guardrails, YAML.")
    input: list[str] = Field(
        default_factory=list,
        description="File of texts (jsonl, csv, json, parquet); may be repeated. None: read the rules.",
    )
    on: Literal["input", "output"] = Field("input", description="Try them as what users write, or as answers.")
    role: str = Field("user", description="Role of the texts on the input; tool for the results of tools.")
    max_samples: int | None = Field(None, ge=1, description="Use at most this many texts.")

    text_field: str = Field("text", min_length=1, description="Field with the text, or with `messages`.")
    refuse_field: str = Field("refuse", min_length=1, description="Field that says whether the text is to be refused.")
    refuse_value: str = Field(
        "true", min_length=1, description="What that field holds where it is; anything else is to be allowed."
    )

    show: int = Field(20, ge=0, description="Texts to print with what they meet, refused and changed ones first.")
    log: str | None = Field(None, min_length=1, description="File for the decisions, as a server would write it.")
    output: str | None = Field(None, min_length=1, description="File for the figures, JSON.")

    @field_validator("input", mode="before")
    @classmethod
    def _one(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @field_validator("role")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in ROLES:
            raise ValueError(f"role is {value!r}, expected one of {', '.join(ROLES)}")
        return value
