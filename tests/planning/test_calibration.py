"""Factors of a machine are found again from runs that were made with them."""

import random
from dataclasses import replace

import pytest

from posttrain.planning.calibration import Measured, fitted_loose, fitted_rates, least_squares
from posttrain.planning.hardware import GIB, Hardware, cpu
from posttrain.planning.job import NF4_BITS, Job, Lora, Micro
from posttrain.planning.memory import GLIBC, memory
from posttrain.planning.shapes import shape_of
from posttrain.planning.timing import Rates, step_time

DEVICE = cpu(cores=2, memory=8 * GIB, bf16=1e11, fp32=5e10, bandwidth=1e10)
SHAPE = shape_of(
    {"model_type": "llama", "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4,
     "num_attention_heads": 4, "vocab_size": 4096, "max_position_embeddings": 2048}
)  # fmt: skip


def jobs() -> list[Job]:
    rng = random.Random(0)
    found = []
    for number in range(16):
        micro = Micro.rows(rng.choice((256, 512, 1024)), rng.randint(1, 4), trained=rng.random())
        lora = None if number % 2 else Lora(16, bits=NF4_BITS if number % 4 else None)
        found.append(
            Job("sft", SHAPE, micro, micro, 1.0, lora=lora, bf16=number % 3 > 0, checkpointing=number % 5 == 0)
        )
    return found


def test_least_squares_find_what_was_there() -> None:
    rng = random.Random(1)
    rows = [{"a": rng.random(), "b": rng.random()} for _ in range(20)]
    found = least_squares(rows, [2 * r["a"] + 0.5 * r["b"] for r in rows], [1.0] * 20, {"a": 1, "b": 1}, pull=0.0)
    assert found == pytest.approx({"a": 2, "b": 0.5}, rel=1e-4)


def test_no_factor_is_negative() -> None:
    rows = [{"a": 1.0, "b": 1.0}, {"a": 2.0, "b": 1.0}]
    found = least_squares(rows, [1.0, 3.0], [1.0, 1.0], {"a": 1, "b": 1}, pull=0.0)
    assert found["b"] == 0


def test_what_no_run_has_stays_as_it_was() -> None:
    assert least_squares([{"a": 1.0, "b": 0.0}], [3.0], [1.0], {"a": 1, "b": 7}, pull=0.0) == {"a": 3, "b": 7}


def test_memory_is_found_again() -> None:
    true = replace(GLIBC, libraries=90e6, kept=1.1, logits=1.2)
    runs = [Measured(job, DEVICE, memory(job, DEVICE, loose=true).total, None) for job in jobs()]
    found = fitted_loose(runs, GLIBC)
    errors = [abs(memory(r.job, DEVICE, loose=found).total / r.memory - 1) for r in runs]
    assert max(errors) < 0.03


def test_time_is_found_again() -> None:
    true = Rates(products=1.4, attention=3.0, activations=8.0, calls=2.0, fixed=0.05)
    here = Hardware(DEVICE)
    runs = [Measured(job, DEVICE, 1e9, step_time(job, here, true).seconds) for job in jobs()]
    found = fitted_rates(runs, Rates())
    errors = [abs(step_time(r.job, here, found).seconds / r.step_s - 1) for r in runs if r.step_s]
    assert max(errors) < 0.05
