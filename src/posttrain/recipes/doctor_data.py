"""From the keys of `posttrain doctor` to a diagnosis: what was read, what was found, what it looks like in tokens."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from posttrain.data.checks import check_lengths, check_records, check_samples, check_template, path_length
from posttrain.data.findings import Finding, Level, verdict
from posttrain.data.template import control_tokens, install_template, render_document, render_many, stop_token_ids
from posttrain.recipes.doctor_config import DoctorConfig
from posttrain.recipes.doctor_loss import TemplateLoss
from posttrain.recipes.doctor_machine import fit_to_model, generation_findings, load_tokenizer
from posttrain.recipes.doctor_reading import read_entries, sampled, to_train
from posttrain.recipes.doctor_templates import compare_templates
from posttrain.recipes.doctor_view import View, view
from posttrain.recipes.policy import resolve_model
from posttrain.types import Conversation, Document, Sample


@dataclass
class Diagnosis:
    """What `posttrain doctor` tells of data. `notes` say what was sampled or changed; `lengths` and `num_trained` are
    of the rows that were turned into tokens."""

    max_length: int
    findings: list[Finding] = field(default_factory=list)
    inputs: list[dict[str, Any]] = field(default_factory=list)
    layouts: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    num_trained: int = 0
    losses: list[TemplateLoss] = field(default_factory=list)
    views: list[View] = field(default_factory=list)

    @property
    def verdict(self) -> Level:
        """The worst level of all findings."""
        return verdict(self.findings)


def diagnose(config: DoctorConfig) -> Diagnosis:
    """Read, check, render, check, measure. Raises DataError and ModelError where nothing can be looked at."""
    max_length, note = fit_to_model(config)
    found = Diagnosis(max_length, notes=[note] if note else [])
    data, held_out = read_entries(config.dataset), read_entries(config.eval_dataset, held_out=True)
    found.inputs, found.layouts = [*data.inputs, *held_out.inputs], data.layouts
    tokenizer = load_tokenizer(resolve_model(config.model))
    has_template = tokenizer.chat_template is not None
    if config.chat_template == "raw":
        tokenizer.chat_template = None
    elif config.chat_template or not has_template:
        install_template(tokenizer, config.chat_template or "chatml")
    chats, documents = to_train(data)
    found.findings += check_records(
        data.records,
        held_out=held_out.records,
        controls=control_tokens(tokenizer),
        left_out=data.left_out,
        num_rows=data.num_rows,
        skipped=[*data.skipped, *held_out.skipped],
    )
    looked_at = sampled(chats, lambda chat: sum(len(turn.content) for turn in chat.messages), config, found.notes)
    _check_chats(config, found, looked_at, tokenizer)
    texts = sampled(documents, lambda document: len(document.text), config, found.notes)
    _check_documents(config, found, texts, tokenizer)
    if chats and has_template:
        found.findings += generation_findings(config, tokenizer)
    if chats and config.num_loss_samples and config.chat_template != "raw":
        drawn = random.Random(config.seed).sample(chats, min(config.num_loss_samples, len(chats)))
        found.losses, findings = compare_templates(config, drawn, has_template)
        found.findings += findings
    return found


def _check_chats(config: DoctorConfig, found: Diagnosis, chats: Sequence[Conversation], tokenizer: Any) -> None:
    if not chats:
        return
    found.findings += check_template(tokenizer)
    samples = render_many(chats, tokenizer, train_on=config.train_on)
    whole = [sample for sample in samples if isinstance(sample, Sample)]
    stops = stop_token_ids(tokenizer) if whole else []
    found.findings += check_samples(
        samples, max_length=found.max_length, stop_ids=stops, begin_id=tokenizer.bos_token_id
    )
    _remember(config, found, whole, tokenizer)


def _check_documents(config: DoctorConfig, found: Diagnosis, documents: Sequence[Document], tokenizer: Any) -> None:
    samples = [render_document(document, tokenizer) for document in documents]
    found.findings += check_lengths([s.num_tokens for s in samples], [s.num_trained for s in samples])
    _remember(config, found, samples, tokenizer)


def _remember(config: DoctorConfig, found: Diagnosis, samples: Sequence[Sample], tokenizer: Any) -> None:
    """Keep the lengths of all samples and a few of them in full."""
    found.lengths += [path_length(sample) for sample in samples]
    found.num_trained += sum(sample.num_trained for sample in samples)
    shown = random.Random(config.seed).sample(samples, min(config.examples, len(samples)))
    found.views += [view(sample, tokenizer, found.max_length) for sample in shown]
