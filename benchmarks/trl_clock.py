"""What the workers that measure TRL share: a clock, trainers that count their tokens, and the record of a run.

Runs in the peer's environment and imports nothing of posttrain.
"""

import argparse
import json
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback


class Clock(TrainerCallback):
    """When each optimiser step ended, and how many real tokens it was fed."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.tokens: list[int] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002 (the API's signature)
        self.ends.append(time.perf_counter())


def counting(trainer_class: type, masks: tuple[str, ...] = ("attention_mask",)) -> type:
    """The trainer itself; each batch is counted on its way in, by the ones in its masks, all of it without them."""

    class CountingTrainer(trainer_class):  # type: ignore[misc]
        clock: Clock

        def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
            found = [inputs[name] for name in masks if inputs.get(name) is not None]
            self.clock.tokens.append(int(sum(mask.sum() for mask in found)) if found else inputs["input_ids"].numel())
            return super().training_step(model, inputs, *args, **kwargs)

    return CountingTrainer


def parser_of(description: str) -> argparse.ArgumentParser:
    """The flags of every worker."""
    parser = argparse.ArgumentParser(description=description)
    for name in ("--model", "--data", "--out"):
        parser.add_argument(name, type=Path, required=True)
    for name in ("--steps", "--warmup", "--seed"):
        parser.add_argument(name, type=int, required=True)
    return parser


def common_settings(args: argparse.Namespace) -> dict[str, Any]:
    """What every trainer is told; all else is left as TRL has it by default."""
    return {
        "output_dir": str(args.out / "trainer"),
        "max_steps": args.steps,
        "max_length": 1024,
        "seed": args.seed,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
    }


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def train(
    trainer: Any, *, out: Path, warmup: int, settings: dict[str, Any], more: dict[str, Any] | None = None
) -> None:
    """Train, and write seconds and tokens of the steps after the first `warmup` to measured.json."""
    trainer.clock = Clock()
    trainer.add_callback(trainer.clock)
    trainer.train()
    ends, tokens = trainer.clock.ends, trainer.clock.tokens
    measured = {
        "seconds": ends[-1] - ends[warmup - 1],
        "tokens": sum(tokens[warmup:]),
        "steps": len(ends) - warmup,
        "settings": {
            "batch": trainer.args.per_device_train_batch_size,
            "gradient_checkpointing": trainer.args.gradient_checkpointing,
            "bf16": trainer.args.bf16,
            "optim": str(trainer.args.optim),
            "threads": torch.get_num_threads(),
            **settings,
        },
        "versions": {name: version(name) for name in ("trl", "torch", "transformers", "peft", "accelerate")},
        **(more or {}),
    }
    (out / "measured.json").write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
