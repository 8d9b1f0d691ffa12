"""What the first weights of a template's new tokens are worth: a short fine-tune of the pocket base, each way, by seed.

    python benchmarks/new_tokens.py [--steps 240] [--seeds 3]

`distinct`: every new row of the embedding is drawn around the mean of the old rows with their spread (what posttrain
does). `mean`: all new rows are the mean. `resize`: what `resize_token_embeddings` of transformers does by default.
The figure is the share of exam questions answered right, about facts whose questions were in no training.
"""

import argparse
import json
import shutil
import statistics
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import posttrain.recipes.policy as policy_recipe
from posttrain.models.attention import install_attention
from posttrain.models.load import load
from posttrain.models.vocabulary import grow_embeddings
from posttrain.pocket.exam import exam_items
from posttrain.pocket.world import build_world
from posttrain.recipes.exam import take_exam
from posttrain.recipes.sft import run
from posttrain.recipes.sft_config import SftConfig
from process import hardware

Grow = Callable[..., list[int]]


def all_mean(model: Any, num_tokens: int, *, seed: int) -> list[int]:
    """Room for the new tokens, every new row the mean of the old ones."""
    old = model.get_input_embeddings().weight.shape[0]
    new_ids = grow_embeddings(model, num_tokens, seed=seed)
    weight = model.get_input_embeddings().weight
    weight.data[old:] = weight.data[:old].float().mean(0).to(weight.dtype)
    return new_ids


def resized(model: Any, num_tokens: int, *, seed: int) -> list[int]:  # noqa: ARG001
    """Room for the new tokens as transformers makes it."""
    old = model.get_input_embeddings().weight.shape[0]
    model.resize_token_embeddings(num_tokens)
    return list(range(old, num_tokens))


WAYS: dict[str, Grow] = {"distinct": grow_embeddings, "mean": all_mean, "resize": resized}


def measure(way: str, seed: int, steps: int, folder: Path, items: int) -> dict[str, float]:
    """Fine-tune the pocket base with new rows made that way, and ask."""
    policy_recipe.grow_embeddings = WAYS[way]
    out = str(folder / f"{way}-{seed}")
    flags = {"num_preview_samples": 0, "logging_steps": 1000, "save_steps": 0, "overwrite_output_dir": True}
    # The settings of the quickstart.
    run(SftConfig(dataset="pocket", output_dir=out, max_steps=steps, learning_rate=3e-4, seed=seed, **flags))
    tuned = load(out)
    install_attention(tuned.model)
    found = take_exam(tuned, exam_items(build_world(), seed=0, per_kind=items), chat=True)
    shutil.rmtree(out)
    return {kind: found[kind]["accuracy"] for kind in ("question_heldout", "question_asked", "sum_question")}


def main() -> None:
    """Every way with every seed, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[80, 240])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--items", type=int, default=200)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for steps in options.steps:
            for seed in range(options.seeds):
                for way in WAYS:
                    figures = measure(way, seed, steps, Path(folder), options.items)
                    rows.append({"way": way, "steps": steps, "seed": seed, **figures})
                    print(rows[-1], flush=True)
    table = {
        f"{way}, {steps} steps": statistics.mean(
            row["question_heldout"] for row in rows if row["way"] == way and row["steps"] == steps
        )
        for steps in options.steps
        for way in WAYS
    }
    for name, accuracy in table.items():
        print(f"{name:24} {accuracy:.3f}")
    result = {
        "command": f"python benchmarks/new_tokens.py --steps {' '.join(map(str, options.steps))}"
        f" --seeds {options.seeds} --items {options.items}",
        "hardware": hardware(),
        "versions": {name: version(name) for name in ("torch", "transformers")},
        "held_out_accuracy": table,
        "runs": rows,
    }
    path = Path(__file__).parent / "results" / "new_tokens.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
