"""Compares what the ledger booked with what a provider billed, by day and model. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

from bursar.cli.bills.reports import Billed, Report, folded
from bursar.ledger.store import SpentRow

NANODOLLARS_PER_USD = 10**9
EPOCH = datetime.date(1970, 1, 1)
Price = Callable[[Billed], Decimal | None]
"""Gives what the tokens of a row cost in USD, or None where they have no price."""


@dataclass(frozen=True, slots=True)
class Line:
    """One day and one model, on both sides; amounts in nanodollars."""

    day: datetime.date
    model: str
    calls: int
    ledger_usd: int
    presumed_usd: int
    ledger_tokens: int
    provider_usd: int | None
    """None where the report does not say: no price for its tokens, or calls that it is not about."""
    provider_tokens: int | None
    """None where the provider says amounts only."""

    @property
    def difference(self) -> int | None:
        """Give by how much the provider billed more than the ledger has; negative where it billed less."""
        return None if self.provider_usd is None else self.provider_usd - self.ledger_usd


def compare(report: Report, spent: Iterable[SpentRow], days: frozenset[datetime.date], price: Price) -> list[Line]:
    """Give a line for every day and model that either side knows, on these days, in their order."""
    ours = _ours(spent, days)
    theirs = _theirs(report, days, price)
    # OpenAI's usage of completions says nothing of embeddings and other calls, so what is not in it is not known.
    is_part = report.kind == "openai-usage"
    nothing = (None if is_part else Decimal(0), None if is_part or report.kind.endswith("costs") else 0)
    lines = []
    for day, model in sorted(ours.keys() | theirs.keys()):
        calls, usd, presumed, tokens = ours.get((day, model), (0, 0, 0, 0))
        billed, counted = theirs.get((day, model), nothing)
        provider_usd = None if billed is None else nanodollars(billed)
        lines.append(Line(day, model, calls, usd, presumed, tokens, provider_usd, counted))
    return lines


def nanodollars(usd: Decimal) -> int:
    """Give an amount of a provider in nanodollars, to the nearest; it is compared with, never held or billed."""
    return int((usd * NANODOLLARS_PER_USD).to_integral_value(ROUND_HALF_UP))


def day_number(day: datetime.date) -> int:
    """Give the day as the ledger counts them."""
    return (day - EPOCH).days


_Key = tuple[datetime.date, str]


def _ours(spent: Iterable[SpentRow], days: frozenset[datetime.date]) -> dict[_Key, tuple[int, int, int, int]]:
    found: dict[_Key, tuple[int, int, int, int]] = {}
    for row in spent:
        day = EPOCH + datetime.timedelta(days=row.day)
        if day in days:
            key = (day, folded(row.model))
            calls, usd, presumed, tokens = found.get(key, (0, 0, 0, 0))
            found[key] = (calls + row.calls, usd + row.usd, presumed + row.presumed_usd, tokens + row.tokens)
    return found


def _theirs(
    report: Report, days: frozenset[datetime.date], price: Price
) -> dict[_Key, tuple[Decimal | None, int | None]]:
    found: dict[_Key, tuple[Decimal | None, int | None]] = {}
    for row in report.rows:
        if row.day in days:
            usd = row.usd if row.usd is not None else price(row)
            tokens = None if row.tokens is None else row.tokens.all
            before = found.get((row.day, row.model))
            if before is not None:
                usd = None if usd is None or before[0] is None else before[0] + usd
                tokens = None if tokens is None or before[1] is None else before[1] + tokens
            found[row.day, row.model] = (usd, tokens)
    return found


def differs(line: Line, tolerance: int) -> bool:
    """Say whether a line is further apart than the tolerance, or cannot be compared."""
    return line.difference is None or abs(line.difference) > tolerance
