"""A card as people read it: what `bursar prices` prints."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from bursar.clock import Instant
from bursar.money import cost
from bursar.pricing.quote import PriceBook
from bursar.pricing.rates import DEFAULT_TIER, FOREVER, US, Card, ImageRule, Unpriced

CHANGES_AHEAD_MAX = 8
"""Known changes of price that are looked ahead; by the time of day there are a few a day, for ever."""
_TIERS = {DEFAULT_TIER: "the ordinary tier", "fast": "fast mode"}
_IMAGES = {
    ImageRule.FLAT: "an image counts as the most that one can cost, whatever its size",
    ImageRule.TILES: "images by OpenAI's tiles",
    ImageRule.PATCHES: "images by OpenAI's patches of 32 pixels",
    ImageRule.CLAUDE: "images by Anthropic's patches",
    ImageRule.GEMINI: "images by Google's tiles",
}


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
    context_tokens_unasked: int
    """Without asking for the longer window of some models."""
    output_tokens_max: int
    image_tokens_max: int
    added_tokens: int
    """What the provider puts in front of every input, and bills."""
    rates: tuple[RateLine, ...]
    """The ordinary tier first."""
    conditions: tuple[str, ...]
    """What decides which line of the rates applies, in words."""
    valid_until: Instant | None
    """When the next change of price is known; None when none is."""
    source: str


def facts(card: Card) -> ModelFacts:
    """Give everything that the card says, in the order in which it is shown."""
    return ModelFacts(
        model=card.model,
        provider=card.provider,
        family=card.family.value,
        context_tokens=card.context_tokens,
        context_tokens_unasked=card.context_tokens_unasked,
        output_tokens_max=card.output_tokens_max,
        image_tokens_max=card.image_tokens_max,
        added_tokens=card.added_tokens,
        rates=_lines(card),
        conditions=tuple(_conditions(card)),
        valid_until=None if card.valid_until == FOREVER else card.valid_until,
        source=card.source,
    )


def schedule(
    book: PriceBook, upstream: str, model: str, now: Instant
) -> tuple[tuple[Instant, tuple[RateLine, ...]], ...]:
    """Give the changes of price that are known to come, each with its instant and the rates from then on.

    A rate holds from the longest time that a call may take before it is asked: a call that is made then may end in it.
    """
    found: list[tuple[Instant, tuple[RateLine, ...]]] = []
    card = book.card(upstream, model, now)
    for _ in range(CHANGES_AHEAD_MAX):
        if isinstance(card, Unpriced) or card.valid_until == FOREVER:
            break
        at, before = card.valid_until, _lines(card)
        card = book.card(upstream, model, at)
        lines = _lines(card) if isinstance(card, Card) else ()
        if lines != before:
            found.append((at, lines))
    return tuple(found)


def _lines(card: Card) -> tuple[RateLine, ...]:
    ordinary_first = sorted(card.tiers.items(), key=lambda tier: (not tier[0].startswith(DEFAULT_TIER), tier[0]))
    return tuple(RateLine(tier, above, *map(str, rates)) for tier, steps in ordinary_first for above, rates in steps)


def _conditions(card: Card) -> Iterator[str]:
    for tier in card.tiers:
        base = tier.removesuffix(US)
        where = ", run in the US only" if tier.endswith(US) else ""
        yield f"{tier}: {_TIERS.get(base, f'service tier {base}')}{where}"
    starts = sorted({step.above_input_tokens for steps in card.tiers.values() for step in steps if step[0]})
    yield from (f"above {start} input tokens the whole call has the dearer rates" for start in starts)
    if card.context_tokens_unasked != card.context_tokens:
        yield f"above {card.context_tokens_unasked} input tokens only when the longer window is asked for"
    if card.added_tokens:
        yield f"the provider puts up to {card.added_tokens} tokens of its own in front of every input"
    yield _IMAGES[card.image.rule]
    for tool, fee in card.fees.items():
        yield f"{tool}: {cost([(1, fee)])} USD a use, where the settings let it through"
    if not card.fees:
        yield "no fee of a tool that the provider runs is known, so none is let through"
