"""What people are told of: thresholds passed, a first refusal, overruns, quarantine; in ids and amounts. Pure."""

from __future__ import annotations

from bursar.clock import Instant
from bursar.ledger.account import Denied
from bursar.ledger.books import UNITS, Balance, Happening, HoldFacts, encode, unpack

THRESHOLDS = (100, 80, 50)
"""Per cent of a limit, the highest first."""


def passed(balance: Balance, more: int, now: Instant) -> Happening | None:
    """Give the highest threshold that an account has passed with the last `more` of what it has spent, if any."""
    limit = balance.limit or 0
    spent = balance.captured + balance.overrun + balance.earlier_spent
    for percent in THRESHOLDS:
        if (spent - more) * 100 < percent * limit <= spent * 100:
            unit = UNITS[balance.unit].value
            detail = encode({"unit": unit, "percent": percent, "limit": limit, "spent": spent})
            return Happening("threshold", f"{balance.name} {percent}% of {limit}", now, balance.name, detail)
    return None


def exhausted(denied: Denied, now: Instant) -> Happening:
    """Tell that an account refused a call because it is spent; once for each limit that it is given."""
    figures = {"limit": denied.limit, "spent": denied.captured, "held": denied.held, "asked": denied.asked}
    detail = {"unit": denied.unit.value, **figures}
    return Happening("exhausted", f"{denied.account} of {denied.limit}", now, denied.account, encode(detail))


def overrun(hold: HoldFacts, now: Instant) -> Happening:
    """Tell that a call did cost more than was held for it, with both figures."""
    facts = {"model": hold.model, "upstream": hold.upstream, "accounts": unpack(hold.accounts)}
    figures = {"held": hold.held, "captured": hold.captured, "overrun": hold.overrun}
    return Happening("overrun", hold.call_id, now, hold.call_id, encode({**facts, **figures}))


def quarantined(model: str, now: Instant) -> Happening:
    """Tell that nothing is authorized on a model any more."""
    return Happening("quarantine", f"{model} {now}", now, model, encode({"model": model}))
