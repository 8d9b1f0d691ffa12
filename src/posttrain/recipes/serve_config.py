"""The keys of `posttrain serve`."""

from typing import ClassVar, Literal

from pydantic import Field

from posttrain.recipes.config import Config


class ModelKeys(Config):
    """Which models answer."""

    models: list[str] = Field(
        default_factory=lambda: ["pocket"],
        description="Model, adapter or run folders; of a pipeline's folder the model that is `good`. May be repeated.",
    )
    served_model_name: list[str] = Field(
        default_factory=list, description="Their names in the API, in the same order; else the folders' names."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Precision of the weights; auto: bfloat16 where the machine is fast at it, else float32."
    )
    threads: int | None = Field(
        None, ge=1, description="Processors for the models; none: OMP_NUM_THREADS, or else all but one."
    )
    slots: int = Field(64, ge=1, description="Answers of a model that are written at a time; more of them wait.")
    max_queue: int = Field(256, ge=0, description="Answers that may wait; what comes beyond is told to come later.")
    max_positions: int | None = Field(
        None,
        ge=256,
        description="Tokens of all answers of a model whose keys and values are held; none: what 1 GiB has.",
    )
    adapters_root: str | None = Field(
        None, description="Adapters in folders below this one may be loaded at run time; none: no adapters may."
    )
    follow: bool = Field(True, description="Load the new model of a pipeline's folder when its `good` changes.")


class DoorKeys(Config):
    """Who may ask, how much, and for how long."""

    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on; 0.0.0.0 lets others in.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    api_key: list[str] = Field(
        default_factory=list, description="KEY or NAME:KEY; may be repeated. Better in a file, or POSTTRAIN_API_KEY."
    )
    api_key_file: str | None = Field(None, description="File of keys, a line NAME:KEY or NAME:sha256:HEX each.")
    allow_no_key: bool = Field(False, description="Listen for other machines without any API key.")
    allowed_hosts: list[str] = Field(
        default_factory=list, description="More names that this server goes by; * takes every one."
    )
    allowed_origins: list[str] = Field(
        default_factory=list, description="Pages from elsewhere that may ask, as https://name; * takes every one."
    )
    max_tokens: int = Field(0, ge=0, description="Longest answer, in tokens; 0: what the context has room for.")
    max_n: int = Field(16, ge=1, le=128, description="Most answers that one request may ask for.")
    max_body_mb: float = Field(4.0, gt=0, le=1024, description="Largest request, in megabytes.")
    max_requests: int = Field(512, ge=1, description="Requests under way at a time.")
    max_connections: int = Field(1024, ge=1, description="Connections at a time.")
    request_limit_s: float = Field(600.0, gt=0, description="Seconds that an answer may take.")
    grace_s: float = Field(30.0, ge=0, description="Seconds that answers under way may go on after Ctrl-C.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("warning", description="What is logged to stderr.")


class ServeConfig(DoorKeys, ModelKeys):
    """Models over OpenAI's API."""

    verb: ClassVar[str] = "serve"
    positional: ClassVar[str | None] = "models"
    headings: ClassVar[dict[str, str]] = {
        "models": "What is served",
        "host": "Who may ask, and how much",
        "store": "Votes, rules and tests",
    }

    store: str | None = Field(
        None, description="Store of answers and votes: a file, or postgresql://user@host/database; none keeps nothing."
    )
    redact: bool = Field(True, description="Blot personal data out of what is kept.")
    page: bool = Field(True, description="A chat page at /.")
    guardrails: str | None = Field(None, description="File of rules on what is asked and answered.")
    split: Literal["none", "fixed", "thompson"] = Field(
        "none", description="How users who ask for `auto` are shared among the models: an A/B test."
    )
    shares: list[float] = Field(
        default_factory=list, description="Of a fixed split each model's share of users; else they are equal."
    )
    test_name: str = Field("", max_length=100, description="Name of the A/B test; another name deals users anew.")
    seed: int = Field(0, ge=0, description="Seed of the split.")
    mde: float = Field(0.05, gt=0, lt=1, description="Least difference of means that matters, for the page /ab.")
    window_hours: float = Field(
        24.0,
        ge=0,
        description="On /ab a user counts once, by the votes in so many hours from the first; 0: by the first.",
    )
