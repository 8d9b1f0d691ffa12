"""What may be asked: OpenAI's bodies of chat completions, completions and votes, with the fields that vLLM adds.

Null means left out, as OpenAI's clients send it. Fields that nobody knows are let pass, as such servers do; see
`unknown`. Bounds that a server sets are in limits.py.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

MAX_SEED = 2**63 - 1
MAX_TOP = 20  # likeliest tokens beside a chosen one
MAX_NAME = 512  # characters of a name of a model, a user, an id
MAX_ID = 2**31 - 1


def _whole(value: Any) -> Any:
    """Refuses half characters, which no tokenizer and no database takes."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("a text in it holds half a character (a lone surrogate)") from None
    except (ValueError, RecursionError):
        raise ValueError("it holds what JSON cannot") from None
    return value


def _off(value: float | None) -> float | None:
    if value:
        raise ValueError("this server has no such penalty; leave it out, or give 0")
    return value


def _one(value: float | None) -> float | None:
    if value not in (None, 1):
        raise ValueError("this server has no such penalty; leave it out, or give 1")
    return value


Name = Annotated[str, Field(max_length=MAX_NAME)]
Stop = Annotated[str, Field(min_length=1, max_length=1_000)]
TokenId = Annotated[int, Field(ge=0, le=MAX_ID)]
NoPenalty = Annotated[float | None, AfterValidator(_off)]


class Body(BaseModel):
    """Base of what is asked. Unknown fields are let pass."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    @property
    def unknown(self) -> list[str]:
        """The names of the fields that have no meaning here."""
        return sorted(self.model_extra or {})


class WholeBody(Body):
    """Base of what is sent as one body."""

    @model_validator(mode="before")
    @classmethod
    def _characters(cls, value: Any) -> Any:
        return _whole(value)


class StreamOptions(Body):
    """`include_usage`: a last chunk says how many tokens there were."""

    include_usage: bool | None = None


class Asking(WholeBody):
    """What chats and texts have in common."""

    model: Name | None = Field(None, description="A name that /v1/models lists; left out, the server's first.")
    n: int | None = Field(None, ge=1, le=128, description="How many answers.")
    seed: int | None = Field(None, ge=-MAX_SEED, le=MAX_SEED, description="The same seed gives the same answer.")
    temperature: float | None = Field(None, ge=0, le=100, description="1 where it is left out; 0 is greedy.")
    top_p: float | None = Field(None, gt=0, le=1)
    max_tokens: int | None = Field(None, ge=0, le=MAX_ID)
    stop: Stop | list[Stop] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    presence_penalty: NoPenalty = Field(None, description="0 only.")
    frequency_penalty: NoPenalty = Field(None, description="0 only.")
    user: Name | None = Field(None, description="Who asks; hashed before anything sees it.")
    safety_identifier: Name | None = Field(None, description="The newer name of `user`.")
    store: bool | None = Field(None, description="The text may be kept and learned from.")
    metadata: dict[Annotated[str, Field(max_length=64)], Name] | None = Field(
        None, max_length=16, description="`replaces`: the id of an answer asked for again; `compare`: two to compare."
    )
    top_k: int | None = Field(None, ge=-1, le=MAX_ID, description="vLLM's: 0 or -1 is off.")
    min_p: float | None = Field(None, ge=0, le=1, description="vLLM's.")
    min_tokens: int | None = Field(None, ge=0, le=MAX_ID, description="vLLM's.")
    stop_token_ids: list[TokenId] | None = Field(None, max_length=1_000, description="vLLM's: more stop tokens.")
    ignore_eos: bool | None = Field(None, description="vLLM's: only the stop tokens that are named.")
    repetition_penalty: Annotated[float | None, AfterValidator(_one)] = Field(None, description="vLLM's: 1 only.")
    skip_special_tokens: bool | None = Field(None, description="vLLM's: true only.")
    return_token_ids: bool | None = Field(None, description="vLLM's: `token_ids` beside the text.")
    return_tokens_as_token_ids: bool | None = Field(None, description="vLLM's: log-probs name tokens `token_id:N`.")

    @field_validator("logit_bias")
    @classmethod
    def _of_ids(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        if value is not None and not all(key.isascii() and key.isdecimal() and len(key) < 10 for key in value):
            raise ValueError("its keys are token ids, written as text")
        return value

    @field_validator("skip_special_tokens")
    @classmethod
    def _skipped(cls, value: bool | None) -> bool | None:
        if value is False:
            raise ValueError("special tokens are never part of a text here; ask for return_token_ids")
        return value

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def who(self) -> str:
        """The user as the client names it; '' where it does not."""
        return self.safety_identifier or self.user or ""

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the counts of tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)


class TextPart(Body):
    """A part of a message; text alone is understood."""

    type: Literal["text"]
    text: str


class Function(Body):
    """What a call asks for. `arguments`: the text of a JSON object."""

    name: str = Field(min_length=1, max_length=128)
    arguments: str = "{}"


class Call(Body):
    """A tool call of an earlier answer."""

    id: Name = ""
    type: Literal["function"] = "function"
    function: Function


class ChatMessage(Body):
    """A turn. `developer` is OpenAI's newer name of `system`."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: Name | None = None
    tool_calls: list[Call] | None = None
    tool_call_id: Name | None = None
    reasoning_content: str | None = Field(None, description="vLLM's: what an assistant thought.")


