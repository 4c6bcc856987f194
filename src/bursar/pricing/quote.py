"""The quote: the most that a call can cost. This module is the only mint of `Quote`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from bursar.call import Call
from bursar.clock import Instant
from bursar.money import Money, Rate
from bursar.pricing.rates import Card, Rates, Unpriced

_SEAL = object()


@dataclass(frozen=True, slots=True)
class OutputPolicy:
    """How many output tokens a call gets when it names no bound, and how far a bound may be lowered near the cap."""

    tokens_default: int = 32_768
    """The bound for a client that sends none (at most the model's own)."""
    tokens_floor: int = 256
    """A call is refused rather than bounded below this."""
    tokens_comfort: int = 4_096
    """While money is held by others, a call waits rather than being bounded below this."""
    clamps: bool = True
    """False: `near_cap = "refuse"`; a bound is never lowered."""


class PriceBook(Protocol):
    """Knows the card of a model at an instant, or says why it has none."""

    def card(self, upstream: str, model: str, now: Instant) -> Card | Unpriced: ...


@dataclass(frozen=True, slots=True)
class Quote:
    """The most that a call can cost: a fixed part, and a part per output token up to the bound that is sent."""

    call: Call
    card: Card
    rates: Rates
    """The dearest rates that can apply to this call, class by class."""
    input_tokens: int
    """Upper bound of all input tokens."""
    fixed: Money
    """Input, margin and fees: what is due even with no output."""
    fixed_tokens: int
    """Input bound plus the output margin, in tokens (for budgets in tokens)."""
    per_output_token: Rate
    """Picodollars per token of the output bound, all choices together."""
    output_tokens: int
    """The output bound that is wanted, per choice."""
    output_tokens_floor: int
    """The lowest output bound this call may be given, per choice."""
    output_tokens_comfort: int
    """The output bound below which the call rather waits for money that others hold."""
    client_bounded: bool
    """Whether the bound is the client's own (then it is kept while it can come free) or ours."""
    seal: object
