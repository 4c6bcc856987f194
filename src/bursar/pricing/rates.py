"""Rates of one model: what a token of each billed class costs, by service tier and by length of the input."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from bursar.clock import Instant
from bursar.money import Rate


class Family(StrEnum):
    """Which tokenizer family a model belongs to; it decides how many tokens a byte can be."""

    BYTE_LEVEL = "byte-level"
    CLAUDE = "claude"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Rates:
    """Picodollars per token of each class that is billed apart."""

    input: Rate
    output: Rate
    cache_read: Rate
    cache_write_5m: Rate
    cache_write_1h: Rate


@dataclass(frozen=True, slots=True)
class Step:
    """The rates of a whole call whose input has more than `above_input_tokens` tokens (a cliff, not a bracket)."""

    above_input_tokens: int
    rates: Rates


@dataclass(frozen=True, slots=True)
class Card:
    """All that a model can cost and all that bounds it."""

    model: str
    provider: str
    family: Family
    context_tokens: int
    """Most input tokens that the model takes."""
    output_tokens_max: int
    """Most output tokens that the model gives."""
    tiers: dict[str, tuple[Step, ...]]
    """By service tier; steps ascend and the first begins at 0. A tier that is not here is not priced."""
    image_tokens_max: int
    """Most input tokens that one image can cost."""
    source: str
    """Where the rates come from, and their date."""
    valid_until: Instant
    """The rates hold for calls that are made before this instant."""


@dataclass(frozen=True, slots=True)
class Unpriced:
    """No rate, or no bound, is known for what was asked; nothing is sent and nothing is held."""

    model: str
    message: str
    code: str = "unpriced"
    status: int = 422
