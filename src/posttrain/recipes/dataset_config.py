"""One entry of `dataset:`, for every verb that reads data."""

import json
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class DatasetEntry(BaseModel):
    """Where rows come from and how much they count. A plain text is an entry with nothing but its path."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    path: str = Field(min_length=1, description="File, folder, glob, Hugging Face dataset name, or `pocket`.")
    name: str | None = Field(None, description="Configuration of a Hugging Face dataset.")
    split: str = Field("train", description="Split of a Hugging Face dataset.")
    columns: dict[str, str] = Field(default_factory=dict, description="Our field: the name that the data has for it.")
    weight: float | None = Field(None, gt=0, description="Share of the mixture, relative to the other entries.")
    epochs: float | None = Field(None, gt=0, description="Passes over this entry in one epoch of the run.")
    max_samples: int | None = Field(None, ge=1, description="Use at most this many samples of it.")

    @model_validator(mode="after")
    def _one_measure(self) -> Self:
        if self.weight is not None and self.epochs is not None:
            raise ValueError("weight is given beside epochs: keep one, both say how often an entry is met")
        return self

    def __str__(self) -> str:
        """How it is written on the command line: the path, or a JSON object."""
        given = self.model_dump(exclude_defaults=True)
        return self.path if set(given) == {"path"} else json.dumps(given, ensure_ascii=False)


def as_entries(value: object) -> object:
    """What a recipe or a flag says, as a list of mappings: one text or a list of them, JSON objects among them."""
    items = value if isinstance(value, list) else [] if value == "" else [value]
    return [_as_mapping(item) for item in items]


def _as_mapping(item: object) -> object:
    if not isinstance(item, str):
        return item
    if item.lstrip().startswith("{"):
        try:
            found: Any = json.loads(item)
        except ValueError as error:
            raise ValueError(f"dataset holds {item!r}, which is no JSON object: {error}") from None
        return found
    return {"path": item}
