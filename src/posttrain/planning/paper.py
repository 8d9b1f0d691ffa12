"""The table on paper: full, LoRA and QLoRA of 7B, 70B and 405B on 1 to 1,024 devices; and others' reports."""

from dataclasses import replace
from typing import Any

from posttrain.planning.fit import fits
from posttrain.planning.hardware import DEVICES, Hardware
from posttrain.planning.job import NF4_BITS, Job, Lora, Micro
from posttrain.planning.memory import memory
from posttrain.planning.products import model_operations
from posttrain.planning.shapes import NAMED, Shape
from posttrain.planning.timing import Step, step_time

MODELS = ("llama-7b", "llama-70b", "llama-405b")
COUNTS = (1, 8, 64, 256, 1024)
METHODS: dict[str, Lora | None] = {"full": None, "LoRA": Lora(16), "QLoRA": Lora(16, bits=NF4_BITS)}
LENGTH, FEWEST = 4096, 256


def paper_job(shape: Shape, method: str, count: int, *, rows: int = 1, length: int = LENGTH) -> Job:
    """One row of `length` trained positions a device, checkpointing on; weights shared out where there is more than
    one device, but those in four bits, which are not."""
    lora = METHODS[method]
    is_shared = count > 1 and (lora is None or lora.bits is None)
    micro = Micro.rows(length, rows)
    return Job(
        "sft", shape, micro, micro, 1.0, lora=lora, checkpointing=True, processes=count, fsdp=is_shared, is_hinted=True,
        rows=rows,
    )  # fmt: skip


def paper_rows(device: str = "H100-80G") -> list[dict[str, Any]]:
    """Every combination, with its memory, time and bound."""
    rows = []
    for name in MODELS:
        for method in METHODS:
            for count in COUNTS:
                hardware, job = Hardware(DEVICES[device], count), paper_job(NAMED[name], method, count)
                held, step = memory(job, hardware.device), step_time(job, hardware)
                rows.append(
                    {
                        "model": name, "method": method, "devices": count, "memory": held.total,
                        "fits": fits(held, hardware), "step_s": step.seconds,
                        "tokens_per_s": count * LENGTH / step.seconds, "mfu": mfu(job, hardware, step),
                        "communication_s": step.communication, "compute_s": step.compute,
                        "least_tokens": least_tokens(job, hardware),
                    }
                )  # fmt: skip
    return rows


def mfu(job: Job, hardware: Hardware, step: Step) -> float:
    """Share of the peak that the model's own operations reach."""
    return model_operations(job, job.mean) * job.micros / step.seconds / hardware.device.bf16


def least_tokens(job: Job, hardware: Hardware) -> int | None:
    """Positions a device and micro-batch from which on computing takes longer than communicating: below, the links are
    the bound. None where nothing travels."""
    if job.processes == 1:
        return None
    for rows in range(1, 257):
        micro = Micro.rows(FEWEST, rows)
        step = step_time(replace(job, most=micro, mean=micro), hardware)
        if step.compute >= step.communication:
            return int(micro.positions)
    return 256 * FEWEST


def paper_table(rows: list[dict[str, Any]]) -> str:
    """As Markdown."""
    lines = [
        "| model | method | GPUs | GiB a GPU | fits | step, s | tokens/s | MFU | links bind below, tokens a GPU |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        tokens = row["least_tokens"]
        least = "" if tokens is None else f"{tokens:,}" if tokens > FEWEST else f"under {FEWEST}"
        told = f"{row['step_s']:.2f} | {row['tokens_per_s']:,.0f} | {row['mfu']:.0%} | {least}"
        told = told if row["fits"] else " | | | "
        lines.append(
            f"| {row['model']} | {row['method']} | {row['devices']:,} | {row['memory'] / 2**30:,.0f} | "
            f"{'yes' if row['fits'] else 'no'} | {told} |"
        )
    return "\n".join(lines)


def reports() -> list[dict[str, Any]]:
    """What others measured, and what the formulas say of the same run: tokens a second and device."""
    found = []
    for source, model, device, count, rows, length, checkpointing, measured in REPORTS:
        job = paper_job(NAMED[model], "full", count, rows=rows, length=length)
        hardware = Hardware(DEVICES[device], count)
        job = replace(job, checkpointing=checkpointing)
        step = step_time(job, hardware)
        said = rows * length / step.seconds
        found.append({"source": source, "model": model, "hardware": str(hardware), "rows": rows, "length": length,
                      "measured": measured, "planned": said, "error": said / measured - 1})  # fmt: skip
    return found


TORCHTITAN = "torchtitan, docs/performance.md"
# (source, model, device, devices, rows a device, length, checkpointing of whole layers, tokens a second and device).
# Llama 3's own figure is with tensor and pipeline parallelism on top (Grattafiori et al., 2024,
# table 4: 430 TFLOP/s a device), over the 2.53 TFLOP of a token.
REPORTS: tuple[tuple[str, str, str, int, int, int, bool, float], ...] = (
    (f"{TORCHTITAN} (2025), FSDP2, selective checkpointing", "llama3-8b", "H100-80G", 8, 2, 8192, False, 5762),
    (f"{TORCHTITAN} (2024), FSDP2, selective checkpointing", "llama3-8b", "A100-80G", 64, 1, 8192, False, 2973),
    (f"{TORCHTITAN} (2024), FSDP2, full checkpointing", "llama3-70b", "A100-80G", 64, 1, 8192, True, 331),
    (f"{TORCHTITAN} (2024), FSDP2 x 16, TP 8, full checkpointing", "llama-405b", "H100-80G", 128, 2, 8192, True, 109),
    ("Llama 3 (2024), table 4: 430 TFLOP/s a GPU, TP 8, PP 16", "llama-405b", "H100-80G", 8192, 1, 8192, True, 170),
)
