"""From measured runs to what the formulas do not know of a machine: how loosely it holds memory, how fast it is.

Both are sums of known terms with unknown factors, none negative: least squares of the relative error.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from posttrain.planning.hardware import Device
from posttrain.planning.job import Job
from posttrain.planning.memory import Loose, always_bytes, passing_bytes
from posttrain.planning.timing import Rates, terms

SWEEPS = 2000


@dataclass(frozen=True)
class Measured:
    """A run and what it took: bytes at its fullest, seconds a step."""

    job: Job
    device: Device
    memory: float
    step_s: float | None


def fitted_loose(runs: Sequence[Measured], start: Loose) -> Loose:
    """The factors of memory that these runs had, near those of `start` where they cannot tell."""
    rows, targets = [], []
    for run in runs:
        kinds = passing_bytes(run.job, run.device)
        gradients = kinds.pop("gradients")
        lora = run.job.lora
        mib = 2.0**20
        rows.append(
            {"libraries": 100 * mib, "adapters": 100 * mib * (lora is not None),
             "four_bits": 100 * mib * bool(lora and lora.bits), **kinds}
        )  # fmt: skip
        targets.append(run.memory - always_bytes(run.job) - gradients)
    weights = [1 / run.memory for run in runs]
    hundred = 100 * 2.0**20
    prior = {name: getattr(start, name) / (hundred if name in SIZES else 1) for name in rows[0]}
    found = least_squares(rows, targets, weights, prior)
    changes: dict[str, Any] = {name: value * (hundred if name in SIZES else 1) for name, value in found.items()}
    return replace(start, **changes)


SIZES = ("libraries", "adapters", "four_bits")


def fitted_rates(runs: Sequence[Measured], start: Rates) -> Rates:
    """The rates that these runs had; of what none of them does, those of `start`."""
    timed = [run for run in runs if run.step_s]
    rows = [terms(run.job, run.device) | {"fixed": 1.0} for run in timed]
    weights = [1 / float(run.step_s or 1) for run in timed]
    prior = {name: float(getattr(start, name)) for name in rows[0]}
    said = [sum(prior[name] * row[name] for name in prior) for row in rows]
    # A machine that others keep busy is slower in everything: the usual ratio first, then what differs from it.
    usual = median(float(run.step_s or 0) / seconds for run, seconds in zip(timed, said, strict=True))
    prior = {name: value * usual for name, value in prior.items()}
    found = least_squares(rows, [float(run.step_s or 0) for run in timed], weights, prior, pull=0.05)
    return replace(start, **found)


def least_squares(
    rows: Sequence[Mapping[str, float]],
    targets: Sequence[float],
    weights: Sequence[float],
    prior: Mapping[str, float],
    *,
    pull: float = 0.02,
) -> dict[str, float]:
    """Factors x >= 0 that minimise sum_i (w_i (sum_j a_ij x_j - b_i))^2 + sum_j (pull a_j (x_j - prior_j))^2, where a_j
    is the length of the weighted column: one coordinate after the other, which ends where no factor would move. The
    pull keeps what the runs cannot tell apart."""
    names = list(prior)
    columns = {name: [w * row[name] for row, w in zip(rows, weights, strict=True)] for name in names}
    lengths = {name: sum(value * value for value in column) for name, column in columns.items()}
    found = dict(prior)
    errors = [
        sum(columns[name][i] * found[name] for name in names) - weights[i] * targets[i] for i in range(len(targets))
    ]
    for _ in range(SWEEPS):
        moved = 0.0
        for name in names:
            length, column = lengths[name], columns[name]
            if not length:
                continue
            slope = sum(value * error for value, error in zip(column, errors, strict=True))
            slope += pull**2 * length * (found[name] - prior[name])
            after = max(0.0, found[name] - slope / (length * (1 + pull**2)))
            step = after - found[name]
            found[name] = after
            moved = max(moved, abs(step) * length**0.5)
            errors = [error + value * step for value, error in zip(column, errors, strict=True)]
        if moved < 1e-9:
            break
    return found
