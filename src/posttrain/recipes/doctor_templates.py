"""What a model's losses under several chat templates say of the chosen one."""

from collections.abc import Sequence

from posttrain.data.findings import Finding
from posttrain.models.load import load
from posttrain.recipes.doctor_config import DoctorConfig
from posttrain.recipes.doctor_loss import OWN, TemplateLoss, template_losses
from posttrain.recipes.policy import resolve_model
from posttrain.types import Conversation

MARGIN = 0.02
"""Nats a token: a smaller gain than this is no reason to change a template, however sure it is."""


def compare_templates(
    config: DoctorConfig, conversations: Sequence[Conversation], has_template: bool
) -> tuple[list[TemplateLoss], list[Finding]]:
    """Losses under every template that the model's vocabulary knows, and what they say of the chosen one."""
    if not has_template:
        said = "a base model: no template is known to it, so none can be the wrong one"
        return [], [Finding("pass", "template_loss", said)]
    rows = template_losses(load(resolve_model(config.model)), conversations, config.chat_template)
    return rows, template_findings(rows)


def unknown(rows: Sequence[TemplateLoss]) -> str:
    """Which templates could not be measured since the model has not learned their tokens, in words."""
    return ", ".join(f"{row.name} (adds {row.num_added})" for row in rows if row.num_added)


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
