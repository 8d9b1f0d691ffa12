"""A greedy answer, as whoever reads an exported model gives it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Reply:
    """Its tokens, a stop token at the end included, and its text without control tokens."""

    token_ids: tuple[int, ...]
    text: str
