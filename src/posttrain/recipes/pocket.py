"""`posttrain pocket build`: the embedded base model, from nothing but its generated world."""

from collections.abc import Callable
from itertools import islice

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from posttrain.models.attention import install_attention
from posttrain.models.fused import fuse
from posttrain.models.load import Policy, save
from posttrain.models.precision import has_fast_bf16
from posttrain.pocket.card import write_card
from posttrain.pocket.corpus import LATE_MIXTURE, MIXTURE, documents
from posttrain.pocket.stream import WorldStream
from posttrain.pocket.tokenizer import train_tokenizer
from posttrain.pocket.world import build_world
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

TOKENIZER_CHARACTERS = 4_000_000


def run(config: PocketBuildConfig) -> int:
    torch.manual_seed(config.seed)
    folder = RunFolder(config.output_dir, resume=config.resume_from_checkpoint)
    world = build_world(config.world_seed)
    texts = (text for _, text in islice(documents(world, seed=0), TOKENIZER_CHARACTERS // 600))
    policy = Policy(_model(config), train_tokenizer(texts, config.vocab_size), "pocket")
    first, late = _steps(config, config.num_tokens), _steps(config, config.late_num_tokens)
    stream = WorldStream(
        world,
        policy.tokenizer,
        row_tokens=config.row_tokens,
        rows_per_step=config.rows_per_step,
        first_steps=first,
        seed=config.seed,
    )
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
            "inputs": [{"path": "pocket world", "facts": len(world.facts), "mixtures": [MIXTURE, LATE_MIXTURE]}],
            "model": {"parameters": policy.num_parameters, "trainable": policy.num_trainable},
            "seeds": {"seed": config.seed, "world_seed": config.world_seed},
            "parent": None,
        }
    )
    checkpoints = Checkpoints(
        folder.path,
        fingerprint=fingerprint(config.model_dump(exclude={"resume_from_checkpoint", "output_dir", "save_steps"})),
    )
    with ProgressBar("pre-training", first + late) as bar, Interrupt() as interrupt:
        folder.watchers.append(bar)
        done = train(
            policy,
            stream,
            SFT,
            optimizer=optimizer,
            rate=_two_phases(config, first, late),
            total_steps=first + late,
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


def _steps(config: PocketBuildConfig, num_tokens: int) -> int:
    return num_tokens // (config.row_tokens * config.rows_per_step)


def _two_phases(config: PocketBuildConfig, first: int, late: int) -> Callable[[int], float]:
    """Warm-up and cosine to 5 %, twice."""
    early, again = (
        schedule(
            "cosine", peak=peak, total_steps=steps, warmup_steps=round(config.warmup_ratio * steps), min_ratio=0.05
        )
        for peak, steps in ((config.learning_rate, first), (config.late_learning_rate, late))
    )
    return lambda step: early(step) if step < first else again(step - first)


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
