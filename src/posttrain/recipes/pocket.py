"""`posttrain pocket build`: the embedded base model, from nothing but its generated world."""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import asdict
from itertools import accumulate, islice

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from posttrain.models.attention import install_attention
from posttrain.models.fused import fuse
from posttrain.models.load import Policy, save
from posttrain.models.precision import has_fast_bf16
from posttrain.pocket.card import write_card
from posttrain.pocket.corpus import PHASES, documents
from posttrain.pocket.stream import WorldStream
from posttrain.pocket.tokenizer import train_tokenizer
from posttrain.pocket.world import World, build_world
from posttrain.recipes.config import command
from posttrain.recipes.pocket_config import PocketBuildConfig
from posttrain.train.checkpoint import Checkpoints
from posttrain.train.interrupt import Interrupt
from posttrain.train.loop import Run, train
from posttrain.train.objectives import SFT
from posttrain.train.optim import adamw, schedule
from posttrain.train.progress import ProgressBar
from posttrain.train.report import write_report
from posttrain.train.runlog import RunFolder, fingerprint

TOKENIZER_CHARACTERS = 4_000_000


def run(config: PocketBuildConfig) -> int:
    """Write the world, train its tokenizer, then the model; phase after phase, checkpointed."""
    torch.manual_seed(config.seed)
    folder = RunFolder(config.output_dir, resume=config.resume_from_checkpoint)
    world = build_world(config.world_seed)
    texts = (text for _, text in islice(documents(world, seed=0), TOKENIZER_CHARACTERS // 600))
    policy = Policy(_model(config), train_tokenizer(texts, config.vocab_size), "pocket")
    install_attention(policy.model)
    fuse(policy.model)
    folder.begin(
        {
            "verb": config.verb,
            "command": command(config.model_copy(update={"resume_from_checkpoint": False})),
            "config": config.model_dump(),
            "inputs": [{"path": "pocket world", "facts": len(world.facts), "phases": [asdict(p) for p in PHASES]}],
            "model": {"parameters": policy.num_parameters, "trainable": policy.num_trainable},
            "seeds": {"seed": config.seed, "world_seed": config.world_seed},
            "parent": None,
        }
    )
    done = _train(config, policy, world, folder)
    folder.end(done.status, {"steps": done.state.step, "tokens": done.state.num_tokens})
    write_report(folder.path)
    if done.status == "interrupted":
        again = command(config.model_copy(update={"resume_from_checkpoint": True}))
        print(f"saved at step {done.state.step}; go on with: {again}")
        return 130
    policy.model.to(torch.bfloat16)
    save(policy, folder.path)
    write_card(folder.path)
    print(f"wrote the base to {folder.path}")
    return 0


def _train(config: PocketBuildConfig, policy: Policy, world: World, folder: RunFolder) -> Run:
    step_tokens = config.row_tokens * config.rows_per_step
    phases = [(int(phase.num_tokens * config.share) // step_tokens, phase.learning_rate) for phase in PHASES]
    stream = WorldStream(
        world,
        policy.tokenizer,
        row_tokens=config.row_tokens,
        rows_per_step=config.rows_per_step,
        phase_steps=[steps for steps, _ in phases],
        seed=config.seed,
    )
    total = sum(steps for steps, _ in phases)
    free = {"resume_from_checkpoint", "output_dir", "save_steps"}
    checkpoints = Checkpoints(folder.path, fingerprint=fingerprint(config.model_dump(exclude=free)))
    with ProgressBar("pre-training", total) as bar, Interrupt() as interrupt:
        folder.watchers.append(bar)
        return train(
            policy,
            stream,
            SFT,
            optimizer=adamw(
                policy.model, learning_rate=phases[0][1], weight_decay=config.weight_decay, betas=(0.9, 0.95)
            ),
            rate=_in_phases(phases, config.warmup_ratio),
            total_steps=total,
            checkpoints=checkpoints,
            log=folder,
            bf16=has_fast_bf16(policy.device),
            logging_steps=20,
            save_steps=config.save_steps,
            resume=config.resume_from_checkpoint,
            should_stop=interrupt,
        )


def _in_phases(phases: list[tuple[int, float]], warmup_ratio: float) -> Callable[[int], float]:
    """Warm-up and cosine to 5 %, once a phase of (steps, peak)."""
    ends = list(accumulate(steps for steps, _ in phases))
    rates = [
        schedule("cosine", peak=peak, total_steps=steps, warmup_steps=round(warmup_ratio * steps), min_ratio=0.05)
        for steps, peak in phases
    ]

    def rate(step: int) -> float:
        phase = min(bisect_right(ends, step), len(ends) - 1)
        return rates[phase](step - (ends[phase - 1] if phase else 0))

    return rate


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