class ToolFunction(Body):
    """A function that the model may call. `parameters`: a JSON schema."""

    name: str = Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(Body):
    """A tool that is offered."""

    type: Literal["function"] = "function"
    function: ToolFunction


class ResponseFormat(Body):
    """`text` alone can be had."""

    type: str = "text"

    @field_validator("type")
    @classmethod
    def _text(cls, value: str) -> str:
        if value != "text":
            raise ValueError("this server does not constrain what a model writes; 'text' is all that can be asked for")
        return value


class ChatRequest(Asking):
    """Body of POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1, le=MAX_ID)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP)
    tools: list[Tool] | None = Field(None, max_length=128)
    tool_choice: Literal["none", "auto"] | None = Field(None, description="`required` and named tools are refused.")
    parallel_tool_calls: bool | None = Field(None, description="false: the first call of an answer alone.")
    response_format: ResponseFormat | None = None
    continue_final_message: bool | None = Field(None, description="vLLM's: the last message, begun, is gone on with.")
    add_generation_prompt: bool | None = Field(None, description="vLLM's: false only beside continue_final_message.")

    @field_validator("tool_choice", mode="before")
    @classmethod
    def _choice(cls, value: Any) -> Any:
        if value == "required" or isinstance(value, dict):
            raise ValueError("a call cannot be forced here, as nothing constrains what a model writes; give 'auto'")
        return value

    @model_validator(mode="before")
    @classmethod
    def _old(cls, value: Any) -> Any:
        if isinstance(value, dict) and (value.get("functions") or value.get("function_call")):
            raise ValueError("`functions` is OpenAI's old way; offer `tools`")
        return value

    @property
    def num_top(self) -> int | None:
        """How many of the likeliest tokens are wanted beside each; None for no log-probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def limit(self) -> int | None:
        """The most tokens that are wanted."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class CompletionRequest(Asking):
    """Body of POST /v1/completions. `prompt`: text or token ids, one or many."""

    prompt: str | list[TokenId] | list[str] | list[list[TokenId]]
    logprobs: int | None = Field(None, ge=0, le=MAX_TOP)
    echo: bool | None = Field(None, description="The prompt stands before the answer, with its log-probabilities.")
    best_of: int | None = Field(None, ge=1, le=128, description="The same as n only.")
    suffix: str | None = Field(None, description="Not had here.")
    add_special_tokens: bool | None = Field(None, description="vLLM's: false for a text without a begin token.")

    @field_validator("suffix")
    @classmethod
    def _no_suffix(cls, value: str | None) -> str | None:
        if value:
            raise ValueError("this server cannot write towards a suffix; leave it out")
        return value

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts, each as text or as token ids."""
        if isinstance(self.prompt, str) or (self.prompt and isinstance(self.prompt[0], int)):
            return [self.prompt]  # type: ignore[list-item]
        return list(self.prompt)  # type: ignore[arg-type]


class FeedbackRequest(WholeBody):
    """Body of POST /v1/feedback: what a user says of an answer; see Vote in doors.py."""

    key: str = Field(min_length=8, max_length=100, description="Chosen by the client; sent again it is the same vote.")
    kind: Literal["up", "down", "better", "edit", "regenerated"]
    completion_id: str = Field(min_length=1, max_length=MAX_NAME)
    answer: int = Field(0, ge=0, le=1_000)
    over: list[tuple[Name, Annotated[int, Field(ge=0, le=1_000)]]] = Field(default_factory=list, max_length=16)
    text: str = Field("", max_length=100_000)
    comment: str = Field("", max_length=5_000)
    user: Name | None = None
    safety_identifier: Name | None = None


class LoadAdapterRequest(WholeBody):
    """Body of POST /v1/load_lora_adapter, as vLLM has it."""

    lora_name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    lora_path: str = Field(min_length=1, max_length=4_096)


class UnloadAdapterRequest(WholeBody):
    """Body of POST /v1/unload_lora_adapter."""

    lora_name: str = Field(min_length=1, max_length=MAX_NAME)
