"""Where budgets stand in their present period; the command line and HTTP show the same."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bursar.clock import Instant
from bursar.ledger.account import Account
from bursar.ledger.periods import LIFETIME, slot_of, spec_of, window_microseconds


@dataclass(slots=True)
class Position:
    """One budget in its present period; of a rolling window everything that is still in it."""

    scope: str
    unit: str
    spec: str
    limit: int | None
    state: str
    ends_at: Instant | None
    """None for a lifetime, and for a window, which has no end."""
    spent: int = 0
    held: int = 0

    @property
    def left(self) -> int | None:
        """Give what the next call may still take; None where nothing limits it."""
        return None if self.limit is None else max(self.limit - self.spent - self.held, 0)

    @property
    def key(self) -> tuple[str, str, str]:
        """Give what no other budget has: scope, unit and period."""
        return (self.scope, self.unit, self.spec)


def positions(accounts: Iterable[Account], now: Instant) -> list[Position]:
    """Put the slots of each budget together; a period that has ended and was not followed yet counts as empty."""
    found: dict[tuple[str, str, str], Position] = {}
    for account in sorted(accounts, key=lambda account: account.starts_at):
        spec = spec_of(account.period)
        window = window_microseconds(spec)
        key = (account.scope, account.unit.value, spec)
        ends_at = None if window or spec == LIFETIME else Instant(slot_of(spec, now).ends_at)
        row = found.setdefault(key, Position(*key, account.limit, account.state.value, ends_at))
        # The newest slot comes last, and its limit and state are the ones that hold.
        row.limit, row.state = account.limit, account.state.value
        row.held += account.held
        if account.ends_at + window > now:
            row.spent += account.captured + account.overrun
    return list(found.values())
