"""Loads the books of a batch from PostgreSQL and writes its changes back; decides nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from bursar.clock import Instant
from bursar.ledger.account import Adjust, Operation, Void
from bursar.ledger.batch import Changes, Needs, needs
from bursar.ledger.books import UNITS, Balance, Books, Claim, HoldFacts, scopes_of
from bursar.stores.postgres_link import Connection, MismatchError, life_key
from bursar.stores.queries import queries
from bursar.stores.rows import CLAIMS_KEPT

SQL = queries("postgres")
ACCOUNT_COLUMNS = 12
COLUMNS = 2 + ACCOUNT_COLUMNS + len(HoldFacts._fields)
"""In an answer of the loading function: when and where, then the columns of the accounts, then those of the holds."""
ACCOUNTS, NEW_HOLDS, HOLDS, REFUSED, LINES = 4, 20, 12, 2, 9
"""How many columns each part of a batch has."""


class Loaded(NamedTuple):
    """The books of a batch, locked, and when and where that was."""

    books: Books
    now: Instant
    backend: int
    """The server's process that has the locks."""


async def load(connection: Connection, batch: list[Operation], worker: str, now: Instant | None) -> Loaded:
    """Lock and give every row that the operations may touch; `now` None is the clock of the server."""
    need = needs(batch)
    bare = [op.call_id for op in batch if isinstance(op, Void | Adjust)]
    loaded = await _load(connection, need, bare, worker, now)
    elsewhere = _scopes_of_holds(loaded.books) - loaded.books.scopes.keys()
    if elsewhere:
        # A hold that was taken from other scopes than the operation names; rare enough to lock a second time.
        need.scopes |= elsewhere
        loaded = await _load(connection, need, bare, worker, now)
    await _load_past(connection, loaded.books)
    gone = [call for call in need.ends if call not in loaded.books.holds]
    if gone:
        loaded.books.folded.update(row[0] for row in await connection.fetch(SQL["books_folded"], gone))
    return loaded


async def _load(connection: Connection, need: Needs, bare: list[str], worker: str, now: Instant | None) -> Loaded:
    # The session that asks has its own lock and would get it again: nobody finds himself dead.
    suspects = sorted(need.expires - {worker})
    row = await connection.fetchrow(
        SQL["books"],
        *(list(need.scopes), need.calls, bare, list(need.workers)),
        *(suspects, [life_key(suspect) for suspect in suspects]),
        *(list(need.opens), list(need.opens.values()), need.owners, need.claims, now),
    )
    at, backend, *columns = row[:COLUMNS]
    dead, fenced, quarantined, owners, openings, claims = row[COLUMNS:]
    books = Books()
    if columns[0]:
        for account in zip(*columns[:ACCOUNT_COLUMNS], strict=True):
            books.add(Balance(*account))
    if columns[ACCOUNT_COLUMNS]:
        for hold in map(HoldFacts._make, zip(*columns[ACCOUNT_COLUMNS:], strict=True)):
            books.holds[hold.call_id] = hold
    books.dead.update(dead or ())
    books.fenced.update(fenced or ())
    books.quarantined.update(quarantined or ())
    books.owners.update((scope, owner) for scope, owner in _rows(owners))
    books.openings.update((owner, []) for owner in need.opens)
    for owner, opened_at in _rows(openings):
        books.openings[owner].append(Instant(opened_at))
    for claim in map(Claim._make, _rows(claims)):
        books.claims.setdefault(claim.account, []).append(claim)
    return Loaded(books, Instant(at), backend)


async def _load_past(connection: Connection, books: Books) -> None:
    """Load the accounts that holds were taken from and that no authorize looks at any more."""
    past = books.missing()
    if past:
        for row in await connection.fetch(SQL["books_accounts_past"], *_columns(past, 3)):
            books.add_past(Balance(*row))


def _scopes_of_holds(books: Books) -> set[str]:
    return {scope for hold in books.holds.values() for scope in scopes_of(hold.accounts)}


def _rows(text: str | None) -> Sequence[Sequence[Any]]:
    return json.loads(text) if text else ()


async def write(connection: Connection, changes: Changes, now: Instant) -> int:
    """Write the changes of a batch; give the number of the last entry. Raises MismatchError."""
    if changes.scopes:
        await connection.execute(SQL["write_scopes"], *_columns(changes.scopes, 5))
    if changes.new_balances:
        new = [_new_account(balance) for balance in changes.new_balances]
        await connection.execute(SQL["write_new_accounts"], *_columns(new, 11))
    if changes.terms:
        terms = [(b.key, b.limit, b.ceiling, b.state, b.held, b.captured, b.overrun) for b in changes.terms.values()]
        await connection.execute(SQL["write_account_terms"], *_columns(terms, 7))
    await _write_rare(connection, changes, now)
    return await _write_batch(connection, changes)


async def _write_batch(connection: Connection, changes: Changes) -> int:
    moved = [
        (b.key, b.held, b.captured, b.overrun) for name, b in changes.balances.items() if name not in changes.terms
    ]
    ended = [(h[0], h[2], h[3], *h[7:13], h[17], h[18], h[19]) for h in changes.holds.values()]
    row = await connection.fetchrow(
        SQL["write_batch"],
        *_columns(moved, ACCOUNTS),
        *_columns(changes.new_holds.values(), NEW_HOLDS),
        *_columns(ended, HOLDS),
        *_columns(changes.refused.items(), REFUSED),
        *_columns(changes.lines, LINES),
    )
    seq, *found = row
    expected = [len(moved), len(changes.new_holds), len(ended)]
    if found != expected:
        raise MismatchError(f"accounts, new holds and holds that were written are {found}, not {expected}")
    return int(seq)


async def _write_rare(connection: Connection, changes: Changes, now: Instant) -> None:
    if changes.past:
        await connection.execute(SQL["write_past_accounts"], [balance.key for balance in changes.past])
    if changes.claims:
        await connection.execute(SQL["write_stale_claims"], now - CLAIMS_KEPT)
        await connection.execute(SQL["write_claims"], *_columns(changes.claims.values(), 5))
    if changes.unclaimed:
        await connection.execute(SQL["write_unclaimed"], list(changes.unclaimed))
    if changes.happenings:
        await connection.execute(SQL["write_happenings"], *_columns(changes.happenings.values(), 5))
    if changes.cleared:
        await connection.execute(SQL["write_cleared"], changes.cleared)
    if changes.quarantined:
        await connection.execute(SQL["write_quarantined"], *_columns(changes.quarantined.items(), 2))
    if changes.fenced:
        await connection.execute(SQL["write_fenced"], changes.fenced, now)


def _new_account(b: Balance) -> tuple[object, ...]:
    unit = UNITS[b.unit].value
    return (
        *(b.scope, unit, b.period, b.limit, b.ceiling, b.held, b.captured, b.overrun, b.state),
        *(b.starts_at, b.ends_at),
    )


def _columns(rows: Iterable[Sequence[object]], width: int) -> Sequence[Sequence[object]]:
    """Turn rows into columns; no rows are so many empty columns."""
    return tuple(zip(*rows, strict=True)) or ((),) * width
