"""Folds old entries of a SQLite ledger into its base, a step at a time; what may go is decided in `ledger.audit`."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from bursar.clock import Instant
from bursar.ledger.audit import Base, Fold, agrees, audit, fold, forgettable, replayed_hold
from bursar.ledger.books import Balance, encode
from bursar.ledger.store import DAY, Archive, Compacted, Entry, Finding, HoldRow
from bursar.stores.retention import (
    PAGE_ENTRIES,
    PAST_ACCOUNTS,
    base_account_rows,
    base_accounts,
    booked_calls,
    calls_of,
    folded_days,
    is_taken,
    old_entries,
    scopes_of,
)
from bursar.stores.sqlite_rows import SQL, entry_row, hold_row


def compact(
    connection: sqlite3.Connection, worker: str, now: Instant, keep_days: int, entries_max: int, archive: Archive | None
) -> Compacted:
    """Fold at most so many entries that are older, in the transaction of the caller; in steps, one worker at a time."""
    if is_taken(connection.execute(SQL["read_compacting"]).fetchone(), worker, now):
        return Compacted(is_busy=True)
    before = Instant(now - keep_days * DAY)
    after = _number(connection, "base_seq")
    entries = old_entries(connection.execute(SQL["read_entries_before"], (after, entries_max)), before)
    if not entries:
        return _forget_accounts(connection, before)
    folded = fold(_part_of_base(connection, after, entries), entries, _rows_of(connection, calls_of(entries)))
    if folded.findings:
        return Compacted(findings=folded.findings, seq=after)
    if archive is not None:
        archive(entries)
    _write_meta(connection, "compacting", encode([worker, now]))
    _write(connection, folded, before)
    return Compacted(len(entries), len(folded.ended), 0, folded.seq, is_done=False)


def _forget_accounts(connection: sqlite3.Connection, before: Instant) -> Compacted:
    """Take a number of accounts of ended periods out of the base and the books."""
    seq = _number(connection, "base_seq")
    after = ""
    holds = {call: replayed_hold(facts) for call, facts in connection.execute(SQL["read_base_holds"])}
    while page := connection.execute(SQL["read_base_accounts_past"], (after, before, PAST_ACCOUNTS)).fetchall():
        after = page[-1][0]
        base = Base(seq, base_accounts(page), holds)
        keys = [name.rsplit("/", 2) for name in base.accounts]
        booked = [Balance(*row).account() for row in connection.execute(SQL["books_accounts_past"], (encode(keys),))]
        names, findings = forgettable(base, booked, before)
        if findings:
            return Compacted(findings=findings, seq=seq)
        for name in names:
            connection.execute(SQL["write_account_gone"], name.rsplit("/", 2))
            connection.execute(SQL["write_base_account_gone"], (name,))
        if names:
            return Compacted(0, 0, len(names), seq, is_done=False)
    connection.execute(SQL["write_meta_gone"], ("compacting",))
    return Compacted(seq=seq)


# ---- reading --------------------------------------------------------------------------------------------------------


def verify(connection: sqlite3.Connection) -> tuple[Finding, ...]:
    """Replay all entries after the base and compare with all accounts and holds, in the transaction of the caller."""
    accounts = tuple(Balance(*row).account() for row in connection.execute(SQL["read_all_accounts"]))
    quarantined = frozenset(row[0] for row in connection.execute(SQL["books_quarantine"]))
    count = int(connection.execute(SQL["read_count_of_holds"]).fetchone()[0])
    pages = _pages(connection)
    if agrees(pages, lambda calls: _rows_of(connection, calls), count, accounts, quarantined, _base(connection)):
        return ()
    # Something is wrong: replay once more with everything in memory, to say what.
    base = _base(connection)
    entries = map(entry_row, connection.execute(SQL["read_entries"], (base.seq, -1)))
    holds = map(hold_row, connection.execute(SQL["read_holds"], (-1,)))
    return audit(entries, accounts, holds, quarantined, base)


def _pages(connection: sqlite3.Connection) -> Iterable[list[Entry]]:
    after = _number(connection, "base_seq")
    while page := list(map(entry_row, connection.execute(SQL["read_entries"], (after, PAGE_ENTRIES)))):
        yield page
        after = page[-1].seq


def _base(connection: sqlite3.Connection) -> Base:
    """Give the whole base."""
    return Base(
        _number(connection, "base_seq"),
        base_accounts(connection.execute(SQL["read_base_accounts"])),
        {call: replayed_hold(facts) for call, facts in connection.execute(SQL["read_base_holds"])},
        _quarantine(connection),
    )


def _part_of_base(connection: sqlite3.Connection, seq: int, entries: list[Entry]) -> Base:
    """Give the part of the base that these entries are about."""
    holds = connection.execute(SQL["read_base_holds_of"], (encode(calls_of(entries)),))
    return Base(
        seq,
        base_accounts(connection.execute(SQL["read_base_accounts_of"], (encode(scopes_of(entries)),))),
        {call: replayed_hold(facts) for call, facts in holds},
        _quarantine(connection),
    )


def _quarantine(connection: sqlite3.Connection) -> set[str]:
    return {row[0] for row in connection.execute(SQL["read_base_quarantine"])}


def _rows_of(connection: sqlite3.Connection, calls: list[str]) -> dict[str, HoldRow]:
    return {row[0]: hold_row(row) for row in connection.execute(SQL["books_holds"], (encode(calls),))}


def _number(connection: sqlite3.Connection, name: str) -> int:
    row = connection.execute(SQL["read_meta"], (name,)).fetchone()
    return 0 if row is None else int(row[0])


# ---- writing --------------------------------------------------------------------------------------------------------


def _write_meta(connection: sqlite3.Connection, name: str, value: str) -> None:
    connection.execute(SQL["write_meta_over"], (name, value))


def _write(connection: sqlite3.Connection, folded: Fold, before: Instant) -> None:
    # First how far the base is: the triggers let go of nothing that is newer.
    _write_meta(connection, "base_seq", str(folded.seq))
    _write_meta(connection, "base_at", str(max(before, _number(connection, "base_at"))))
    connection.executemany(SQL["write_base_account"], base_account_rows(folded.accounts))
    connection.executemany(SQL["write_base_hold"], [(call, hold.to_text()) for call, hold in folded.holds.items()])
    gone = [(row.call_id,) for row in folded.ended]
    connection.executemany(SQL["write_base_hold_gone"], gone)
    for (model,) in connection.execute(SQL["read_base_quarantine"]).fetchall():
        if model not in folded.quarantined:
            connection.execute(SQL["write_base_quarantine_gone"], (model,))
    connection.executemany(SQL["write_base_quarantine"], [(model,) for model in sorted(folded.quarantined)])
    connection.executemany(SQL["write_folded_day"], folded_days(folded.ended))
    connection.executemany(SQL["write_folded_call"], [(call,) for call in booked_calls(folded.ended)])
    connection.executemany(SQL["write_hold_gone"], gone)
    connection.execute(SQL["write_entries_gone"], (folded.seq,))
