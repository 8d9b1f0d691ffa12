"""The next token of each row of a stream, every row in its own way."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from posttrain.rollouts.decode_draw import Ways, choose_each, filtered
from posttrain.rollouts.decode_rows import Likeliest, Row

SCORED = 64  # places of a prompt whose logits are there at once


@dataclass(frozen=True)
class Drawn:
    """A token with its log-probability; of logits that are no numbers, none."""

    token_id: int
    logp: float
    top: Likeliest
    is_sound: bool


class Choice:
    """Draws for batches of rows; what follows from their jobs alone is made once for as long as they stay the same."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.rows: list[Row] = []
        self.ways: Ways | None = None
        self.bias: tuple[Tensor, Tensor, Tensor] | None = None
        self.banned: list[int] = []  # rows that may have to go on
        self.wide: list[int] = []  # rows that are told the likeliest tokens

    def draw(self, logits_BV: Tensor, rows: list[Row]) -> list[Drawn]:
        """`logits_BV`: fp32, overwritten."""
        if rows != self.rows or self.ways is None:
            self._prepare(rows)
        assert self.ways is not None
        if self.bias is not None:
            row, token, value = self.bias
            logits_BV.index_put_((row, token), value, accumulate=True)
        for number in self.banned:
            if len(rows[number].answer.token_ids) < rows[number].job.min_tokens:
                logits_BV[number, list(rows[number].job.decoding.stop_token_ids)] = -math.inf
        sound_B = logits_BV.amax(1).isfinite()
        sound = sound_B.tolist()
        if not all(sound):
            logits_BV[~sound_B] = 0.0
        number_B = torch.tensor([row.number_now() for row in rows], dtype=torch.float64)
        filtered(logits_BV, self.ways)
        tops = self._tops(logits_BV, rows)
        token_B, logp_B = choose_each(logits_BV, number_B.to(self.device), self.ways)
        drawn = zip(token_B.tolist(), logp_B.tolist(), sound, strict=True)
        return [
            Drawn(token, min(logp, 0.0), tops.get(number, ()), is_sound)
            for number, (token, logp, is_sound) in enumerate(drawn)
        ]

    def _prepare(self, rows: list[Row]) -> None:
        self.rows, self.ways = list(rows), Ways.of([row.job.decoding for row in rows], self.device)
        entries = [(n, token, value) for n, row in enumerate(rows) for token, value in row.job.logit_bias.items()]
        self.bias = None
        if entries:
            numbers, tokens, values = zip(*entries, strict=True)
            self.bias = (
                torch.tensor(numbers, device=self.device),
                torch.tensor(tokens, device=self.device),
                torch.tensor(values, dtype=torch.float32, device=self.device),
            )
        self.banned = [n for n, row in enumerate(rows) if row.job.min_tokens and row.job.decoding.stop_token_ids]
        self.wide = [n for n, row in enumerate(rows) if row.job.num_top]

    def _tops(self, logits_BV: Tensor, rows: list[Row]) -> dict[int, Likeliest]:
        if not self.wide:
            return {}
        logp = torch.log_softmax(logits_BV[self.wide], 1)
        found = likeliest(logp, max(rows[number].job.num_top for number in self.wide))
        return {number: top[: rows[number].job.num_top] for number, top in zip(self.wide, found, strict=True)}


def likeliest(logp_BV: Tensor, num: int) -> list[Likeliest]:
    """The `num` likeliest tokens of every row; those that cannot come are left out."""
    found = logp_BV.topk(min(num, logp_BV.shape[1]), 1)
    rows = zip(found.indices.tolist(), found.values.tolist(), strict=True)
    return [
        tuple((token, logp) for token, logp in zip(tokens, logps, strict=True) if logp > -math.inf)
        for tokens, logps in rows
    ]


def scores(logits_TV: Tensor, targets: Sequence[int], num_top: int) -> list[tuple[float | None, Likeliest]]:
    """Log-probability of the token that came at each place, and the likeliest ones there."""
    logp = torch.log_softmax(logits_TV, 1)
    came = logp.gather(1, torch.tensor(targets, device=logp.device)[:, None])[:, 0].tolist()
    tops: list[Likeliest] = likeliest(logp, num_top) if num_top else [()] * len(came)
    return list(zip(came, tops, strict=True))
