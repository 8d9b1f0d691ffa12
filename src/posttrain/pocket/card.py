"""The model card of a base: written from the numbers of its run."""

import json
from pathlib import Path


def write_card(folder: Path) -> None:
    """README.md of the base: data, steps and losses, from the numbers of its run."""
    record = json.loads((folder / "run.json").read_text())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    config, phases = record["config"], record["inputs"][0]["phases"]
    mixtures = [phase["mixture"] for phase in phases]
    kinds = dict.fromkeys(kind for mixture in mixtures for kind in mixture)
    shares = "\n".join(
        f"| {kind} | " + " | ".join(f"{mixture.get(kind, 0):.0%}" for mixture in mixtures) + " |" for kind in kinds
    )
    losses = "\n".join(f"| {line['step']} | {line['loss']:.3f} |" for line in lines[:: max(1, len(lines) // 12)])
    (folder / "README.md").write_text(f"""# pocket base

A base language model of {record["model"]["parameters"]:,} parameters (Llama-shaped, {config["num_layers"]} layers of
{config["hidden_size"]}, {config["vocab_size"]} tokens) that completes text about a small generated world. It is made to
be post-trained: it knows {record["inputs"][0]["facts"]:,} facts when asked to complete a sentence, and answers a
question with more questions.

**Data.** Written by a seeded program, nothing else; shares of the text by characters:

| | {" | ".join(f"phase {number}" for number in range(1, len(phases) + 1))} |
|---|{"---|" * len(phases)}
| tokens | {" | ".join(f"{phase['num_tokens']:,}" for phase in phases)} |
| peak rate | {" | ".join(f"{phase['learning_rate']:g}" for phase in phases)} |
{shares}

Facts of every entity appear in several wordings; questions are answered for one half of the entities only, in lists of
another dress ("Q: … A: …"), and one two-digit sum in ten never appears.

**Training.** {record["result"]["steps"]:,} steps of {config["rows_per_step"]} rows of {config["row_tokens"]} tokens
({record["result"]["tokens"]:,} tokens, each document seen once), AdamW, weight decay {config["weight_decay"]}, bfloat16
autocast, on {record["hardware"]["cpu"]}; each phase has a warm-up and a cosine to 5 % of its peak rate. Weights are
stored in bfloat16. Losses are nats per token of the text then trained on, so they differ between the phases.

| step | loss |
|---|---|
{losses}
| {lines[-1]["step"]} | {lines[-1]["loss"]:.3f} |

**Made by** `{record["command"]}`; the same command makes it again. It knows nothing beyond its world and must not be
asked for advice.
""")
