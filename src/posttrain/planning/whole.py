"""A plan: memory, time, tokens, disk and price of a run in one record, as JSON holds it."""

from dataclasses import asdict
from typing import Any

from posttrain.planning.cost import disk, price
from posttrain.planning.fit import Accepts, fits, search
from posttrain.planning.hardware import Hardware
from posttrain.planning.job import Job
from posttrain.planning.memory import Loose, memory
from posttrain.planning.products import forward, model_operations
from posttrain.planning.timing import Rates, step_time


def whole_plan(
    job: Job,
    hardware: Hardware,
    *,
    rates: Rates | None = None,
    loose: Loose | None = None,
    per_hour: float | None = None,
    accepts: Accepts = lambda _: True,
) -> dict[str, Any]:
    """Bytes, seconds and counts, by name. `per_hour`: the price of a device. `accepts`: whether the recipe may have
    keys that would make it fit."""
    held = memory(job, hardware.device, loose=loose)
    step = step_time(job, hardware, rates)
    found = search(job, hardware, lambda job, hardware: memory(job, hardware.device, loose=loose), accepts=accepts)
    positions = job.micros * job.mean.positions * job.processes
    reference = _reference_s(job, hardware)
    seconds = None if job.steps is None else job.steps * step.seconds + reference
    peak = hardware.device.bf16 if job.bf16 else hardware.device.fp32
    used = model_operations(job, job.mean) * job.micros / step.seconds / peak
    return {
        "stage": job.stage,
        "model": job.shape.name,
        "parameters": job.base,
        "trained": job.trained,
        "hardware": str(hardware),
        "processes": job.processes,
        "memory": {"moment": held.moment, "parts": held.parts, "total": held.total, "has": hardware.device.memory,
                   "host": held.host},
        "step": {"seconds": step.seconds, "parts": step.parts, "bound": step.bound, "hidden": step.hidden,
                 "communication": step.communication, "compute": step.compute, "mfu": used},
        "tokens": {"step": positions, "seconds": positions / step.seconds,
                   "total": None if job.steps is None else positions * job.steps},
        "steps": job.steps,
        "seconds": seconds,
        "before": reference,
        "disk": asdict(disk(job)),
        "price": None if seconds is None else price(seconds, hardware.count, per_hour),
        "fits": fits(held, hardware),
        "knobs": [asdict(each) for each in found.alone],
        "mend": found.together,
        "mend_keys": found.keys if found.together else {},
    }  # fmt: skip


def _reference_s(job: Job, hardware: Hardware) -> float:
    """Seconds of the reference's pass over the data, before the first step."""
    if not job.before or not job.mean.positions:
        return 0.0
    asked = next((each.shape for each in job.beside if each.leaves), job.shape)
    there = forward(asked, job.mean).total * job.before / job.mean.positions / job.processes
    device = hardware.device
    return there / ((device.bf16 if job.bf16 else device.fp32) * device.efficiency)
