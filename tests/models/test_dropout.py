"""Dropout that a model brings along is turned off, and an adapter's own is not."""

from types import ModuleType

import pytest
import torch

from posttrain.data.batch import pack
from posttrain.models.attention import install_attention
from posttrain.models.dropout import drop_nothing
from posttrain.models.load import Policy
from posttrain.models.logprobs import token_logps
from posttrain.models.lora import add_lora

WITH_DROPOUT = {
    "gpt2": {"resid_pdrop": 0.3, "embd_pdrop": 0.3, "attn_pdrop": 0.3},
    "gpt_neox": {"hidden_dropout": 0.3, "attention_dropout": 0.3},
    "llama": {"attention_dropout": 0.3},
}


@pytest.mark.parametrize("family", WITH_DROPOUT)
def test_training_computes_what_evaluation_does(tiny: ModuleType, family: str) -> None:
    model = tiny.model(family, **WITH_DROPOUT[family])
    install_attention(model)
    batch = pack(tiny.trees([[(9, -1), (4, 0), (3, 0)]]))
    with torch.no_grad():
        wanted = token_logps(model.eval(), batch)
        assert not torch.allclose(token_logps(model.train(), batch), wanted, atol=1e-3)  # it was on
        drop_nothing(model)
        assert torch.allclose(token_logps(model.train(), batch), wanted, atol=1e-5)


def test_an_adapters_own_dropout_stays(tiny: ModuleType) -> None:
    policy: Policy = tiny.policy("llama")
    drop_nothing(policy.model)
    policy = add_lora(policy, r=4, dropout=0.5)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.1)
        batch = pack(tiny.trees([[(9, -1), (4, 0)]]))
        wanted = token_logps(policy.model.eval(), batch)
        assert not torch.allclose(token_logps(policy.model.train(), batch), wanted, atol=1e-3)
