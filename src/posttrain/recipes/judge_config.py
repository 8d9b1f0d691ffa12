"""The keys of `posttrain judge`, and those by which every verb makes a judge."""

from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from posttrain.recipes.dataset_config import DatasetEntry, as_entries
from posttrain.recipes.ray_config import RayKeys
from posttrain.recipes.text_model_config import JudgeKeys

MODES = ("pairwise", "rating", "rubric")


class JudgingKeys(JudgeKeys):
    """How a judge is asked. Two verbs with the same of these keys have the same judge."""

    how: Literal["options", "words", "thought"] | None = Field(
        None, description="Options' probability, words, or a thought first; left out, words on a server, else options."
    )
    wording: str = Field("full", min_length=1, description="Words of the question: full, short, completion, or a file.")
    principles: list[str] = Field(
        default_factory=list, description="Judge by principles, repeatable: a constitution's file, or a text."
    )
    num_principles: int | None = Field(
        None, ge=1, description="Principles drawn for each pair, their verdicts averaged; left out, all of them."
    )
    num_votes: int = Field(1, ge=1, le=64, description="Verdicts drawn for each question, averaged.")
    judge_temperature: float | None = Field(
        None, ge=0, description="Randomness of verdicts; left out, 0 for one vote and 1 for several."
    )
    judge_max_new_tokens: int = Field(512, ge=1, description="Longest verdict in words, in tokens.")
    judge_seed: int = Field(0, ge=0, description="Seed of the verdicts and of the principles drawn.")
    clamp: float = Field(
        0.4, ge=0, le=0.5, description="After a thought, probabilities stay between this and 1 minus this."
    )
    max_chars: int | None = Field(None, ge=1, description="Longest text that the judge is shown, in characters.")
    truncation: Literal["abstain", "keep_start"] = Field(
        "abstain", description="What becomes of longer texts: no verdict, or shown up to max_chars."
    )

    @property
    def asked_how(self) -> str:
        """How the judge is asked: where nothing is said, by probabilities here and in words on a server, since not
        every server gives probabilities."""
        return self.how or ("words" if self.judge_url else "options")

    @model_validator(mode="after")
    def _votes_differ(self) -> Self:
        if self.num_votes > 1 and self.judge_temperature == 0:
            raise ValueError(
                "judge_temperature is 0, which gives the same verdict every time: raise it, or set num_votes to 1"
            )
        return self

    @field_validator("principles", mode="before")
    @classmethod
    def _texts(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value


class JudgeVerbKeys(JudgingKeys):
    """What is judged, and what is written of it."""

    store: str | None = Field(
        None, min_length=1, description="Store whose items are judged, and which gets the votes: runs/feedback.db."
    )
    dataset: list[DatasetEntry] = Field(
        default_factory=list,
        description="Instead, answers from data, repeatable; its labels are people's word. Also copied to store.",
    )
    mode: Literal["pairwise", "rating", "rubric"] = Field(
        "pairwise", description="Compare two answers, rate each on a scale, or rate each line of a rubric."
    )
    rubric: list[str] = Field(default_factory=list, description="Lines of the rubric, each rated for itself.")
    max_samples: int | None = Field(None, ge=1, description="Judge answers to at most this many prompts.")
    max_pairs: int | None = Field(None, ge=1, description="Compare at most this many pairs of one prompt, drawn.")

    num_null_prompts: int = Field(
        16, ge=0, description="Prompts on which answers that say nothing are set against real ones; 0 for none."
    )
    min_people: int = Field(
        50, ge=1, description="Pairs with people's ballots that it takes to call the judge calibrated."
    )

    output_dir: str = Field("runs/judge", min_length=1, description="Folder for judge.json and report.html.")
    preferences: bool = Field(
        True, description="Write preferences.jsonl to output_dir: pairs to train on, with chosen_probability."
    )
    keep_ties: bool = Field(False, description="In preferences.jsonl keep pairs that the judge calls equal.")
    chunk: int = Field(64, ge=1, description="Pairs or answers that are asked at a time; votes are kept after each.")

    @field_validator("dataset", mode="before")
    @classmethod
    def _entries(cls, value: object) -> object:
        return as_entries(value)

    @field_validator("rubric", mode="before")
    @classmethod
    def _rubric_lines(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.store is None and not self.dataset:
            raise ValueError("store or dataset is needed: name a store, as in runs/feedback.db, or a file of answers")
        if (self.mode == "rubric") != bool(self.rubric):
            raise ValueError("rubric goes with mode rubric: give its lines, or leave both out")
        if self.mode != "pairwise" and self.principles:
            raise ValueError("principles compare two answers; for a rating give rubric, with mode rubric")
        if self.num_principles is not None and not self.principles:
            raise ValueError("num_principles is given and principles are not: name a constitution's file")
        return self


class JudgeConfig(RayKeys, JudgeVerbKeys):
    """A model as a judge of answers, and a report on how far it can be trusted."""

    verb: ClassVar[str] = "judge"
    positional: ClassVar[str | None] = "judge"
    headings: ClassVar[dict[str, str]] = {
        "store": "what is judged",
        "judge": "the judge",
        "how": "how it is asked",
        "num_null_prompts": "how far it can be trusted",
        "concurrency": "server",
        "output_dir": "output",
        "ray": "more than one process or machine",
    }
