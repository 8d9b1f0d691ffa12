"""Dropout that a family brings along, turned off where two log-probabilities of one answer are compared."""

from typing import Any

from torch import nn


def drop_nothing(model: Any) -> None:
    """Set every dropout of a transformers model to 0, those inside its attention too. Adapters that are added later
    keep their own."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "attn_dropout_prob", "dropout_p"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    for name in ("attention_dropout", "attn_pdrop", "hidden_dropout"):
        if isinstance(getattr(model.config, name, None), float):
            setattr(model.config, name, 0.0)
