"""What a stream of answers is asked and what it tells: jobs in, growth out; and an answer's row while it is written."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from posttrain.rollouts.decode_stops import Answer
from posttrain.rollouts.decode_text import Speech, Vocabulary
from posttrain.rollouts.sampling import Decoding, Request

BLOCK = 64  # uniform numbers that are made at once

Likeliest = tuple[tuple[int, float], ...]
"""Tokens with their log-probabilities, likeliest first."""


@dataclass(frozen=True, slots=True)
class Growth:
    """One more token of answer `number`, or its end by an `error`. `text`: what may be said now, which can be of tokens
    before. `prompt`: log-probability and likeliest tokens at each place of a scored prompt, with answer 0's first."""

    number: int
    token_id: int = -1
    logp: float = 0.0
    top: Likeliest = ()
    text: str = ""
    finish: str = ""
    prompt: tuple[tuple[float | None, Likeliest], ...] = ()
    error: Exception | None = None


@dataclass(frozen=True, eq=False)
class Job:
    """A request with its own decoding. `limit`: new tokens of an answer. `num_top`: likeliest tokens that are told
    beside each one; with `score_prompt` at each place of the prompt too. `logit_bias` is added before all else; stop
    tokens cannot be drawn, and stop strings do not count, before `min_tokens`. `tell` is called by the stream's thread,
    once a token, and must return at once."""

    request: Request
    decoding: Decoding
    limit: int
    tell: Callable[[Growth], None]
    num_top: int = 0
    score_prompt: bool = False
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    min_tokens: int = 0


class Numbers:
    """`decode_draw.uniform_numbers` of a seed, made as they are asked for."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.made: list[float] = []

    def __getitem__(self, number: int) -> float:
        while number >= len(self.made):
            self.made += torch.rand(BLOCK, generator=self.generator, dtype=torch.float64).tolist()
        return self.made[number]


@dataclass(eq=False)
class Row:
    """One answer, from its job's arrival to its end. `held`: positions of `ids` (the prompt and what was said) whose
    keys are in `pages`; the last token's never are, for it has not been fed."""

    job: Job
    number: int
    serial: int  # of its arrival
    answer: Answer
    speech: Speech
    numbers: Numbers | None
    ids: list[int]
    held: int = 0
    pages: list[int] = field(default_factory=list)
    scored: list[tuple[float | None, Likeliest]] = field(default_factory=list)

    @classmethod
    def of(cls, job: Job, number: int, serial: int, tokenizer: Any, vocabulary: Vocabulary) -> "Row":
        """A row that waits."""
        answer = Answer(job.decoding, job.limit, tokenizer, min_tokens=job.min_tokens)
        numbers = Numbers(job.request.seeds[number]) if job.decoding.temperature > 0 else None
        return cls(job, number, serial, answer, Speech(answer, vocabulary), numbers, list(job.request.prompt_ids))

    @property
    def left(self) -> int:
        """Positions that must be computed before the next token is known."""
        return len(self.ids) - self.held

    @property
    def is_scored(self) -> bool:
        """Whether places of the prompt are still to be scored."""
        return self.job.score_prompt and self.number == 0 and len(self.scored) < len(self.job.request.prompt_ids)

    def number_now(self) -> float:
        """The uniform number of the next token."""
        return 0.0 if self.numbers is None else self.numbers[len(self.answer.token_ids)]

    def grow(self, token_id: int, logp: float, top: Likeliest) -> bool:
        """Take a token and tell it; True where it is the last."""
        prompt = tuple(self.scored) if not self.answer.token_ids else ()
        self.ids.append(token_id)
        is_over = self.answer.add(token_id, logp)
        self.job.tell(Growth(self.number, token_id, logp, top, self.speech.more(), self.answer.finish, prompt))
        return is_over
