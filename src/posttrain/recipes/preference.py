"""`posttrain dpo`, `kto`, `orpo`, `simpo`, `cpo`: learning from preferences without a reward model, on the one loop."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from rich.console import Console

from posttrain.data.batch import pack
from posttrain.data.cache import cache_folder
from posttrain.data.mismatched import Mismatched
from posttrain.data.store import TokenStore
from posttrain.errors import ModelError
from posttrain.models.attention import install_attention
from posttrain.models.load import Policy, load
from posttrain.recipes.mixing import open_stream
from posttrain.recipes.policy import fit_length, load_policy, resolve_model
from posttrain.recipes.preference_config import PreferenceConfig
from posttrain.recipes.preference_objectives import objective_of
from posttrain.recipes.preview import answer, write_samples
from posttrain.recipes.training import finish, fit, uses_bf16
from posttrain.recipes.training_data import held_batches, load_data
from posttrain.train.reference import with_reference
from posttrain.train.runlog import RunFolder
from posttrain.types import Batch, Sample

Say = Callable[[str], None]


def run(config: PreferenceConfig) -> int:
    """Load, read, ask the reference, train, save."""
    console = Console(highlight=False, soft_wrap=True)
    folder = RunFolder(config.output_dir, resume=config.resume_from_checkpoint, overwrite=config.overwrite_output_dir)
    torch.manual_seed(config.seed)

    policy, has_template = load_policy(config)
    config = fit_length(config, policy, console.print)
    data = load_data(config, policy.tokenizer, console.print)
    before = answer(policy, data.preview, with_template=has_template)

    row_length = max([config.max_length, *data.train.length_S.tolist(), *data.held_out.length_S.tolist()])
    reference = _reference_policy(config, policy)
    prepare = partial(_collator, config, reference, row_length=row_length, say=console.print)
    collate = prepare(data.train)
    held_out = held_batches(data.held_out, data.held_out.length_S, row_length, prepare(data.held_out))
    del reference, prepare
    stream = open_stream(config, data.train, data.parts, console.print, row_length=row_length, collate=collate)
    done = fit(config, policy, objective_of(config), stream, held_out, data.inputs, folder, console)
    if done.status == "interrupted":
        return 130
    write_samples(folder, data.preview, before, answer(policy, data.preview, with_template=True))
    finish(done, folder, console)
    return 0


def _reference_policy(config: Any, policy: Policy) -> Policy:
    """Whose log-probabilities hold the policy: its own as it stands now, or another model's."""
    if not config.needs_reference or config.reference_model is None:
        return policy
    reference = load(resolve_model(config.reference_model))
    if reference.tokenizer.get_vocab() != policy.tokenizer.get_vocab():
        raise ModelError(f"{config.reference_model} has another vocabulary than {config.model}: name one of its kin.")
    install_attention(reference.model, config.attn)
    return reference


def _collator(
    config: Any, reference: Policy, store: TokenStore, *, row_length: int, say: Say
) -> Callable[[list[int]], Batch]:
    """From the numbers of samples to their batch, with what the reference thinks of them."""
    samples: Sequence[Sample] = store
    others: Sequence[Sample] | None = None
    if config.needs_reference and len(store):
        folder = cache_folder() / "reference" if config.reference_cache else None
        ask = partial(
            with_reference,
            reference,
            row_length=row_length,
            bf16=uses_bf16(config, reference),
            folder=folder,
            say=say,
        )
        samples = ask(store)
        if config.verb == "kto" and config.loss_type == "kto":
            others = ask(Mismatched(store, max_length=config.max_length, seed=config.seed))
    return partial(_collate, samples, others)


def _collate(samples: Sequence[Sample], others: Sequence[Sample] | None, indices: list[int]) -> Batch:
    batch = pack([samples[i] for i in indices])
    return batch if others is None else replace(batch, baseline=pack([others[i] for i in indices]))
