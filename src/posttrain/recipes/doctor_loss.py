"""A model's loss under one chat template against the others: the wrong template is the wrong behaviour, measured."""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from posttrain.data.batch import pack
from posttrain.data.shipped import SHIPPED
from posttrain.data.template import install_template, render_many, stop_token_ids
from posttrain.errors import DataError
from posttrain.models.attention import install_attention
from posttrain.models.load import Policy, context_length
from posttrain.models.logprobs import token_logps
from posttrain.types import Conversation, Sample

Nats = tuple[float, float]  # a token of what is said, and of the stop
OWN = "the model's own"
TOGETHER = 2_048  # tokens in one forward
LONGEST = 4_096  # tokens of a conversation that is measured


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


def template_losses(policy: Policy, conversations: Sequence[Conversation], chosen: str | None) -> list[TemplateLoss]:
    """The chosen template (None: the model's own) first, then the model's own and every shipped one."""
    install_attention(policy.model)
    policy.model.eval()
    names = list(dict.fromkeys([chosen or OWN, OWN, *SHIPPED]))
    rows: list[TemplateLoss] = []
    seen: list[dict[int, Sample]] = []
    baseline: dict[int, Nats] = {}
    for name in names:
        tokenizer = copy.deepcopy(policy.tokenizer)
        is_chosen = name == names[0]
        try:
            num_added = 0 if name == OWN else install_template(tokenizer, name)
            written = {} if num_added else _written(policy, tokenizer, conversations)
        except DataError as error:
            rows.append(TemplateLoss(name, is_chosen, refusal=str(error)))
            continue
        if num_added:
            rows.append(TemplateLoss(name, is_chosen, num_added))
        elif written not in seen:  # what writes the same is the same template by another name
            seen.append(written)
            measured = _losses(policy, written, stop_token_ids(tokenizer))
            baseline = measured if is_chosen else baseline
            silent = TemplateLoss(name, is_chosen, refusal="no answer says anything")
            rows.append(_row(name, is_chosen, measured, baseline) if measured else silent)
    return rows


def _written(policy: Policy, tokenizer: Any, conversations: Sequence[Conversation]) -> dict[int, Sample]:
    """By place: the conversations that the template takes and the model's context holds."""
    rendered = enumerate(render_many(conversations, tokenizer))
    limit = min(context_length(policy), LONGEST)
    found = {place: one for place, one in rendered if isinstance(one, Sample) and one.num_tokens <= limit}
    if not found:
        raise DataError("no conversation could be written with it within the model's context.")
    return found


@torch.no_grad()
def _losses(policy: Policy, samples: Mapping[int, Sample], stop_ids: Sequence[int]) -> dict[int, Nats]:
    """By place: nats a token of what is said, and nats of the stop tokens."""
    stops = torch.tensor(stop_ids)
    found: dict[int, Nats] = {}
    for places in _groups(samples):
        batch = pack([samples[place] for place in places])
        nats_N = -token_logps(policy.model, batch.to(policy.device)).double().cpu()
        is_stop_N = torch.isin(batch.target_ids_N, stops)
        ends = torch.tensor([len(samples[place].segments) for place in places]).cumsum(0)
        sample_N = torch.searchsorted(ends, batch.span_N, right=True)
        for number, place in enumerate(places):
            mine_N = sample_N == number
            said, stop = nats_N[mine_N & ~is_stop_N], nats_N[mine_N & is_stop_N]
            if len(said) and len(stop):
                found[place] = (float(said.mean()), float(stop.mean()))
    return found


def _groups(samples: Mapping[int, Sample]) -> Iterator[list[int]]:
    """Places of samples that go through the model together."""
    group, held = list[int](), 0
    for place, sample in samples.items():
        if group and held + sample.num_tokens > TOGETHER:
            yield group
            group, held = [], 0
        group.append(place)
        held += sample.num_tokens
    yield group


def _row(name: str, is_chosen: bool, mine: dict[int, Nats], chosen: dict[int, Nats]) -> TemplateLoss:
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
