"""A model's loss under one chat template against the others: the wrong template is the wrong behaviour, measured."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from posttrain.data.batch import pack
from posttrain.data.findings import Finding
from posttrain.data.shipped import SHIPPED
from posttrain.data.template import install_template, render_many, stop_token_ids
from posttrain.errors import DataError
from posttrain.models.attention import install_attention
from posttrain.models.load import Policy, context_length, load
from posttrain.models.logprobs import token_logps
from posttrain.recipes.doctor_config import DoctorConfig
from posttrain.recipes.policy import resolve_model
from posttrain.types import Conversation, Sample

OWN = "the model's own"
MARGIN = 0.02
"""Nats a token: a smaller gain than this is no reason to change a template, however sure it is."""


@dataclass(frozen=True, slots=True)
class TemplateLoss:
    """Mean negative log-probability of a token of the answers, in nats, stop tokens apart; None where the template
    needs tokens that the model has not learned. `against`: the difference from the chosen template, paired by
    conversation, and the ends of its 95 % interval."""

    name: str
    is_chosen: bool
    num_added: int = 0
    num_conversations: int = 0
    loss: float | None = None
    stop_loss: float | None = None
    against: tuple[float, float, float] | None = None
    refusal: str = ""


def compare_templates(
    config: DoctorConfig, conversations: Sequence[Conversation], has_template: bool
) -> tuple[list[TemplateLoss], list[Finding]]:
    """Losses under every template that the model's vocabulary knows, and what they say of the chosen one."""
    if not has_template:
        said = "a base model: no template is known to it, so none can be the wrong one"
        return [], [Finding("pass", "template_loss", said)]
    rows = template_losses(load(resolve_model(config.model)), conversations, config.chat_template)
    return rows, template_findings(rows)


def template_losses(policy: Policy, conversations: Sequence[Conversation], chosen: str | None) -> list[TemplateLoss]:
    """The chosen template (None: the model's own) first, then the model's own and every shipped one."""
    install_attention(policy.model)
    policy.model.eval()
    names = list(dict.fromkeys([chosen or OWN, OWN, *SHIPPED]))
    measured: dict[str, dict[int, tuple[float, float]]] = {}
    rows: list[TemplateLoss] = []
    for name in names:
        tokenizer = copy.deepcopy(policy.tokenizer)
        is_chosen = name == names[0]
        try:
            num_added = 0 if name == OWN else install_template(tokenizer, name)
            if num_added:
                rows.append(TemplateLoss(name, is_chosen, num_added))
                continue
            measured[name] = _losses(policy, tokenizer, conversations)
        except DataError as error:
            rows.append(TemplateLoss(name, is_chosen, refusal=str(error)))
            continue
        rows.append(_row(name, is_chosen, measured[name], measured.get(names[0], {})))
    # A shipped template that writes what the model's own writes is the same one by another name.
    return [row for row in rows if row.is_chosen or row.name == OWN or measured.get(row.name) != measured.get(OWN)]


def unknown(rows: Sequence[TemplateLoss]) -> str:
    """Which templates could not be measured since the model has not learned their tokens, in words."""
    return ", ".join(f"{row.name} (adds {row.num_added})" for row in rows if row.num_added)


@torch.no_grad()
def _losses(policy: Policy, tokenizer: Any, conversations: Sequence[Conversation]) -> dict[int, tuple[float, float]]:
    """By conversation: nats a token of what is said, and nats of the stop tokens."""
    stops = torch.tensor(stop_token_ids(tokenizer), device=policy.device)
    found = {}
    for place, sample in enumerate(render_many(conversations, tokenizer)):
        if not isinstance(sample, Sample) or sample.num_tokens > context_length(policy):
            continue
        batch = pack([sample]).to(policy.device)
        nats_N = -token_logps(policy.model, batch).double()
        is_stop_N = torch.isin(batch.target_ids_N, stops)
        if not is_stop_N.all():
            found[place] = (float(nats_N[~is_stop_N].mean()), float(nats_N[is_stop_N].mean()))
    if not found:
        raise DataError("no conversation could be written with it within the model's context.")
    return found


def _row(
    name: str, is_chosen: bool, mine: dict[int, tuple[float, float]], chosen: dict[int, tuple[float, float]]
) -> TemplateLoss:
    said, stop = (sum(pair[i] for pair in mine.values()) / len(mine) for i in (0, 1))
    gaps = [mine[place][0] - chosen[place][0] for place in mine if place in chosen]
    against = None if is_chosen or len(gaps) < 2 else (sum(gaps) / len(gaps), *mean_interval(gaps))
    return TemplateLoss(name, is_chosen, 0, len(mine), said, stop, against)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of a mean by Student's t, whose quantile comes from its expansion around the normal one (Cornish
    and Fisher, 1938): right to 0.01 from six values on."""
    count = len(values)
    mean = sum(values) / count
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))
    z, free = 1.959964, count - 1
    t = z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
    t += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * free**3)
    half = t * spread / math.sqrt(count)
    return mean - half, mean + half


def template_findings(rows: Sequence[TemplateLoss]) -> list[Finding]:
    """Is another template clearly better, and does the chosen one need tokens that the model has not learned?"""
    chosen = rows[0]
    if chosen.num_added:
        mend = "leave chat_template out, so that the model's own is used; it knows that one."
        said = f"template {chosen.name} adds {chosen.num_added} untrained tokens to a model that has a template"
        return [Finding("warn", "template_loss", said, mend)]
    if chosen.loss is None:
        return []
    said = f"answers cost {chosen.loss:.3f} nats a token under {chosen.name}"
    gains = [(row.against, row) for row in rows if row.against]
    better = [(gap, row) for gap, row in gains if gap[0] < -MARGIN and gap[2] < 0]
    if not better:
        return [Finding("pass", "template_loss", f"{said}; no other known template is clearly better")]
    (mean, low, high), best = min(better, key=lambda pair: pair[0])
    gain = f"{-mean:.3f} (95 % interval {-high:.3f} to {-low:.3f})"
    message = f"{said}, and {gain} less under {best.name}, over {best.num_conversations} conversations"
    use = "leave chat_template out" if best.name == OWN else f"use chat_template: {best.name}"
    return [Finding("warn", "template_loss", message, f"the model was probably tuned with that one; {use}.")]
