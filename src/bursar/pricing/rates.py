"""Rates of one model: what a token of each billed class costs, by service tier and by length of the input."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple

from bursar.call import ServerTool
from bursar.clock import Instant
from bursar.money import Rate

DEFAULT_TIER = "default"
FOREVER = Instant(2**63 - 1)
US = "@us"
"""Ends the name of a tier whose calls the provider runs in the US only, at a surcharge: `default@us`."""
# What providers and requests call the ordinary tier.
_ORDINARY_TIERS = frozenset({"", "standard", "standard_only", "on_demand"})


class Family(StrEnum):
    """Which tokenizer family a model belongs to; it decides how many tokens a byte can be."""

    BYTE_LEVEL = "byte-level"
    CLAUDE = "claude"
    UNKNOWN = "unknown"


class Rates(NamedTuple):
    """Picodollars per token of each class that is billed apart."""

    input: Rate
    output: Rate
    cache_read: Rate
    cache_write_5m: Rate
    cache_write_1h: Rate
    audio_extra: Rate = Rate(0)
    """What a token of audio costs on top of `input`."""
    audio_cache_read_extra: Rate = Rate(0)
    """What a cached token of audio costs on top of `cache_read`."""

    def times(self, percent: int) -> Rates:
        """Give these rates times percent / 100, each rounded up."""
        return Rates(*(rate.times(percent) for rate in self))


class Step(NamedTuple):
    """The rates of a whole call whose input has more than `above_input_tokens` tokens (a cliff, not a bracket)."""

    above_input_tokens: int
    rates: Rates


def dearest_rates(many: Iterable[Rates]) -> Rates:
    """Give the highest rate of each class."""
    return Rates(*map(max, zip(*many, strict=True)))


def rates_at(steps: tuple[Step, ...], input_tokens: int) -> Rates:
    """Give the rates of a call with that many input tokens, cached ones included."""
    rates = steps[0].rates
    for step in steps[1:]:
        if input_tokens <= step.above_input_tokens:
            break
        rates = step.rates
    return rates


def dearest_steps(many: Iterable[tuple[Step, ...]]) -> tuple[Step, ...]:
    """Give, at every threshold of any of the ladders, the highest rate that one of them has there, class by class."""
    ladders = list(many)
    starts = sorted({step.above_input_tokens for steps in ladders for step in steps})
    return tuple(Step(start, dearest_rates(rates_at(steps, start + 1) for steps in ladders)) for start in starts)


def steps_times(steps: tuple[Step, ...], percent: int) -> tuple[Step, ...]:
    """Give the steps with every rate times percent / 100, rounded up."""
    return tuple(Step(above, rates.times(percent)) for above, rates in steps)


def tier_name(reported: str) -> str:
    """Give our name of a tier: what providers call standard is `default`, the rest keeps its name."""
    name, at, region = reported.lower().partition("@")
    return (DEFAULT_TIER if name in _ORDINARY_TIERS else name) + at + region


class ImageRule(StrEnum):
    """How a provider counts the tokens of an image."""

    FLAT = "flat"
    """Not by its size, as far as we know: every image counts as the most that one can cost."""
    TILES = "tiles"
    """OpenAI's older models: a base, and tiles when the detail is high."""
    PATCHES = "patches"
    """OpenAI's newer models: patches of 32 pixels."""
    CLAUDE = "claude"
    GEMINI = "gemini"


@dataclass(frozen=True, slots=True)
class ImageBound:
    """What bounds the tokens of an image whose size is known."""

    rule: ImageRule = ImageRule.FLAT
    percent: int = 100
    """Tokens per patch, in hundredths."""
    low_detail_tokens: int | None = None
    """What an image of low detail costs; None where low detail is not cheaper for sure."""
    tokens_min: int = 0
    """What even the smallest image may cost."""


@dataclass(frozen=True, slots=True)
class Card:
    """All that a model can cost and all that bounds it."""

    model: str
    provider: str
    """Whose price list it is from; empty for a model that the operator prices."""
    family: Family
    context_tokens: int
    """Most input tokens that the model takes."""
    output_tokens_max: int
    """Most output tokens that the model gives."""
    tiers: Mapping[str, tuple[Step, ...]]
    """By service tier; steps ascend and the first begins at 0. A tier that is not here is not priced."""
    image_tokens_max: int
    """Most input tokens that one image can cost."""
    source: str
    """Where the rates come from, and their date."""
    valid_until: Instant
    """The rates hold for calls that are made before this instant."""
    image: ImageBound = ImageBound()
    context_tokens_unasked: int = 0
    """Most input tokens without asking for the longer window of some models; filled with the window itself."""
    added_tokens: int = 0
    """What the provider puts in front of every input, and bills."""
    fees: Mapping[ServerTool, Rate] = field(default_factory=dict)
    """What one use of a tool of the provider's own costs; one that is not here has no known fee."""
    reachable: Mapping[str, tuple[Step, ...]] = field(init=False, repr=False, compare=False)
    """By the tier that is asked for: the dearest rates that the provider may bill, at and below each length."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "context_tokens_unasked", self.context_tokens_unasked or self.context_tokens)
        object.__setattr__(self, "reachable", {tier: _reachable(self.tiers, tier) for tier in self.tiers})


def _reachable(tiers: Mapping[str, tuple[Step, ...]], asked: str) -> tuple[Step, ...]:
    # A provider may serve the default tier instead of the one that was asked for, and either of them in the US.
    bases = (asked.removesuffix(US), DEFAULT_TIER)
    ladder = dearest_steps(steps for name, steps in tiers.items() if name == asked or name.removesuffix(US) in bases)
    # The quote knows only an upper bound of the input, so every step up to it can apply, also a dearer one below.
    return tuple(
        Step(step.above_input_tokens, dearest_rates(lower.rates for lower in ladder[: index + 1]))
        for index, step in enumerate(ladder)
    )


def surcharged(card: Card, percent: int) -> Card:
    """Give the card with every rate times percent / 100, rounded up; what makes tokens cheaper leaves fees alone."""
    if percent == 100:
        return card
    fees = {tool: fee.times(max(percent, 100)) for tool, fee in card.fees.items()}
    tiers = {tier: steps_times(steps, percent) for tier, steps in card.tiers.items()}
    return replace(card, tiers=tiers, fees=fees)


@dataclass(frozen=True, slots=True)
class Unpriced:
    """No rate, or no bound, is known for what was asked; nothing is sent and nothing is held."""

    model: str
    message: str
    code: str = "unpriced"
    status: int = 422
