"""The keys by which the verbs that make and read data spread over the workers of a Ray cluster."""

import re
from typing import Self

from pydantic import Field, field_validator, model_validator

from posttrain.recipes.config import Config

PLACE = re.compile(r"[^\s/:]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}")
SERVERS = ("url", "judge_url", "answer_url")


class RayKeys(Config):
    """Where a verb's models run. `ray` left out: in this process, and Ray is neither started nor imported."""

    ray: str | None = Field(
        None, description="Spread the work: local (this machine), auto (this machine's cluster), or HOST:PORT."
    )
    num_workers: int = Field(1, ge=1, le=1024, description="With ray: workers for each model; each loads it once.")
    worker_cpus: float = Field(1.0, gt=0, description="With ray: processor cores of each worker.")
    worker_gpus: float = Field(0.0, ge=0, description="With ray: GPUs of each worker; 0.5 is half of one.")

    @field_validator("ray")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        if value is None or value in ("local", "auto") or PLACE.fullmatch(value):
            return value
        if value.startswith("ray://"):
            raise ValueError(
                f"ray is {value!r}, the address of a Ray client, over which Ray Data does not run: start the command "
                "on a machine of the cluster with ray: auto, or give it to the cluster with `ray job submit`"
            )
        raise ValueError(f"ray is {value!r}, expected local, auto, or HOST:PORT of a cluster's head (port 6379 mostly)")

    @model_validator(mode="after")
    def _need_ray(self) -> Self:
        if self.ray is not None:
            return self
        for key in ("num_workers", "worker_cpus", "worker_gpus"):
            if getattr(self, key) != RayKeys.model_fields[key].default:
                raise ValueError(f"{key} is given and ray is not: say where the workers are, as in ray: local")
        for key in SERVERS:
            if "," in (getattr(self, key, None) or ""):
                raise ValueError(f"{key} names several servers, which share the work with ray alone: add ray: local")
        return self
