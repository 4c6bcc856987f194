"""Periods roll: the next slot of a budget takes the place of the one that has ended. Pure; forward only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from bursar.clock import Instant
from bursar.ledger.books import UNITS, Balance, Books, Line, encode, newest, pack
from bursar.ledger.periods import named, slot_of, window_microseconds


@dataclass(slots=True)
class Turn:
    """What the time that has passed changes on the accounts of some scopes."""

    next: list[tuple[Balance, Balance]] = field(default_factory=list)
    """The slot that has ended, and the new one."""
    gone: list[Balance] = field(default_factory=list)
    """Slots that no authorize looks at any more; of windows, the ones that have left."""
    lines: list[Line] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.next or self.gone)


def turn(books: Books, scopes: Iterable[str], now: Instant) -> Turn:
    """Say what has to turn before these scopes are looked at; an instant in the past turns nothing."""
    found = Turn()
    # A scope that is named twice turns once.
    for scope in dict.fromkeys(scopes):
        for balance in books.scopes.get(scope, ()):
            if balance.ends_at <= now:
                _next(balance, now, found)
    if found.next and books.has_windows:
        found.gone += _left(books, [old for old, _ in found.next], now)
    return found


def _next(old: Balance, now: Instant, found: Turn) -> None:
    spec = old.spec
    slot = slot_of(spec, now)
    unit = UNITS[old.unit].value
    # The limit and the state are the budget's: a run that is stopped stays stopped in the next period.
    new = Balance(
        *(None, old.scope, unit, named(spec, slot.starts_at), old.limit, old.limit, 0, 0, 0, old.state),
        *slot,
    )
    found.next.append((old, new))
    if old.ends_at + window_microseconds(spec) <= now:
        found.gone.append(old)
    detail = {"limit": new.limit, "state": new.state, "ends_at": new.ends_at}
    found.lines.append(Line(now, "roll", "", "", 0, 0, 0, pack((new.name,)), encode(detail)))


def _left(books: Books, ended: list[Balance], now: Instant) -> list[Balance]:
    """Give the earlier slots that lie as a whole before their window.

    They leave only together with an entry, which says when: a clock that goes forward and back again would otherwise
    take away a slot that no replay can miss.
    """
    return [
        balance
        for balance in books.names.values()
        if balance.head is not None
        and newest(balance) in ended
        and balance.ends_at + window_microseconds(balance.spec) <= now
    ]


def resets_at(books: Books, balance: Balance) -> Instant | None:
    """Give when an account has more again by itself: at the end of its slot, or when the oldest slot leaves."""
    window = window_microseconds(balance.spec)
    if not window:
        return Instant(balance.ends_at) if balance.starts_at else None
    slots = [one for one in books.names.values() if one.head is not None and newest(one) is balance]
    used = [one.ends_at for one in (*slots, balance) if one.held or one.captured or one.overrun]
    leaves_at = min(used, default=balance.ends_at) + window
    # It leaves when the newest slot ends: a little later, where a window is not a multiple of 12 seconds long.
    return Instant(slot_of(balance.spec, Instant(leaves_at - 1)).ends_at)
