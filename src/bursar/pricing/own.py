"""Models that the operator prices: `[models."name"]` in the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bursar.call import ServerTool
from bursar.money import PICODOLLARS_PER_NANODOLLAR, Money, Rate
from bursar.pricing.rates import DEFAULT_TIER, FOREVER, Card, Family, Rates, Step


@dataclass(frozen=True, slots=True)
class OwnModel:
    """One `[models."name"]` table; prices are USD per million tokens, as text, and zero must be said aloud."""

    input: str
    output: str
    context_tokens: int
    output_tokens_max: int
    cache_read: str | None = None
    """Absent: as dear as input."""
    cache_write: str | None = None
    """A write for five minutes. Absent, or for an hour where the model may be Claude: twice the input."""
    upstream: str = ""
    """The only upstream that this price is for; empty: any."""
    family: Family = Family.UNKNOWN
    """Unknown counts the most tokens per byte."""
    image_tokens_max: int | None = None
    """Most tokens of one image; absent: the whole context window."""
    fees: Mapping[str, str] = field(default_factory=dict)
    """USD for one use of a tool of the provider's own; one that is not here has no known fee."""


def own_card(name: str, own: OwnModel) -> Card:
    """Give the card of a model as its operator describes it; raises MoneyError when a price cannot be read."""
    ordinary = Rate.from_usd_per_million(own.input)
    # Claude writes to its cache for an hour at twice the input rate.
    long_write = ordinary if own.family is Family.BYTE_LEVEL else ordinary.times(200)
    write = long_write if own.cache_write is None else Rate.from_usd_per_million(own.cache_write)
    rates = Rates(
        input=ordinary,
        output=Rate.from_usd_per_million(own.output),
        cache_read=ordinary if own.cache_read is None else Rate.from_usd_per_million(own.cache_read),
        cache_write_5m=write,
        cache_write_1h=max(write, long_write),
    )
    return Card(
        model=name,
        provider="",  # what an operator prices may be any model, whatever it and its upstream are called
        family=own.family,
        context_tokens=own.context_tokens,
        output_tokens_max=own.output_tokens_max,
        tiers={DEFAULT_TIER: (Step(0, rates),)},
        image_tokens_max=min(own.image_tokens_max or own.context_tokens, own.context_tokens),
        source=f'[models."{name}"]',
        valid_until=FOREVER,
        fees={ServerTool(tool): _fee(usd) for tool, usd in own.fees.items()},
    )


def _fee(usd: str) -> Rate:
    return Rate(Money.from_usd(usd).nanodollars * PICODOLLARS_PER_NANODOLLAR)
