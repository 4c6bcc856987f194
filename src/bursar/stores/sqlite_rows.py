"""Loads the books of a batch from SQLite and writes its changes back; decides nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from itertools import chain

from bursar.clock import Instant
from bursar.ledger.batch import Changes, Needs
from bursar.ledger.books import UNITS, Balance, Books, Claim, HoldFacts, encode, scopes_of
from bursar.ledger.rules import HOUR
from bursar.stores.queries import for_rows, queries
from bursar.stores.rows import CLAIMS_KEPT, entry_row, hold_row, key_row, quarantine_row

__all__ = ["SQL", "entry_row", "hold_row", "key_row", "load", "quarantine_row", "write"]

SQL = queries("sqlite")
ROWS_MAX = 64
"""Most rows in one statement."""


def load(connection: sqlite3.Connection, need: Needs, now: Instant) -> Books:
    """Give the books that hold every row the operations may touch."""
    execute = connection.execute
    books = Books()
    _load_holds(connection, need, books)
    scopes = need.scopes
    for row in execute(SQL["books_accounts"], (encode(list(scopes)),)):
        books.add(Balance(*row))
    past = books.missing()
    if past:
        for row in execute(SQL["books_accounts_past"], (encode(past),)):
            books.add_past(Balance(*row))
    if need.claims:
        for row in execute(SQL["books_claims"]):
            books.claims.setdefault(row[0], []).append(Claim._make(row))
    books.quarantined.update(row[0] for row in execute(SQL["books_quarantine"]))
    if need.workers:
        books.fenced.update(row[0] for row in execute(SQL["books_fenced"], (encode(list(need.workers)),)))
    if need.owners:
        books.owners.update(execute(SQL["books_scopes"], (encode(list(scopes)),)).fetchall())
    for owner, most in need.opens.items():
        rows = execute(SQL["books_openings"], (owner, now - HOUR, most)).fetchall()
        books.openings[owner] = [Instant(row[0]) for row in reversed(rows)]
    return books


def _load_holds(connection: sqlite3.Connection, need: Needs, books: Books) -> None:
    """Load the holds of the operations, and say that the scopes they were taken from are needed too."""
    holds: Iterable[tuple[object, ...]] = ()
    if need.calls:
        holds = connection.execute(SQL["books_holds"], (encode(need.calls),)).fetchall()
    if need.expires:
        holds = chain(holds, connection.execute(SQL["books_orphans"], (encode(sorted(need.expires)),)))
    for row in holds:
        hold = HoldFacts._make(row)
        books.holds[hold.call_id] = hold
        need.scopes.update(scopes_of(hold.accounts))
    gone = [call for call in need.ends if call not in books.holds]
    if gone:
        books.folded.update(row[0] for row in connection.execute(SQL["books_folded"], (encode(gone),)))


def write(connection: sqlite3.Connection, changes: Changes, now: Instant) -> int:
    """Write the changes of a batch, accounts first; give the number of the last entry (0 when there is none)."""
    if changes.scopes:
        _in_steps(connection, "write_scopes", changes.scopes)
    if changes.new_balances:
        _in_steps(connection, "write_new_accounts", [_new_account(balance) for balance in changes.new_balances])
    if changes.terms:
        terms = [(b.limit, b.ceiling, b.state, b.key) for b in changes.terms.values()]
        connection.executemany(SQL["write_account_terms"], terms)
    if changes.balances:
        _in_steps(
            connection, "write_accounts", [(b.key, b.held, b.captured, b.overrun) for b in changes.balances.values()]
        )
    if changes.new_holds:
        _in_steps(connection, "write_new_holds", list(changes.new_holds.values()))
    if changes.holds:
        updates = [(h[0], h[2], h[3], *h[7:13], h[17], h[18], h[19]) for h in changes.holds.values()]
        _in_steps(connection, "write_holds", updates)
    _write_rare(connection, changes, now)
    return _in_steps(connection, "write_entries", changes.lines)


def _write_rare(connection: sqlite3.Connection, changes: Changes, now: Instant) -> None:
    if changes.past:
        connection.executemany(SQL["write_past_accounts"], [(balance.key,) for balance in changes.past])
    if changes.claims:
        connection.execute(SQL["write_stale_claims"], (now - CLAIMS_KEPT,))
        connection.executemany(SQL["write_claims"], list(changes.claims.values()))
    if changes.unclaimed:
        connection.executemany(SQL["write_unclaimed"], [(call_id,) for call_id in changes.unclaimed])
    if changes.happenings:
        connection.executemany(SQL["write_happenings"], list(changes.happenings.values()))
    if changes.cleared:
        connection.executemany(SQL["write_cleared"], [(model,) for model in changes.cleared])
    if changes.quarantined:
        connection.executemany(SQL["write_quarantined"], list(changes.quarantined.items()))
    if changes.fenced:
        connection.executemany(SQL["write_fenced"], [(worker, now) for worker in changes.fenced])
    if changes.refused:
        connection.executemany(SQL["write_refused"], [(count, scope) for scope, count in changes.refused.items()])


def _in_steps(connection: sqlite3.Connection, name: str, rows: Sequence[tuple[object, ...]]) -> int:
    """Write rows in few steps, of sizes that are powers of two, so that few forms of the query are prepared.

    SQLite gives Python's global lock away in each step, and a busy event loop may keep it for milliseconds.
    """
    last = 0
    start, size = 0, ROWS_MAX
    while start < len(rows):
        while size > len(rows) - start:
            size //= 2
        values = list(chain.from_iterable(rows[start : start + size]))
        last = connection.execute(for_rows(SQL[name], size), values).lastrowid or 0
        start += size
    return last


def _new_account(b: Balance) -> tuple[object, ...]:
    unit = UNITS[b.unit].value
    return (
        *(b.scope, unit, b.period, b.limit, b.ceiling, b.held, b.captured, b.overrun, b.state),
        *(b.starts_at, b.ends_at),
    )
