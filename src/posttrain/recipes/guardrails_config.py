"""The keys of a file of guardrails, one class for each kind of rule."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from posttrain.recipes.config import Config
from posttrain.recipes.text_model_config import VARIABLE
from posttrain.types import ROLES

Words = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class RuleKeys(Config):
    """What every rule has."""

    what: ClassVar[str] = "a rule"
    """What the rule looks at, for the sentence that a user is told."""

    name: Words = Field(description="Short name, for the log.")
    kind: str = Field(description="Kind of rule: pattern, topics, personal_data, length, classifier, judge.")
    on: Literal["input", "output", "both"] = Field("both", description="What users write, what the model answers.")
    action: Literal["refuse", "redact"] = Field("refuse", description="Refuse the text, or blot the find out.")
    message: Words | None = Field(None, description="The sentence that the user is told; never the pattern.")
    roles: tuple[str, ...] = Field(("user",), description="Messages of the input that are looked at, by their role.")
    look_at: Literal["last", "all"] | None = Field(
        None,
        description="The last message of each role and what follows the last answer, or all (of redact).",
    )

    @property
    def looks_at(self) -> str:
        """`last` or `all`. Clients send what was said before again and again, as it was written: what is blotted out
        is blotted out everywhere."""
        return self.look_at or ("all" if self.action == "redact" else "last")

    def told(self, where: str) -> str:
        """What the user is told. `where`: 'input' or 'output'."""
        if self.message:
            return self.message
        if self.action == "redact":
            whose = "what you wrote before the model saw it" if where == "input" else "this answer"
            return f"A rule of this service on {self.what} took something out of {whose}."
        if where == "output":
            return f"This answer was stopped by a rule of this service on {self.what}. Ask for it in another way."
        return f"This was refused by a rule of this service on {self.what}. Change that and send it again."

    @field_validator("roles", mode="before")
    @classmethod
    def _one(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @field_validator("roles")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = next((role for role in value if role not in ROLES), None)
        if unknown is not None or not value:
            raise ValueError(f"roles has {unknown!r}, expected some of {', '.join(ROLES)}")
        return value

    def _refuses(self, why: str) -> None:
        if self.action != "refuse":
            raise ValueError(f"action is {self.action!r}, and {why}: take refuse")


class PatternKeys(RuleKeys):
    """Phrases or regular expressions, in folded text."""

    what: ClassVar[str] = "certain words"

    phrases: list[Words] = Field(default_factory=list, description="Phrases, in any case and spelling of letters.")
    regex: list[Words] = Field(default_factory=list, description="Regular expressions, in Python's notation.")
    holds: int | None = Field(
        None, ge=1, le=2000, description="How often a repeat without an end (*, +) goes on at most."
    )
    word_borders: bool = Field(True, description="A phrase is no part of a longer word.")
    replacement: str = Field("[removed]", description="What stands in the place of what is blotted out.")

    @field_validator("phrases", "regex", mode="before")
    @classmethod
    def _list(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not (self.phrases or self.regex):
            raise ValueError("phrases or regex is needed: say what is looked for")
        return self


class PersonalDataKeys(RuleKeys):
    """E-mail addresses, numbers of cards and accounts, keys and the like."""

    what: ClassVar[str] = "personal data and secrets"

    action: Literal["refuse", "redact"] = Field("redact", description="Blot it out, or refuse the text.")
    every: int = Field(80, ge=20, le=5000, description="Characters of an answer that are looked at together.")


class LengthKeys(RuleKeys):
    """How long a text may be."""

    what: ClassVar[str] = "length"

    max_characters: int = Field(ge=1, description="Characters that a message, or an answer, may have at most.")

    @model_validator(mode="after")
    def _no_redaction(self) -> Self:
        self._refuses("a length has nothing to blot out")
        return self


class AskedKeys(RuleKeys):
    """How a model is asked about a text."""

    every: int = Field(200, ge=20, le=20000, description="Characters of an answer that are looked at together.")
    window: int = Field(2000, ge=0, le=100000, description="Characters in front of them that the model sees as well.")
    timeout_s: float = Field(10.0, gt=0, description="Seconds that an opinion may take.")
    on_error: Literal["refuse", "allow"] = Field(
        "refuse", description="What happens to the text where the model is away, or takes too long."
    )

    @model_validator(mode="after")
    def _no_redaction(self) -> Self:
        self._refuses("an opinion of a whole passage says not what to blot out")
        return self


class ClassifierKeys(AskedKeys):
    """A sequence classifier or a reward model, and a threshold."""

    what: ClassVar[str] = "content"

    model: Words = Field(description="Folder or Hugging Face name of a sequence classifier, or of a reward model.")
    labels: list[Words] = Field(
        default_factory=list, description="Labels whose probabilities are added up; of two labels the second."
    )
    threshold: float = Field(0.5, description="The score from which on a text is refused.")
    refuse_below: bool = Field(False, description="Refuse below the threshold instead: a reward model's are good.")


class JudgeRuleKeys(AskedKeys):
    """A model that is asked a question about the text."""

    what: ClassVar[str] = "content"

    question: Words = Field(description="What the model is asked about the text; answered by yes or no.")
    refuse_if: Literal["yes", "no"] = Field("yes", description="The answer that refuses the text.")
    model: Words = Field(description="Model folder, Hugging Face name, or a server's name for its model.")
    url: Words | None = Field(None, description="Address of an OpenAI-compatible server, ending in /v1.")
    api_key_env: str | None = Field(None, description="Name of the environment variable with the server's API key.")

    @model_validator(mode="after")
    def _server(self) -> Self:
        return _with_server(self)


class TopicsKeys(AskedKeys):
    """Topics that are refused, or the only ones that are allowed."""

    what: ClassVar[str] = "topics"

    refused: dict[str, list[Words]] | list[Words] = Field(
        default_factory=list, description="Topics that are refused: each with its phrases, or names for a model."
    )
    allowed: dict[str, list[Words]] | list[Words] = Field(
        default_factory=list, description="The only topics that are allowed, in the same way."
    )
    min_words: int = Field(4, ge=0, description="Messages of fewer words have no topic, where phrases decide.")
    model: Words | None = Field(None, description="Judge that is asked whether a text is about these topics.")
    url: Words | None = Field(None, description="Address of an OpenAI-compatible server that has the judge.")
    api_key_env: str | None = Field(None, description="Name of the environment variable with the server's API key.")
    classifier: Words | None = Field(None, description="Sequence classifier whose labels are the topics.")
    threshold: float = Field(0.5, ge=0, le=1, description="Probability from which on a text is about the topics.")

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if bool(self.refused) == bool(self.allowed):
            raise ValueError("refused or allowed is needed, one of the two: name the topics")
        key = "refused" if self.refused else "allowed"
        if isinstance(self.refused or self.allowed, dict) == self.asks:
            raise ValueError(
                f"{key} is "
                + ("a list of names" if not self.asks else "a mapping to phrases")
                + ", expected "
                + ("a list of names, since a model decides" if self.asks else "`topic: [phrases]`, or name a model")
            )
        if self.model and self.classifier:
            raise ValueError("classifier and model are both given: name one that decides")
        if self.allowed and not self.asks and self.on != "input":
            raise ValueError(f"on is {self.on!r}, and phrases tell a topic of whole messages alone: take input")
        return _with_server(self)

    @property
    def asks(self) -> bool:
        """Whether a model decides."""
        return bool(self.model or self.classifier)


class FileKeys(Config):
    """What stands around the rules."""

    version: Literal[1] = Field(1, description="Version of this layout.")
    description: str = Field("", description="What the rules are for.")
    log: str | None = Field("runs/guardrails.jsonl", min_length=1, description="File for the decisions; null: none.")
    log_text: bool = Field(False, description="Put the refused texts into the log as well.")
    log_allowed: bool = Field(False, description="Log what is allowed, too.")
    rules: list[Any] = Field(min_length=1, description="The rules, in the order in which they are asked.")


KINDS: dict[str, type[RuleKeys]] = {
    "pattern": PatternKeys,
    "topics": TopicsKeys,
    "personal_data": PersonalDataKeys,
    "length": LengthKeys,
    "classifier": ClassifierKeys,
    "judge": JudgeRuleKeys,
}


def _with_server(keys: Any) -> Any:
    if keys.url and not keys.model:
        raise ValueError("url is given and model is not: say what the server calls its model")
    if keys.api_key_env is not None and not VARIABLE.fullmatch(keys.api_key_env):
        raise ValueError("api_key_env is no name of an environment variable; the API key itself belongs into that one")
    if keys.api_key_env and not keys.url:
        raise ValueError("api_key_env is given and url is not: say which server the key is for")
    return keys
