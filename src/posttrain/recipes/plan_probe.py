"""A short run of the recipe itself on this machine, at two sizes, to correct the plan."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from posttrain.errors import ConfigError
from posttrain.planning.calibration import Measured, fitted_loose, fitted_rates
from posttrain.planning.hardware import Hardware
from posttrain.planning.job import Job
from posttrain.planning.memory import GLIBC, GPU, Loose, memory
from posttrain.planning.timing import CPU, Rates, step_time
from posttrain.planning.timing import GPU as GPU_RATES
from posttrain.recipes.plan_config import config_of
from posttrain.recipes.plan_job import job_of

STEPS = 4
QUIET = {"logging_steps": 1, "save_steps": 0, "eval_steps": 0, "overwrite_output_dir": True, "launcher": "none"}
LEFT_OUT = ("eval_dataset", "eval_split", "load_best_model_at_end", "early_stopping_patience", "report_to",
            "num_processes", "max_restarts", "resume_from_checkpoint", "warmup_steps")  # fmt: skip


def corrected(config: Any, hardware: Hardware, job: Job, say: Callable[[str], None]) -> tuple[Rates, Loose]:
    """The rates and the looseness with which the plan says what the probe's runs took."""
    if job.processes > 1:
        raise ConfigError("probe runs one process, and num_processes is more: probe with 1, then plan for more.")
    device, runs = hardware.device, []
    for size in sizes(config):
        took = measured(config, size)
        quiet: dict[str, Any] = {"max_steps": STEPS}
        there = job_of(config.model_copy(update=size | quiet), config.known, hardware, has_fast_bf16=job.bf16,
                       say=lambda _: None)  # fmt: skip
        runs.append(Measured(there, device, took["memory"], took["step_s"]))
        named = ", ".join(f"{key} {value}" for key, value in size.items())
        say(f"probe: {took['memory'] / 2**20:,.0f} MiB and {took['step_s']:.2f} s a step with {named}")
    rates, loose = (CPU, GLIBC) if device.is_cpu else (GPU_RATES, GPU)
    return _rescaled(runs, hardware, fitted_rates(runs, rates)), _lifted(runs, fitted_loose(runs, loose))


def sizes(config: Any) -> list[dict[str, Any]]:
    """The recipe's own size and half of it."""
    if hasattr(config, "max_length"):
        return [{"max_length": max(64, config.max_length // 2)}, {"max_length": config.max_length}]
    halves = {"num_prompts": max(config.num_mini_batches, config.num_prompts // 2)}
    return [halves, {"num_prompts": config.num_prompts}]


def measured(config: Any, size: dict[str, Any]) -> dict[str, Any]:
    """What a few steps of the recipe take, in a process of its own."""
    own = config_of(config.known).model_fields
    given = config.model_dump(exclude_unset=True, mode="json")
    settings = {key: value for key, value in given.items() if key in own and key not in LEFT_OUT}
    settings |= {key: value for key, value in QUIET.items() if key in own}
    settings |= size | {"max_steps": STEPS}
    with tempfile.TemporaryDirectory() as folder:
        request, answer = Path(folder) / "request.json", Path(folder) / "answer.json"
        settings["output_dir"] = str(Path(folder) / "run")
        request.write_text(
            json.dumps({"verb": config.known, "settings": settings, "result": str(answer)}), encoding="utf-8"
        )
        done = subprocess.run(
            [sys.executable, "-m", "posttrain.recipes.plan_worker", str(request)],
            env=dict(os.environ), capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            last = [line for line in done.stderr.strip().splitlines() if line][-1:]
            raise ConfigError(f"probe: the recipe does not run here: {' '.join(last) or 'it was killed'}")
        found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    return found


def _rescaled(runs: list[Measured], hardware: Hardware, rates: Rates) -> Rates:
    """So that the largest run comes out as it was measured: what is left is of everything alike."""
    last = runs[-1]
    said = step_time(last.job, hardware, rates).seconds
    factor = float(last.step_s or said) / said
    return Rates(**{name: value * factor for name, value in vars(rates).items()})


def _lifted(runs: list[Measured], loose: Loose) -> Loose:
    """The same of memory; what is left is libraries."""
    last = runs[-1]
    gap = last.memory - memory(last.job, last.device, loose=loose).total + last.device.reserve
    return replace(loose, libraries=max(0.0, loose.libraries + gap))
