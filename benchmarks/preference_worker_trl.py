"""One measured training run of TRL's DPO, KTO, ORPO or reward trainer. Runs in the peer's environment and imports
nothing of posttrain.

Everything that is not a flag here is left as TRL has it by default.
"""

import argparse
import time
from typing import Any

from datasets import Dataset
from transformers import AutoTokenizer

from trl_clock import common_settings, counting, parser_of, read_rows, train

MASKS = {"orpo": ("chosen_attention_mask", "rejected_attention_mask")}


def classes(verb: str) -> tuple[type, type]:
    """Configuration and trainer of a method."""
    if verb == "dpo":
        from trl import DPOConfig, DPOTrainer

        return DPOConfig, DPOTrainer
    if verb == "kto":
        from trl import KTOConfig, KTOTrainer

        return KTOConfig, KTOTrainer
    if verb == "reward":
        from trl import RewardConfig, RewardTrainer

        return RewardConfig, RewardTrainer
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    return ORPOConfig, ORPOTrainer


def build(args: argparse.Namespace) -> Any:
    config_class, trainer_class = classes(args.verb)
    settings: dict[str, Any] = {"precompute_ref_log_probs": True} if args.precompute else {}
    return counting(trainer_class, MASKS.get(args.verb, ("attention_mask",)))(
        model=str(args.model),
        args=config_class(**common_settings(args), bf16=True, **settings),
        train_dataset=Dataset.from_list(read_rows(args.data)),
        processing_class=AutoTokenizer.from_pretrained(args.model),
    )


def timed_precomputation(trainer_class: type) -> list[float]:
    """Makes the trainer write down how long it takes to ask the reference about a whole data set."""
    seconds: list[float] = []
    inner = trainer_class._precompute_ref_logps  # type: ignore[attr-defined]

    def timed(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        found = inner(*args, **kwargs)
        seconds.append(time.perf_counter() - began)
        return found

    trainer_class._precompute_ref_logps = timed  # type: ignore[attr-defined]
    return seconds


def main() -> None:
    parser = parser_of(__doc__.split("\n")[0])
    parser.add_argument("--verb", choices=("dpo", "kto", "orpo", "reward"), required=True)
    parser.add_argument("--precompute", action="store_true", help="ask the reference before training, not in each step")
    args = parser.parse_args()
    seconds = timed_precomputation(classes(args.verb)[1]) if args.precompute else []
    trainer = build(args)
    settings = {"precompute_ref_log_probs": getattr(trainer.args, "precompute_ref_log_probs", None)}
    asked = {"reference_seconds": sum(seconds), "reference_pairs": len(trainer.train_dataset)} if seconds else {}
    train(trainer, out=args.out, warmup=args.warmup, settings=settings, more=asked)


if __name__ == "__main__":
    main()
