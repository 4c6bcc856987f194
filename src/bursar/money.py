"""Money in whole nanodollars, rates in whole picodollars per token, and the one function that rounds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal, InvalidOperation

NANODOLLARS_PER_USD = 1_000_000_000
PICODOLLARS_PER_NANODOLLAR = 1_000
# Rates are published in USD per million tokens; one of those is a microdollar per token.
PICODOLLARS_PER_TOKEN_AT_ONE_USD_PER_MILLION = 1_000_000
# Far above any published price; a typing mistake above it is refused.
USD_PER_MILLION_TOKENS_MAX = 1_000_000
# Both stores keep amounts in a signed 64-bit integer.
NANODOLLARS_MAX = 2**63 - 1


class MoneyError(ValueError):
    """A text that does not name an amount of money which the ledger can hold exactly."""


@dataclass(frozen=True, slots=True, order=True)
class Money:
    """An exact amount in nanodollars (1e-9 USD); never a float, may be negative only as a difference."""

    nanodollars: int

    def __add__(self, other: Money) -> Money:
        return Money(self.nanodollars + other.nanodollars)

    def __sub__(self, other: Money) -> Money:
        return Money(self.nanodollars - other.nanodollars)

    def __str__(self) -> str:
        """Give the amount in USD without trailing zeros, at least two decimals: `1.50`, `0.000012`."""
        sign = "-" if self.nanodollars < 0 else ""
        whole, rest = divmod(abs(self.nanodollars), NANODOLLARS_PER_USD)
        decimals = f"{rest:09d}".rstrip("0").ljust(2, "0")
        return f"{sign}{whole}.{decimals}"

    @classmethod
    def from_usd(cls, text: str) -> Money:
        """Read USD such as `5`, `5.00` or `$0.25`; raises MoneyError when it is not exact, not finite or negative."""
        try:
            usd = Decimal(text.strip().removeprefix("$"))
        except InvalidOperation:
            raise MoneyError(f"{text!r} is not an amount in USD; write for example 5.00") from None
        if not usd.is_finite() or usd < 0:
            raise MoneyError(f"{text!r} is not an amount in USD of zero or more")
        if usd > NANODOLLARS_MAX // NANODOLLARS_PER_USD:
            raise MoneyError(f"{text!r} is more than the ledger can count (9.2 billion USD)")
        nanodollars = usd * NANODOLLARS_PER_USD
        if nanodollars != nanodollars.to_integral_value():
            raise MoneyError(f"{text!r} has more than nine decimals; a nanodollar is the smallest unit")
        return cls(int(nanodollars))

    @classmethod
    def charged(cls, usd: Decimal) -> Money:
        """Take what a provider says it charged, rounded up to a nanodollar; raises MoneyError when it is no amount."""
        if not usd.is_finite() or not 0 <= usd <= NANODOLLARS_MAX // NANODOLLARS_PER_USD:
            raise MoneyError(f"{usd} is not an amount in USD that can have been charged")
        return cls(int((usd * NANODOLLARS_PER_USD).to_integral_value(ROUND_CEILING)))


ZERO = Money(0)


@dataclass(frozen=True, slots=True, order=True)
class Rate:
    """What one token costs, in picodollars (1e-12 USD)."""

    picodollars: int

    @classmethod
    def from_usd_per_million(cls, price: Decimal | str) -> Rate:
        """Read a published price, in USD per million tokens; rounds up to a picodollar, raises MoneyError."""
        try:
            usd = Decimal(price.strip().removeprefix("$")) if isinstance(price, str) else price
        except InvalidOperation:
            raise MoneyError(f"{price!r} is not a price in USD per million tokens; write for example 1.25") from None
        if not usd.is_finite() or usd < 0:
            raise MoneyError(f"{price!r} is not a price in USD per million tokens of zero or more")
        if usd > USD_PER_MILLION_TOKENS_MAX:
            raise MoneyError(f"{price!r} is more than {USD_PER_MILLION_TOKENS_MAX} USD per million tokens")
        picodollars = usd * PICODOLLARS_PER_TOKEN_AT_ONE_USD_PER_MILLION
        return cls(int(picodollars.to_integral_value(ROUND_CEILING)))

    def __str__(self) -> str:
        """Give the rate in USD per million tokens, at least two decimals: `2.50`, `0.0375`."""
        return str(Money(self.picodollars * PICODOLLARS_PER_NANODOLLAR))

    def times(self, percent: int) -> Rate:
        """Give this rate times percent / 100, rounded up."""
        return Rate(-(-self.picodollars * percent // 100))


def cost(lines: Iterable[tuple[int, Rate]]) -> Money:
    """Sum tokens times rate over all lines and round up, once, to a nanodollar."""
    picodollars = sum(tokens * rate.picodollars for tokens, rate in lines)
    return Money(-(-picodollars // PICODOLLARS_PER_NANODOLLAR))


class BrokenInvariantError(RuntimeError):
    """A rule about money did not hold; the caller must stop spending."""


def ensure(condition: bool, rule: str, *evidence: object) -> None:
    """Raise BrokenInvariantError unless the condition holds; unlike `assert` it survives `python -O`."""
    if not condition:
        raise BrokenInvariantError(f"{rule}: {evidence}" if evidence else rule)
