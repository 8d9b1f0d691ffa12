"""Disk and money."""

from dataclasses import dataclass

from posttrain.planning.job import Job
from posttrain.planning.memory import MASTER, moment_bytes


@dataclass(frozen=True)
class Disk:
    """Bytes: of one checkpoint, of the finished model, and of the fullest moment, when a new checkpoint stands beside
    those that are kept."""

    checkpoint: float
    export: float
    most: float


def disk(job: Job) -> Disk:
    """Weights are written as they are held, in fp32, moments beside them; of a LoRA run the adapter alone."""
    weights = MASTER * (job.trained if job.lora is not None else job.base)
    beside = sum(MASTER * each.trained for each in job.beside)
    moments = moment_bytes(job) * (1 + sum(each.trained for each in job.beside) / max(job.trained, 1))
    checkpoint = weights + beside + moments
    most = min(job.kept + 1, job.checkpoints) * checkpoint + weights + beside
    return Disk(checkpoint, weights + beside, most)


def price(seconds: float, count: int, per_hour: float | None) -> float | None:
    """Of so many devices for so long."""
    return None if per_hour is None else seconds / 3600 * count * per_hour
