"""What the stores share when they fold old entries away."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from bursar.clock import Instant
from bursar.ledger.audit import ReplayedAccount
from bursar.ledger.books import scope_of
from bursar.ledger.store import DAY, LEASE, Entry, HoldRow
from bursar.stores.rows import entry_row

PAST_ACCOUNTS = 1000
"""Accounts of ended periods that are looked at in one step."""
PAGE_ENTRIES = 20_000
"""Entries that an audit has in memory at a time."""

DayRow = tuple[int, str, str, int, int, int, int]


def old_entries(rows: Iterable[Any], before: Instant) -> list[Entry]:
    """Give the entries up to the first that is young: a clock that went back does not let a later one go first."""
    entries: list[Entry] = []
    for row in rows:
        entry = entry_row(row)
        if entry.at >= before:
            break
        entries.append(entry)
    return entries


def calls_of(entries: list[Entry]) -> list[str]:
    """Give the calls that entries are about, each once."""
    return list(dict.fromkeys(entry.call_id for entry in entries if entry.call_id))


def scopes_of(entries: list[Entry]) -> list[str]:
    """Give the scopes that entries are about, each once: an overrun stops a scope whole."""
    return sorted({scope_of(name) for entry in entries for name in entry.accounts})


def base_accounts(rows: Iterable[Sequence[Any]]) -> dict[str, ReplayedAccount]:
    """Give the accounts of a base by their names."""
    found: dict[str, ReplayedAccount] = {}
    for name, limit, ceiling, state, held, captured, overrun, ends_at, counts in rows:
        found[name] = ReplayedAccount(limit, ceiling, state, held, captured, overrun, ends_at, bool(counts))
    return found


def base_account_rows(accounts: dict[str, ReplayedAccount]) -> list[tuple[object, ...]]:
    """Give accounts as rows of a base."""
    return [(name, *account.facts(), account.ends_at, account.counts) for name, account in accounts.items()]


def is_taken(row: Sequence[Any] | None, worker: str, now: Instant) -> bool:
    """Whether another worker folds at the moment; `row` says who took the last step, and when."""
    return row is not None and row[0] != worker and now - LEASE < row[1] <= now


def booked_calls(holds: Iterable[HoldRow]) -> list[str]:
    """Give the calls whose holds had a cost: whoever says it once more later is not to have it booked once more."""
    return [hold.call_id for hold in holds if hold.state != "void"]


def folded_days(holds: Iterable[HoldRow]) -> list[DayRow]:
    """Sum what holds were booked at, as `Store.spent_by_day` counts it."""
    sums: dict[tuple[int, str, str], tuple[int, int, int, int]] = {}
    for hold in holds:
        if hold.state != "void":
            usd = hold.captured.usd + hold.overrun.usd
            key = (hold.opened_at // DAY, hold.upstream, hold.model)
            calls, all_usd, presumed, tokens = sums.get(key, (0, 0, 0, 0))
            more = usd if hold.basis == "presumed" else 0
            tokens += hold.captured.tokens + hold.overrun.tokens
            sums[key] = (calls + 1, all_usd + usd, presumed + more, tokens)
    return [(*key, *found) for key, found in sums.items()]
