"""The keys of sampling on servers while the policy is trained here."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from posttrain.recipes.config import Config


class SamplingServerKeys(Config):
    """Where rollouts are sampled, how weights get there, and how long anybody waits."""

    sampler: list[str] = Field(
        default_factory=lambda: ["local"],
        min_length=1,
        description="Who samples: local, or vLLM servers as http://HOST:PORT/v1, repeatable.",
    )
    sampler_model: str | None = Field(
        None, min_length=1, description="Name of the base model at the servers; left out, the one that they serve."
    )
    sampler_api_key_env: str | None = Field(
        None, min_length=1, description="Name of the environment variable that holds the servers' API key."
    )
    weight_transfer: Literal["adapter", "reload"] | None = Field(
        None, description="How weights get to the servers: LoRA adapter, or whole model; left out, as use_peft says."
    )
    weight_transfer_dir: str | None = Field(
        None, min_length=1, description="Folder that trainer and servers share; left out, one in output_dir."
    )
    max_staleness: int = Field(
        0, ge=0, description="Optimiser steps that sampled weights may be behind; 0 samples and learns in turn."
    )
    sampler_timeout: float = Field(
        600.0, gt=0, description="Seconds for all answers of one turn from the servers; later ones are left out."
    )
    min_answered: float = Field(
        0.5, ge=0, le=1, description="Stop where fewer than this share of a turn's answers came in time."
    )

    @property
    def is_remote(self) -> bool:
        """Whether servers sample."""
        return self.sampler != ["local"]

    @property
    def transfer(self) -> str:
        """How weights get there."""
        return self.weight_transfer or ("adapter" if getattr(self, "use_peft", False) else "reload")

    @field_validator("sampler", mode="before")
    @classmethod
    def _one_sampler(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @field_validator("sampler")
    @classmethod
    def _addresses(cls, value: list[str]) -> list[str]:
        for place in value:
            if place == "local" and len(value) > 1:
                raise ValueError("sampler is local and servers at once: name the servers alone")
            if place != "local" and not place.startswith(("http://", "https://")):
                raise ValueError(f"sampler {place!r} is neither local nor an address such as http://HOST:8000/v1")
        if len({place.rstrip("/") for place in value}) < len(value):
            raise ValueError("sampler names one server twice")
        return [place if place == "local" else place.rstrip("/") for place in value]

    @model_validator(mode="after")
    def _agree_on_servers(self) -> Self:
        if not self.is_remote:
            for key in (
                "sampler_model",
                "sampler_api_key_env",
                "weight_transfer",
                "weight_transfer_dir",
                "max_staleness",
                "sampler_timeout",
                "min_answered",
            ):
                if key in self.model_fields_set and getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(f"{key} needs sampler: name the servers, as http://HOST:PORT/v1")
        if self.transfer == "adapter" and not getattr(self, "use_peft", True):
            raise ValueError("weight_transfer adapter needs use_peft: there is no adapter; use reload")
        if self.is_remote and self.transfer == "reload" and getattr(self, "use_peft", False):
            for key, value in (("load_in_4bit", True), ("strategy", "fsdp")):
                if getattr(self, key, None) == value:
                    raise ValueError(
                        f"weight_transfer reload merges the adapter, which {key} {str(value).lower()} does not allow: "
                        "use weight_transfer adapter"
                    )
        return self

    def agree_on_staleness(self, num_steps: int) -> None:
        """Raises ValueError where rollouts of an iteration of `num_steps` optimiser steps may not be one iteration
        old, or nothing corrects for it."""
        if not self.max_staleness:
            return
        if self.max_staleness < num_steps:
            raise ValueError(
                f"max_staleness {self.max_staleness} is under the {num_steps} optimiser steps of one iteration, by "
                f"which rollouts are behind that are sampled ahead: use {num_steps}, or 0 to sample and learn in turn"
            )
        if getattr(self, "correction", "truncate") == "none":
            raise ValueError("max_staleness needs a correction: rollouts of older weights count as the new one's else")
