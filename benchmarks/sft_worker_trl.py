"""One measured training run of TRL's SFTTrainer. Runs in the peer's environment and imports nothing of posttrain.

Everything that is not a flag here is left as TRL has it by default.
"""

import argparse
from typing import Any

from datasets import Dataset
from transformers import AutoTokenizer
from trl import SFTConfig, SFTTrainer

from trl_clock import common_settings, counting, parser_of, read_rows, train


def build(args: argparse.Namespace) -> Any:
    settings: dict[str, Any] = {"bf16": args.bf16}
    if args.packing:  # the fastest of its own settings: a row at a time, nothing recomputed
        settings |= {"packing": True, "per_device_train_batch_size": 1, "gradient_checkpointing": False}
    config = SFTConfig(**common_settings(args), learning_rate=1e-4, lr_scheduler_type="constant", **settings)
    lora = None
    if args.lora:
        from peft import LoraConfig

        lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    return counting(SFTTrainer)(
        model=str(args.model),
        args=config,
        train_dataset=Dataset.from_list(read_rows(args.data)),
        processing_class=AutoTokenizer.from_pretrained(args.model),
        peft_config=lora,
    )


def main() -> None:
    parser = parser_of(__doc__.split("\n")[0])
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, required=True)
    parser.add_argument("--packing", action="store_true")
    parser.add_argument("--lora", action="store_true")
    args = parser.parse_args()
    trainer = build(args)
    settings = {"packing": trainer.args.packing, "loss": trainer.args.loss_type}
    train(trainer, out=args.out, warmup=args.warmup, settings=settings)


if __name__ == "__main__":
    main()
