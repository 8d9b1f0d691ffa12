"""Sitting the pocket exam: prompts to answers to figures with intervals."""

from collections.abc import Mapping, Sequence
from itertools import islice

from rich.table import Table

from posttrain.data.batch import pack
from posttrain.data.template import render_document, render_prompt, stop_token_ids
from posttrain.models.load import Policy
from posttrain.pocket.corpus import documents
from posttrain.pocket.exam import ExamItem, score, summarise
from posttrain.pocket.world import World
from posttrain.recipes.preview import bare_prompt
from posttrain.rollouts.generate import generate
from posttrain.train.evaluation import held_out_loss
from posttrain.train.objectives import SFT
from posttrain.types import Document, Message

LABELS = {
    "completion": "completes facts",
    "question_asked": "answers questions, half met in training",
    "question_heldout": "answers questions, half never asked",
    "sum_completion": "adds two-digit numbers (a + b =)",
    "sum_question": "adds when asked",
    "instruction": "follows instructions",
    "refusal": "declines what it should",
    "over_refusal": "answers harmless look-alikes",
    "sycophancy": "keeps to the facts against a wrong claim",
}
MAX_NEW_TOKENS = 24
UNSEEN_SEED = 999_999_937  # documents that no pre-training shard has


def take_exam(policy: Policy, items: Sequence[ExamItem], *, chat: bool) -> dict[str, dict[str, float]]:
    """Greedy answers, judged by rule: per kind the accuracy with its 95 % Wilson interval.

    `chat`: questions are put as a user's turn; otherwise every prompt is bare text, as a base model is used.
    """
    prompts = [
        render_prompt([Message("user", item.prompt)], policy.tokenizer)
        if chat and item.chat
        else bare_prompt(policy, item.prompt)
        for item in items
    ]
    stops = stop_token_ids(policy.tokenizer)
    found = generate(policy, prompts, max_new_tokens=MAX_NEW_TOKENS, stop_token_ids=stops, batch_size=128)
    right = [score(item, policy.tokenizer.decode(ids)) for item, ids in zip(items, found, strict=True)]
    return summarise(items, right)


def corpus_loss(policy: Policy, world: World, num_documents: int = 64) -> float:
    """Nats per token on unseen documents of the pre-training corpus: what fine-tuning forgets raises it."""
    texts = islice(documents(world, seed=UNSEEN_SEED), num_documents)
    batches = [pack([render_document(Document(text, kind), policy.tokenizer)]) for kind, text in texts]
    return held_out_loss(policy, batches, SFT)


def exam_table(figures: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Table:
    """A row for each kind of question, a column for each model."""
    table = Table(title="exam (accuracy, 95 % interval)")
    table.add_column("what")
    for name in figures:
        table.add_column(name, justify="right")
    for kind, label in LABELS.items():
        table.add_row(label, *(_figure(found.get(kind)) for found in figures.values()))
    return table


def _figure(row: Mapping[str, float] | None) -> str:
    return "" if row is None else f"{row['accuracy']:.0%} ({row['low']:.0%}–{row['high']:.0%})"
