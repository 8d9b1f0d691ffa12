"""One measured training run of TRL's SFTTrainer. Runs in the peer's environment and imports nothing of posttrain.

Everything that is not a flag here is left as TRL has it by default.
"""

import argparse
import json
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer


class Clock(TrainerCallback):
    """When each optimiser step ended, and how many real tokens it was fed."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.tokens: list[int] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002 (the API's signature)
        self.ends.append(time.perf_counter())


class CountingTrainer(SFTTrainer):
    """The trainer itself; each batch is counted on its way in."""

    clock: Clock

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        mask = inputs.get("attention_mask")
        tokens = inputs["input_ids"].numel() if mask is None else int(mask.sum())
        self.clock.tokens.append(tokens)
        return super().training_step(model, inputs, *args, **kwargs)


def build(args: argparse.Namespace) -> CountingTrainer:
    settings: dict[str, Any] = {"bf16": args.bf16}
    if args.packing:  # the fastest of its own settings: a row at a time, nothing recomputed
        settings |= {"packing": True, "per_device_train_batch_size": 1, "gradient_checkpointing": False}
    config = SFTConfig(
        output_dir=str(args.out / "trainer"),
        max_steps=args.steps,
        max_length=1024,
        learning_rate=1e-4,
        lr_scheduler_type="constant",
        seed=args.seed,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        **settings,
    )
    rows = [json.loads(line) for line in args.data.read_text(encoding="utf-8").splitlines()]
    lora = None
    if args.lora:
        from peft import LoraConfig

        lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    return CountingTrainer(
        model=str(args.model),
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(args.model),
        peft_config=lora,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("--model", "--data", "--out"):
        parser.add_argument(name, type=Path, required=True)
    for name in ("--steps", "--warmup", "--seed"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, required=True)
    parser.add_argument("--packing", action="store_true")
    parser.add_argument("--lora", action="store_true")
    args = parser.parse_args()
    trainer = build(args)
    trainer.clock = Clock()
    trainer.add_callback(trainer.clock)
    trainer.train()
    ends, tokens = trainer.clock.ends, trainer.clock.tokens
    measured = {
        "seconds": ends[-1] - ends[args.warmup - 1],
        "tokens": sum(tokens[args.warmup :]),
        "steps": args.steps - args.warmup,
        "settings": {
            "batch": trainer.args.per_device_train_batch_size,
            "packing": trainer.args.packing,
            "gradient_checkpointing": trainer.args.gradient_checkpointing,
            "bf16": trainer.args.bf16,
            "optim": str(trainer.args.optim),
            "loss": trainer.args.loss_type,
            "threads": torch.get_num_threads(),
        },
        "versions": {name: version(name) for name in ("trl", "torch", "transformers", "peft", "accelerate")},
    }
    (args.out / "measured.json").write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
