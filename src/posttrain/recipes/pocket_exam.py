"""`posttrain pocket exam`: what a model knows of the pocket world, with intervals."""

import json
from pathlib import Path

from rich.console import Console

from posttrain.models.attention import install_attention
from posttrain.models.load import load
from posttrain.pocket.exam import exam_items
from posttrain.pocket.world import build_world
from posttrain.recipes.exam import corpus_loss, exam_table, take_exam
from posttrain.recipes.pocket_exam_config import PocketExamConfig
from posttrain.recipes.policy import resolve_model


def run(config: PocketExamConfig) -> int:
    """Ask, judge, print; write the figures where a file is named."""
    console = Console(highlight=False, soft_wrap=True)
    world = build_world()
    policy = load(resolve_model(config.model))
    install_attention(policy.model)
    chat = policy.tokenizer.chat_template is not None if config.chat is None else config.chat
    figures = take_exam(policy, exam_items(world, seed=config.seed, per_kind=config.exam_items), chat=chat)
    loss = corpus_loss(policy, world)
    console.print(exam_table({config.model: figures}))
    console.print(f"loss on unseen text of the pre-training corpus: {loss:.3f} nats a token")
    if config.output_file:
        found = {"model": config.model, "chat": chat, "exam": figures, "corpus_loss": loss}
        Path(config.output_file).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0
