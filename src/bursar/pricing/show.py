"""A card as people read it: what `bursar prices` prints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from bursar.clock import Instant
from bursar.pricing.rates import FOREVER, Card


class RateLine(NamedTuple):
    """The rates of one tier from one input length on, in USD per million tokens."""

    tier: str
    above_input_tokens: int
    input: str
    output: str
    cache_read: str
    cache_write_5m: str
    cache_write_1h: str
    audio_extra: str = "0.00"
    """What audio costs on top of `input`."""
    audio_cache_read_extra: str = "0.00"
    """What cached audio costs on top of `cache_read`."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """All that bounds and prices one model."""

    model: str
    provider: str
    family: str
    context_tokens: int
    output_tokens_max: int
    image_tokens_max: int
    rates: tuple[RateLine, ...]
    """The ordinary tier first."""
    valid_until: Instant | None
    """When the next change of price is known; None when none is."""
    source: str


def facts(card: Card) -> ModelFacts:
    """Give everything that the card says, in the order in which it is shown."""
    ordinary_first = sorted(card.tiers.items(), key=lambda tier: (not tier[0].startswith("default"), tier[0]))
    return ModelFacts(
        model=card.model,
        provider=card.provider,
        family=card.family.value,
        context_tokens=card.context_tokens,
        output_tokens_max=card.output_tokens_max,
        image_tokens_max=card.image_tokens_max,
        rates=tuple(
            RateLine(tier, above, *(str(rate) for rate in rates))
            for tier, steps in ordinary_first
            for above, rates in steps
        ),
        valid_until=None if card.valid_until == FOREVER else card.valid_until,
        source=card.source,
    )
