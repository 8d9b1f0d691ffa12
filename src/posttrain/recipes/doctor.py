"""`posttrain doctor`: is this data what was meant, can this model be trained here exactly, what can this machine do?"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from posttrain.data.findings import Finding, verdict
from posttrain.errors import ConfigError
from posttrain.models.load import load
from posttrain.recipes.config import command
from posttrain.recipes.doctor_config import DoctorConfig
from posttrain.recipes.doctor_data import Diagnosis, diagnose
from posttrain.recipes.doctor_loss import TemplateLoss
from posttrain.recipes.doctor_machine import check_model, machine
from posttrain.recipes.doctor_page import WORDS, as_json, counts, write_page
from posttrain.recipes.doctor_templates import unknown
from posttrain.recipes.doctor_tokens import for_terminal
from posttrain.recipes.policy import resolve_model

LABELS = {"pass": "ok", "warn": "WARN", "refuse": "REFUSE"}
STYLES = {"pass": "green", "warn": "yellow", "refuse": "bold red"}
EXAMPLES = 3  # of a finding; the page has more
BLOCKS = " ▁▂▃▄▅▆▇█"


def run(config: DoctorConfig) -> int:
    """Print what was found; exit code 0 where the data may be trained on, 1 where `fail_on` says so."""
    console = Console(highlight=False, soft_wrap=True, quiet=config.json)
    config = _model_habit(config, console)
    if not config.dataset:
        return _model(config, console)
    with console.status("looking"):
        found = diagnose(config)
    name = ", ".join(entry.path for entry in config.dataset)
    page = write_page(found, config.output_dir, title=name, model=config.model, command=command(config))
    if config.json:
        print(json.dumps(as_json(found, model=config.model, command=command(config), page=page)))
    _print(found, console)
    said = f"{LABELS[found.verdict]}: {WORDS[found.verdict]} ({counts(found)})"
    console.print(said, style=STYLES[found.verdict])
    console.print(f"page: {page}", markup=False)
    return _exit_code(config, found.findings)


def _model_habit(config: DoctorConfig, console: Console) -> DoctorConfig:
    """A model folder in the place of the data is a model to check, as it was before the doctor looked at data."""
    name = config.dataset[0].path if len(config.dataset) == 1 else ""
    if not name or not any((Path(name) / file).is_file() for file in ("config.json", "adapter_config.json")):
        return config
    if config.model != "pocket":
        raise ConfigError(
            f"dataset is {name!r}, which is a model folder, and model is given too: name data, or one model."
        )
    console.print(
        f"{name} is a model folder, so the model is checked; data would be: posttrain doctor DATA --model {name}"
    )
    return config.model_copy(update={"dataset": [], "model": name})


def _model(config: DoctorConfig, console: Console) -> int:
    """The machine and the model alone."""
    lines = list(machine())
    for name, said in lines:
        console.print(f"{name:<12} {said}", markup=False)
    policy = load(resolve_model(config.model))
    said = f"{config.model}: {policy.num_parameters:,} parameters, {type(policy.model).__name__}"
    console.print(f"{'model':<12} {said}", markup=False)
    findings = check_model(policy)
    _print_findings(findings, console)
    if config.json:
        listed = [dataclasses.asdict(finding) for finding in findings]
        print(json.dumps({"verdict": verdict(findings), "findings": listed, "machine": dict(lines), "model": said}))
    return _exit_code(config, findings)


def _exit_code(config: DoctorConfig, findings: Sequence[Finding]) -> int:
    return int(verdict(findings) in (("warn", "refuse") if config.fail_on == "warn" else ("refuse",)))


def _print(found: Diagnosis, console: Console) -> None:
    for item in found.inputs:
        console.print(f"read {item['path']}: {item['records']:,} records", markup=False)
    console.print("layouts: " + ", ".join(f"{count:,} {name}" for name, count in found.layouts.items()), markup=False)
    for note in found.notes:
        console.print(f"note: {note}", style="yellow", markup=False)
    if found.lengths:
        console.print(f"tokens: {_sparkline(found.lengths)} to {max(found.lengths):,}", markup=False)
    for shown in found.views:
        for line in for_terminal(shown, colour=console.color_system is not None):
            console.print(line)
        console.print()
    _print_losses(found.losses, console)
    faults = [finding for finding in found.findings if finding.level != "pass"]
    told = [finding for finding in found.findings if finding.level == "pass" and ": none" not in finding.message]
    _print_findings([*told, *sorted(faults, key=lambda finding: finding.level == "refuse")], console)
    console.print(f"{len(found.findings) - len(told) - len(faults)} more checks found nothing", style="dim")


def _print_findings(findings: Sequence[Finding], console: Console) -> None:
    """One line a finding, its examples and its mend under it."""
    for finding in findings:
        name = finding.code.replace("_", " ")
        console.print(f"{name:<20} [{STYLES[finding.level]}]{LABELS[finding.level]}[/]: ", end="")
        console.print(finding.message, markup=False)
        if finding.level == "pass":
            continue
        for line in finding.examples[:EXAMPLES]:
            console.print(f"    {line}", style="dim", markup=False)
        console.print(f"    mend: {finding.mend}", markup=False)


def _print_losses(losses: Sequence[TemplateLoss], console: Console) -> None:
    if not losses:
        return
    table = Table("template", "nats a token", "at the stop", "against the chosen (95 % interval)", box=None)
    for row in losses:
        if row.num_added:
            continue
        against = "chosen" if row.is_chosen else row.refusal
        if row.against is not None:
            against = "{:+.3f} ({:+.3f} to {:+.3f})".format(*row.against)
        figures = ["–" if value is None else f"{value:.3f}" for value in (row.loss, row.stop_loss)]
        table.add_row(row.name, *figures, against)
    console.print(table)
    if names := unknown(losses):
        console.print(f"not measured, since their tokens are new to the model: {names}\n", style="dim", markup=False)


def _sparkline(lengths: Sequence[int]) -> str:
    """Rows by number of tokens, from 0 to the longest, in 40 blocks."""
    counts, _ = np.histogram(lengths, bins=40, range=(0, max(lengths)))
    return "0 " + "".join(BLOCKS[int(np.ceil(8 * count / counts.max()))] for count in counts)
