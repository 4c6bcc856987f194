"""The till of the fake provider: its own price list and its own bill, so that it can bear witness against the gateway.

Nothing here comes from the gateway's pricing or ledger: two copies of one mistake would agree with each other.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from decimal import Decimal

LEDGER_ROWS_MAX = 200_000
_PICODOLLARS_PER_NANODOLLAR = 1_000
_DATE = re.compile(r"-(\d{8}|\d{4}-\d{2}-\d{2})$")


@dataclass(frozen=True, slots=True)
class PriceList:
    """Picodollars per token by billed class, for calls whose input has more than `above_input_tokens` tokens."""

    input: int
    output: int
    cache_read: int
    cache_write_5m: int
    cache_write_1h: int
    above_input_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Model:
    """One model of the fake provider: who sells it, what it costs, and what it can take and give."""

    provider: str
    context_tokens: int
    output_tokens_max: int
    prices: tuple[PriceList, ...]
    tier_percent: dict[str, int] = field(default_factory=lambda: {"default": 100})
    """By service tier, what it costs in percent of the list price."""
    writes_cache_by_itself: bool = False
    """Whether input that was not read from the cache is written to it, and billed so, without being asked."""

    def price(self, input_tokens: int) -> PriceList:
        """Give the price list of a call with so much input: the last one whose step lies below it, for all tokens."""
        chosen = self.prices[0]
        for prices in self.prices:
            if input_tokens > prices.above_input_tokens:
                chosen = prices
        return chosen


def _pico(usd_per_million: str) -> int:
    return int(Decimal(usd_per_million) * 1_000_000)


def _list(usd: str, above: int = 0) -> PriceList:
    """Read `input output cache_read [write_5m write_1h]` in USD per million tokens; no write price means as input."""
    parts = [_pico(part) for part in usd.split()]
    read_in, out, cached = parts[:3]
    write_5m = parts[3] if len(parts) > 3 else read_in
    write_1h = parts[4] if len(parts) > 4 else write_5m
    return PriceList(read_in, out, cached, write_5m, write_1h, above)


_OPENAI_TIERS = {"default": 100, "auto": 100, "flex": 50, "priority": 200, "fast": 200}
_PLAIN_TIERS = {"default": 100, "auto": 100}
_CLAUDE_TIERS = {"auto": 100, "standard_only": 100, "default": 100}


def _gpt(
    context: int, out: int, *prices: PriceList, tiers: dict[str, int] = _PLAIN_TIERS, writes: bool = False
) -> Model:
    return Model("openai", context, out, prices, tiers, writes)


def _gemini(context: int, out: int, *prices: PriceList) -> Model:
    return Model("google", context, out, prices, _PLAIN_TIERS)


def _claude(context: int, out: int, *prices: PriceList) -> Model:
    return Model("anthropic", context, out, prices, _CLAUDE_TIERS)


# List prices of the companies as published in November 2026, typed in by hand.
MODELS: dict[str, Model] = {
    "gpt-4o": _gpt(128_000, 16_384, _list("2.5 10 1.25")),
    "gpt-4o-mini": _gpt(128_000, 16_384, _list("0.15 0.6 0.075")),
    "gpt-4.1": _gpt(1_047_576, 32_768, _list("2 8 0.5")),
    "gpt-4.1-mini": _gpt(1_047_576, 32_768, _list("0.4 1.6 0.1")),
    "gpt-5": _gpt(400_000, 128_000, _list("1.25 10 0.125"), tiers=_OPENAI_TIERS),
    "gpt-5-mini": _gpt(400_000, 128_000, _list("0.25 2 0.025"), tiers={"default": 100, "auto": 100, "flex": 50}),
    "gpt-5.4": _gpt(1_050_000, 128_000, _list("2.5 15 0.25"), _list("5 22.5 0.5", 272_000)),
    "gpt-5.4-nano": _gpt(400_000, 128_000, _list("0.2 1.25 0.02")),
    "gpt-5.6-sol": _gpt(1_050_000, 128_000, _list("4 20 0.4 5"), _list("8 30 0.8 10", 272_000), writes=True),
    "gpt-6.1-sol": _gpt(
        1_050_000, 128_000, _list("2 10 0.1 2.5"), _list("4 15 0.2 5", 272_000), tiers=_OPENAI_TIERS, writes=True
    ),
    "claude-haiku-4-5": _claude(200_000, 64_000, _list("1 5 0.1 1.25 2")),
    "claude-sonnet-4-5": _claude(200_000, 64_000, _list("3 15 0.3 3.75 6")),
    "claude-sonnet-4-6": _claude(1_000_000, 128_000, _list("3 15 0.3 3.75 6")),
    "claude-opus-4-8": _claude(1_000_000, 128_000, _list("5 25 0.5 6.25 10")),
    "claude-sonnet-5": _claude(1_000_000, 128_000, _list("2 10 0.2 2.5 4")),
    "gemini-2.5-pro": _gemini(1_048_576, 65_536, _list("1.25 10 0.125"), _list("2.5 15 0.25", 200_000)),
    "gemini-2.5-flash": _gemini(1_048_576, 65_536, _list("0.3 2.5 0.03")),
}


def find_model(name: str) -> Model | None:
    """Find a model by its name, with or without a date behind it (`-20251001`, `-2026-03-05`)."""
    model = MODELS.get(name)
    if model is not None:
        return model
    return MODELS.get(_DATE.sub("", name))


@dataclass(frozen=True, slots=True)
class Metered:
    """What one call used, in the classes that are billed apart; all counts are tokens."""

    input_tokens: int
    """Input at the full rate: neither read from nor written to the cache."""
    output_tokens: int
    cache_read_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    reasoning_tokens: int = 0
    """Part of `output_tokens` that nobody sees."""

    @property
    def all_input_tokens(self) -> int:
        """Give all input, whichever class it is billed in."""
        return self.input_tokens + self.cache_read_tokens + self.cache_write_5m_tokens + self.cache_write_1h_tokens


def bill_nanodollars(model: Model, used: Metered, percent: int = 100) -> int:
    """Bill one call at list price times percent, rounded up to a whole nanodollar."""
    prices = model.price(used.all_input_tokens)
    picodollars = (
        used.input_tokens * prices.input
        + used.output_tokens * prices.output
        + used.cache_read_tokens * prices.cache_read
        + used.cache_write_5m_tokens * prices.cache_write_5m
        + used.cache_write_1h_tokens * prices.cache_write_1h
    )
    return -(-picodollars * percent // (100 * _PICODOLLARS_PER_NANODOLLAR))


@dataclass(frozen=True, slots=True)
class Billed:
    """One line of the till: a call that the provider will ask money for."""

    at_us: int
    """Microseconds since 1970, when the provider took the call on."""
    key: str
    model: str
    api: str
    stream: bool
    used: Metered
    nanodollars: int
    trouble: str = ""
    """The fault that befell the answer, if any; it is billed all the same."""


@dataclass(slots=True)
class Tally:
    """A running sum over billed calls."""

    calls: int = 0
    nanodollars: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def add(self, line: Billed) -> None:
        """Count one billed call."""
        self.calls += 1
        self.nanodollars += line.nanodollars
        self.input_tokens += line.used.all_input_tokens
        self.output_tokens += line.used.output_tokens


@dataclass(slots=True)
class Till:
    """Everything that the provider billed, in total, by API key and by model, and what it did not bill."""

    total: Tally = field(default_factory=Tally)
    by_key: dict[str, Tally] = field(default_factory=dict)
    by_model: dict[str, Tally] = field(default_factory=dict)
    ledger: deque[Billed] = field(default_factory=lambda: deque(maxlen=LEDGER_ROWS_MAX))
    requests: int = 0
    """Requests for an answer that arrived, billed or not."""
    unbilled: int = 0
    """Requests answered with an error that is not billed."""
    clients_gone: int = 0
    """Clients that hung up before their answer was complete; it is billed in full."""
    in_flight: int = 0
    in_flight_max: int = 0

    def ring(self, line: Billed) -> None:
        """Enter one billed call."""
        self.total.add(line)
        self.by_key.setdefault(line.key, Tally()).add(line)
        self.by_model.setdefault(line.model, Tally()).add(line)
        self.ledger.append(line)

    def enter(self) -> None:
        """Count a request that is being answered."""
        self.requests += 1
        self.in_flight += 1
        self.in_flight_max = max(self.in_flight_max, self.in_flight)

    def leave(self) -> None:
        """Count a request whose answer ended, one way or another."""
        self.in_flight -= 1

    def reset(self) -> None:
        """Empty the till; requests that are in flight stay counted as such."""
        fresh = Till(in_flight=self.in_flight, in_flight_max=self.in_flight)
        for name in self.__slots__:
            setattr(self, name, getattr(fresh, name))

    def as_json(self, ledger_rows: int = 0) -> dict[str, object]:
        """Give the sums, and the newest lines of the ledger."""
        rows: Iterable[Billed] = list(self.ledger)[-ledger_rows:] if ledger_rows else ()
        return {
            **asdict(self.total),
            "requests": self.requests,
            "unbilled": self.unbilled,
            "clients_gone": self.clients_gone,
            "in_flight": self.in_flight,
            "in_flight_max": self.in_flight_max,
            "keys": {key: asdict(tally) for key, tally in self.by_key.items()},
            "models": {model: asdict(tally) for model, tally in self.by_model.items()},
            "ledger": [asdict(line) for line in rows],
        }


def now_us() -> int:
    """Give the wall clock in microseconds since 1970."""
    return time.time_ns() // 1_000
