"""What is answered, as the OpenAPI document describes it and as clients read it. Answers are built as plain mappings,
for speed; tests hold them against these models."""

from typing import Any, Literal

from pydantic import BaseModel


class ErrorDetail(BaseModel):
    """What went wrong. `param`: the field at fault."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorAnswer(BaseModel):
    """Body of every answer with an error status."""

    error: ErrorDetail


class UsageCounts(BaseModel):
    """Tokens of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class TopToken(BaseModel):
    """A token that might have stood in a place."""

    token: str
    logprob: float
    bytes: list[int] | None


class ChatToken(TopToken):
    """A token of an answer, with the likeliest in its place."""

    top_logprobs: list[TopToken]


class ChatLogprobs(BaseModel):
    """Log-probabilities of an answer's tokens, the stop token's with them."""

    content: list[ChatToken] | None
    refusal: None = None


class CalledFunction(BaseModel):
    """`arguments`: the text of a JSON object."""

    name: str
    arguments: str


class ToolCallAnswer(BaseModel):
    """A function that the model asks to run."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class AssistantMessage(BaseModel):
    """An answer. `refusal` is None: what a guard says is the content."""

    role: Literal["assistant"]
    content: str | None
    refusal: None = None
    tool_calls: list[ToolCallAnswer] | None = None


class ChatChoice(BaseModel):
    """One of the answers."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls", "content_filter"]
    token_ids: list[int] | None = None


class ChatAnswer(BaseModel):
    """Body of an answer that is not streamed."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageCounts
    prompt_token_ids: list[int] | None = None


class TextLogprobs(BaseModel):
    """Four lists, an entry for every token. `text_offset`: where it begins in the text."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(BaseModel):
    """One of the answers."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length", "content_filter"]
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None


class CompletionAnswer(BaseModel):
    """Body of an answer that is not streamed."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: UsageCounts


class ModelCard(BaseModel):
    """A model that is served. `max_model_len`, `root` and `parent` are vLLM's."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int
    root: str
    parent: str | None


class ModelList(BaseModel):
    """All models that are served."""

    object: Literal["list"]
    data: list[ModelCard]


class FeedbackAnswer(BaseModel):
    """A vote is kept."""

    kept: Literal[True]


class HealthAnswer(BaseModel):
    """`status`: 'ok', 'starting' or 'stopping'; the last two with HTTP status 503."""

    status: str


class Unloaded(BaseModel):
    """An adapter is served no more."""

    id: str
    object: Literal["model"]
    deleted: Literal[True]


ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorAnswer, "description": "What was wrong with the request."},
    "5XX": {"model": ErrorAnswer, "description": "What the server cannot do now."},
}
