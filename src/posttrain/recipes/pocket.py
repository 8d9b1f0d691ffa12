"""`posttrain pocket build`: the embedded base model, from nothing but its generated world."""

import json
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from posttrain.data.stream import Stream
from posttrain.data.template import render_document, truncate
from posttrain.models.attention import install_attention
from posttrain.models.fused import fuse
from posttrain.models.load import Policy, save
from posttrain.models.precision import has_fast_bf16
from posttrain.pocket.corpus import MIXTURE, documents
from posttrain.pocket.tokenizer import train_tokenizer
from posttrain.pocket.world import World, build_world
from posttrain.recipes.config import command
from posttrain.recipes.pocket_config import PocketBuildConfig
from posttrain.train.checkpoint import Checkpoints
from posttrain.train.interrupt import Interrupt
from posttrain.train.loop import train
from posttrain.train.objectives import SFT
from posttrain.train.optim import adamw, schedule
from posttrain.train.progress import ProgressBar
from posttrain.train.report import write_report
from posttrain.train.runlog import RunFolder, fingerprint
from posttrain.types import Batch, Document, Sample

STEPS_PER_SHARD = 64  # steps planned together; a shard is remade from its number alone, so nothing is stored
TOKENIZER_CHARACTERS = 4_000_000


class WorldStream:
    """Endless pre-training steps: shard k is the documents of seed k, packed; each document is met once."""

    def __init__(self, world: World, tokenizer: Any, *, row_tokens: int, rows_per_step: int, seed: int) -> None:
        self.world, self.tokenizer, self.seed = world, tokenizer, seed
        self.row_tokens, self.rows_per_step = row_tokens, rows_per_step
        self._shard = lru_cache(maxsize=2)(self._make_shard)

    def step(self, step: int) -> list[Batch]:
        shard, within = divmod(step, STEPS_PER_SHARD)
        return self._shard(shard).step(within)

    def epoch_of(self, step: int) -> float:
        """Every document is new, so an epoch is never over: shards done."""
        return step / STEPS_PER_SHARD

    def _make_shard(self, shard: int) -> Stream:
        need = int(STEPS_PER_SHARD * self.rows_per_step * self.row_tokens * 1.03)  # some rows stay a little short
        samples, size = [], 0
        for sample in self._samples(shard):
            samples.append(sample)
            size += sample.num_tokens
            if size >= need:
                break
        return Stream(samples, max_length=self.row_tokens, batch_size=self.rows_per_step, seed=self.seed + shard)

    def _samples(self, shard: int) -> Iterator[Sample]:
        for kind, text in documents(self.world, seed=self.seed * 100_000 + shard + 1):
            sample = truncate(render_document(Document(text, kind), self.tokenizer), self.row_tokens)
            if sample is not None:
                yield sample


def run(config: PocketBuildConfig) -> int:
    torch.manual_seed(config.seed)
    folder = RunFolder(config.output_dir, resume=config.resume_from_checkpoint)
    world = build_world(config.world_seed)
    texts = (text for _, text in islice(documents(world, seed=0), TOKENIZER_CHARACTERS // 600))
    policy = Policy(_model(config), train_tokenizer(texts, config.vocab_size), "pocket")
    stream = WorldStream(
        world, policy.tokenizer, row_tokens=config.row_tokens, rows_per_step=config.rows_per_step, seed=config.seed
    )
    steps = max(1, config.num_tokens // (config.row_tokens * config.rows_per_step))
    install_attention(policy.model)
    fuse(policy.model)
    optimizer = adamw(
        policy.model, learning_rate=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.95)
    )
    folder.begin(
        {
            "verb": config.verb,
            "command": command(config),
            "config": config.model_dump(),
            "inputs": [{"path": "pocket world", "facts": len(world.facts), "mixture": MIXTURE}],
            "model": {"parameters": policy.num_parameters, "trainable": policy.num_trainable},
            "seeds": {"seed": config.seed, "world_seed": config.world_seed},
            "parent": None,
        }
    )
    checkpoints = Checkpoints(folder.path, fingerprint=fingerprint(config.model_dump(exclude={"resume_from_checkpoint"})))
    warmup = round(config.warmup_ratio * steps)
    with ProgressBar("pre-training", steps) as bar, Interrupt() as interrupt:
        folder.watchers.append(bar)
        done = train(
            policy,
            stream,
            SFT,
            optimizer=optimizer,
            rate=schedule("cosine", peak=config.learning_rate, total_steps=steps, warmup_steps=warmup, min_ratio=0.05),
            total_steps=steps,
            checkpoints=checkpoints,
            log=folder,
            bf16=has_fast_bf16(policy.device),
            logging_steps=20,
            save_steps=config.save_steps,
            resume=config.resume_from_checkpoint,
            should_stop=interrupt,
        )
    folder.end(done.status, {"steps": done.state.step, "tokens": done.state.num_tokens})
    write_report(folder.path)
    if done.status == "interrupted":
        print(f"saved at step {done.state.step}; go on with: {command(config)} --resume-from-checkpoint")
        return 130
    policy.model.to(torch.bfloat16)
    save(policy, folder.path)
    write_card(folder.path)
    print(f"wrote the base to {folder.path}")
    return 0


def write_card(folder: Path) -> None:
    """README.md of the base: data, steps and losses, from the numbers of its run."""
    record = json.loads((folder / "run.json").read_text())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    config, shares = record["config"], record["inputs"][0]["mixture"]
    losses = "\n".join(f"| {line['step']} | {line['loss']:.3f} |" for line in lines[:: max(1, len(lines) // 12)])
    (folder / "README.md").write_text(f"""# pocket base

A base language model of {record["model"]["parameters"]:,} parameters (Llama-shaped, {config["num_layers"]} layers of
{config["hidden_size"]}, {config["vocab_size"]} tokens) that completes text about a small generated world. It is made to
be post-trained: it knows {record["inputs"][0]["facts"]:,} facts when asked to complete a sentence, and answers a
question with more questions.

**Data.** Written by a seeded program, nothing else: {", ".join(f"{kind} {share:.0%}" for kind, share in shares.items())}
(by characters). Facts of every entity appear in several wordings; questions are answered for one half of the entities
only, in lists of another dress, and one two-digit sum in ten never appears.

**Training.** {record["result"]["steps"]:,} steps of {config["rows_per_step"]} rows of {config["row_tokens"]} tokens
({record["result"]["tokens"]:,} tokens, each seen once), AdamW, peak rate {config["learning_rate"]}, cosine to 5 %,
weight decay {config["weight_decay"]}, bfloat16 autocast, on {record["hardware"]["cpu"]}. Weights are stored in bfloat16.

| step | loss |
|---|---|
{losses}
| {lines[-1]["step"]} | {lines[-1]["loss"]:.3f} |

**Made by** `{record["command"]}`; the same command makes it again. It knows nothing beyond its world and must not be
asked for advice.
""")


def _model(config: PocketBuildConfig) -> LlamaForCausalLM:
    shape = LlamaConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=-(-config.hidden_size * 10 // 3 // 64) * 64,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_heads,
        max_position_embeddings=config.row_tokens,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=1,
    )
    return LlamaForCausalLM(shape)
