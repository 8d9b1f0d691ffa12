"""`posttrain plan RECIPE.yaml`: memory, time, disk and price of a recipe before it is run, and what makes it fit."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console

from posttrain.errors import ConfigError
from posttrain.planning.hardware import GIB, Hardware, described, parse_hardware
from posttrain.planning.job import Job
from posttrain.planning.paper import paper_rows, paper_table
from posttrain.planning.whole import whole_plan
from posttrain.recipes.plan_accepts import accepted_by
from posttrain.recipes.plan_config import PlanConfig
from posttrain.recipes.plan_job import job_of
from posttrain.recipes.plan_shape import shape_named
from posttrain.recipes.plan_show import show

GIVEN = ("memory_gb", "tflops", "bandwidth_gbs", "link_gbs", "net_gbs", "efficiency")
HERE = ("here", "cpu")


def run(config: Any) -> None:
    """Print the plan and, where asked, write it as JSON."""
    console = Console(highlight=False, soft_wrap=True)
    if config.table:
        rows = paper_rows() if config.hardware in HERE else paper_rows(parse_hardware(config.hardware).device.name)
        print(paper_table(rows))
        _write(config, rows)
        return
    if isinstance(config, PlanConfig):
        raise ConfigError(
            "stage is missing: name a recipe file, or a verb with its model, as in --stage sft --model llama-7b."
        )
    if config.stage is None:
        console.print(f"a recipe of `posttrain {config.known}`")
    hardware, job = planned(config, console)
    rates = loose = None
    if config.probe:
        from posttrain.recipes.plan_probe import corrected

        rates, loose = corrected(config, hardware, job, console.print)
    found = whole_plan(
        job, hardware, rates=rates, loose=loose, per_hour=config.price_per_hour, accepts=accepted_by(config)
    )
    show(found, console)
    _write(config, found)


def planned(config: Any, console: Console) -> tuple[Hardware, Job]:
    """The hardware and the run on it."""
    given = {name: getattr(config, name) for name in GIVEN}
    say = lambda text: console.print(text, markup=False)  # noqa: E731 (one line, used below)
    is_here = config.hardware in HERE
    if config.probe and not is_here:
        raise ConfigError(f"probe runs on this machine, and hardware is {config.hardware}: leave one of the two out.")
    if is_here:
        from posttrain.recipes.plan_here import fast_bf16_here, this_machine

        length = int(getattr(config, "max_length", 0) or getattr(config, "micro_batch_tokens", 1024))
        hardware = this_machine(shape_named(config.model), tokens=length, given=given, processes=config.num_processes)
        fast = fast_bf16_here()
    else:
        found = parse_hardware(config.hardware)
        host = None if config.host_gb is None else config.host_gb * GIB
        hardware, fast = Hardware(described(found.device, **given), found.count, host), True
    return hardware, job_of(config, config.known, hardware, has_fast_bf16=fast, say=say)


def _write(config: Any, found: Any) -> None:
    if config.json_file is not None:
        path = Path(config.json_file)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"json_file {path} cannot be written: {error.strerror}.") from error
