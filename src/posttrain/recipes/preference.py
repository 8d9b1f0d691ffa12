"""`posttrain dpo`, `kto`, `orpo`, `simpo`, `cpo`: learning from preferences without a reward model, on the one loop."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from rich.console import Console

from posttrain.data.batch import pack
from posttrain.data.cache import cache_folder
from posttrain.data.mismatched import Mismatched
from posttrain.data.packing import plan_rows
from posttrain.data.store import TokenStore
from posttrain.errors import DataError, ModelError
from posttrain.evals.reward_lines import reward_lines
from posttrain.models.attention import install_attention
from posttrain.models.load import Policy, load
from posttrain.models.logprobs import causal_lm
from posttrain.models.lora import merge_lora
from posttrain.models.vocabulary import grow_embeddings
from posttrain.recipes.implicit_reward import implicit_report
from posttrain.recipes.mixing import open_stream
from posttrain.recipes.policy import fit_length, load_policy, resolve_model
from posttrain.recipes.preference_config import PreferenceConfig
from posttrain.recipes.preference_objectives import objective_of
from posttrain.recipes.preview import answer, write_samples
from posttrain.recipes.processes import in_processes
from posttrain.recipes.sharing import share_models
from posttrain.recipes.training import finish, fit, uses_bf16
from posttrain.recipes.training_data import held_batches, load_data
from posttrain.train.reference import with_reference
from posttrain.train.runlog import RunFolder
from posttrain.types import Batch, Sample

Collate = Callable[[list[int]], Batch]


@in_processes
def run(config: PreferenceConfig, console: Console) -> int:
    """Load, read, ask the reference, train, save."""
    folder = RunFolder(config.output_dir, resume=config.resume_from_checkpoint, overwrite=config.overwrite_output_dir)
    torch.manual_seed(config.seed)

    policy, has_template = load_policy(config)
    config = fit_length(config, policy, console.print)
    data = load_data(config, policy.tokenizer, console.print)
    before = answer(policy, data.preview, with_template=has_template)

    if config.strategy == "fsdp" and not config.protection:
        share_models(config, policy, bf16=uses_bf16(config, policy))  # the reference is asked by all together
    collate, collate_held = _collators(config, policy, [data.train, data.held_out], console.print)
    stream = open_stream(config, data.train, data.parts, console.print, may_exceed=True, collate=collate)
    held_out = held_batches(data.held_out, data.held_out.length_S, config.max_length, collate_held)
    done = fit(config, policy, objective_of(config), stream, held_out, data.inputs, folder, console)
    if done.status == "interrupted":
        return 130
    write_samples(folder, data.preview, before, answer(policy, data.preview, with_template=True))
    if len(data.held_out) and config.kind == "pairs":
        shape: dict[str, Any] = {"row_length": config.max_length, "bf16": uses_bf16(config, policy)}
        report = implicit_report(policy, data.train, data.held_out, collate_held, beta=config.beta, **shape)
        folder.save("reward.json", report)
        for line in reward_lines(report):
            console.print(line)
    finish(done, folder, console)
    return 0


def _collators(config: Any, policy: Policy, stores: Sequence[TokenStore], say: Callable[[str], None]) -> list[Collate]:
    """For each store, from the numbers of samples to their batch, with what the reference thinks of them."""
    if not config.needs_reference:
        return [_collate(store, None, config.max_length) for store in stores]
    mixed = [_mismatched(config, store) for store in stores]  # what the data lacks is said before a long pass
    reference = _reference_policy(config, policy)
    folder, bf16 = cache_folder() / "reference" if config.reference_cache else None, uses_bf16(config, reference)

    def ask(samples: Sequence[Sample]) -> Sequence[Sample]:
        if not len(samples):
            return samples
        return with_reference(reference, samples, row_length=config.max_length, bf16=bf16, folder=folder, say=say)

    return [
        _collate(ask(store), None if others is None else ask(others), config.max_length)
        for store, others in zip(stores, mixed, strict=True)
    ]


def _mismatched(config: Any, store: TokenStore) -> Mismatched | None:
    if config.verb != "kto" or config.loss_type != "kto" or not len(store):
        return None
    try:
        return Mismatched(store, max_length=config.max_length, seed=config.seed)
    except DataError as error:
        place = ", ".join(entry.path for entry in config.dataset)
        raise DataError(f"{error} Of held-out rows too: raise eval_split, or leave it out.", file=place) from None


def _reference_policy(config: Any, policy: Policy) -> Policy:
    """Whose log-probabilities hold the policy: its own as it stands now, or another model's."""
    if config.reference_model is None:
        return policy
    reference = load(resolve_model(config.reference_model))
    if causal_lm(reference.model) is not reference.model:
        reference = merge_lora(reference)
    known, ours = reference.tokenizer.get_vocab(), policy.tokenizer.get_vocab()
    if any(ours.get(token) != place for token, place in known.items()):
        raise ModelError(f"{config.reference_model} has another vocabulary than {config.model}: name one of its kin.")
    grow_embeddings(reference.model, len(policy.tokenizer), seed=config.seed)  # tokens of a template that it lacks
    install_attention(reference.model, config.attn)
    return reference


def _collate(samples: Sequence[Sample], others: Sequence[Sample] | None, row_length: int) -> Collate:
    def collate(indices: list[int]) -> Batch:
        batch = pack([samples[i] for i in indices])
        if others is None:
            return batch
        mixed = [others[i] for i in indices]
        rows = plan_rows([sample.num_tokens for sample in mixed], row_length, seed=0)
        return replace(batch, baseline=tuple(pack([mixed[i] for i in row]) for row in rows))

    return collate
