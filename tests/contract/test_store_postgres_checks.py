"""The constraints and triggers of the PostgreSQL ledger: each says no to what the rules would never write."""

from __future__ import annotations

from pathlib import Path

import asyncpg
import pytest
from databases import database_of
from test_store_contract import ASK, KEY, NOON, PATH, RUN, Hands, settle

from bursar.ledger.account import Authorize, Limits, OpenScope
from bursar.stores.postgres import PostgresStore

HOLD = (
    "INSERT INTO bursar.holds (call_id, worker, state, accounts, held_usd, held_calls, held_tokens, captured_usd, "
    "captured_calls, captured_tokens, overrun_usd, overrun_calls, overrun_tokens, output_tokens, model, upstream, "
    "opened_at, settled_at, basis, why) VALUES ({call}, 'w', {state}, '[]', {held}, {captured}, {overrun}, {tokens}, "
    "'m', 'u', 1, {settled}, {basis}, '')"
)
FINE = {
    "call": "'c9'",
    "state": "'captured'",
    "held": "1, 1, 1",
    "captured": "1, 1, 1",
    "overrun": "0, 0, 0",
    "tokens": "0",
    "settled": "2",
    "basis": "'metered'",
}
ENTRY = (
    "INSERT INTO bursar.entries (seq, at, kind, call_id, worker, usd, calls, tokens, accounts, detail) "
    "VALUES (99, 1, {}, '', '', 0, 0, 0, '[]', '{{}}')"
)

DELIVERY = (
    "INSERT INTO bursar.outbox (kind, told, at, subject, detail) VALUES ('exhausted', 'r1', 1, 'r1', '{{}}'); "
    "INSERT INTO bursar.deliveries SELECT max(id), 'ops', {}, 1, '' FROM bursar.outbox"
)


def hold(**changes: str) -> str:
    return HOLD.format(**(FINE | changes))


TAKEN = (
    hold(),
    hold(state="'open'", captured="0, 0, 0", settled="NULL", basis="''"),
    ENTRY.format("'note'"),
    DELIVERY.format("'waiting', 1"),
    "UPDATE bursar.last_entry SET seq = seq",
    "UPDATE bursar.accounts SET held = ceiling - captured WHERE ceiling IS NOT NULL",
)
REFUSED = (
    "UPDATE bursar.scopes SET calls_refused = -1",
    "UPDATE bursar.accounts SET held = -1",
    "UPDATE bursar.accounts SET captured = -1",
    "UPDATE bursar.accounts SET overrun = -1",
    "UPDATE bursar.accounts SET held = ceiling - captured + 1 WHERE ceiling IS NOT NULL",
    "UPDATE bursar.accounts SET held = 9223372036854775807, captured = 9223372036854775807 WHERE ceiling > 0",
    "UPDATE bursar.accounts SET ceiling = cap - 1 WHERE unit = 'usd'",
    "UPDATE bursar.accounts SET cap = -1 WHERE cap IS NOT NULL",
    "UPDATE bursar.accounts SET ceiling = NULL WHERE ceiling IS NOT NULL",
    "UPDATE bursar.accounts SET cap = NULL WHERE cap IS NOT NULL",
    "UPDATE bursar.accounts SET state = 'full'",
    "UPDATE bursar.accounts SET unit = 'euro' WHERE unit = 'usd'",
    "UPDATE bursar.accounts SET ends_at = starts_at",
    "UPDATE bursar.accounts SET counts = NULL",
    "INSERT INTO bursar.accounts (scope, unit, period) SELECT scope, unit, period FROM bursar.accounts",
    "INSERT INTO bursar.accounts (scope, unit, period) VALUES ('run:nobody', 'usd', 'lifetime')",
    "TRUNCATE bursar.accounts",
    hold(call="'c1'"),
    hold(state="'lost'"),
    hold(held="-1, 1, 1", captured="-1, 1, 1"),
    hold(held="1, -1, 1", captured="1, -1, 1"),
    hold(held="1, 1, -1", captured="1, 1, -1"),
    hold(captured="2, 1, 1"),
    hold(captured="1, 2, 1"),
    hold(captured="1, 1, 2"),
    hold(captured="-1, 1, 1"),
    hold(captured="1, -1, 1"),
    hold(captured="1, 1, -1"),
    hold(overrun="-1, 0, 0"),
    hold(overrun="0, -1, 0"),
    hold(overrun="0, 0, -1"),
    hold(tokens="-1"),
    hold(basis="'guessed'"),
    hold(state="'open'", settled="NULL"),
    hold(state="'open'", captured="0, 0, 0"),
    hold(settled="NULL"),
    "UPDATE bursar.holds SET state = 'open', settled_at = NULL, captured_usd = 0, captured_calls = 0, "
    "captured_tokens = 0 WHERE call_id = 'c0'",
    "UPDATE bursar.holds SET why = 'x' WHERE call_id = 'c1'",
    "DELETE FROM bursar.holds WHERE call_id = 'c0'",
    "DELETE FROM bursar.holds WHERE call_id = 'c1'",
    "TRUNCATE bursar.holds",
    "UPDATE bursar.entries SET usd = 0",
    "DELETE FROM bursar.entries",
    "TRUNCATE bursar.entries",
    ENTRY.format("'gift'"),
    DELIVERY.format("'lost', 1"),
    DELIVERY.format("'waiting', 0"),
    "UPDATE bursar.last_entry SET seq = seq - 1",
    "DELETE FROM bursar.last_entry",
    "INSERT INTO bursar.last_entry (seq) VALUES (0)",
    "INSERT INTO bursar.last_entry (one, seq) VALUES (false, 0)",
)
"""On a ledger with c0, which has ended, and c1, which is open."""


@pytest.fixture
async def connection(tmp_path: Path) -> asyncpg.Connection:
    url = database_of(tmp_path)
    store = PostgresStore(url, Hands(), marker=tmp_path / "ledger.json")
    await store.start()
    await store.submit(OpenScope(KEY, "", Limits()))
    await store.submit(OpenScope(RUN, KEY, Limits(usd=10_000, calls=10)))
    for call in ("c0", "c1"):
        await store.submit(Authorize(call, store.worker, PATH, ASK, "m1", "u"))
    await store.submit(settle(store, "c0", 7))
    await store.close()
    return await asyncpg.connect(url)


async def is_refused(connection: asyncpg.Connection, statement: str) -> bool:
    """Say whether a constraint refuses the statement; nothing of it stays."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(statement)
    except asyncpg.IntegrityConstraintViolationError:
        return True
    else:
        return False
    finally:
        await transaction.rollback()


async def test_what_the_rules_write_is_taken_and_what_they_never_write_is_refused(
    connection: asyncpg.Connection,
) -> None:
    assert [statement for statement in TAKEN if await is_refused(connection, statement)] == []
    assert [statement for statement in REFUSED if not await is_refused(connection, statement)] == []
    await connection.close()


async def test_what_is_newer_than_the_base_never_vanishes(connection: asyncpg.Connection) -> None:
    """Folded is what was settled before base_at, and the entries up to base_seq."""
    for at, seq, holds_gone, entries_gone in ((NOON, 3, False, 3), (NOON + 1, 4, True, 4)):
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(f"INSERT INTO bursar.meta VALUES ('base_at', '{at}'), ('base_seq', '{seq}')")
        refused = await is_refused(connection, "DELETE FROM bursar.holds WHERE call_id = 'c0'")
        assert refused is not holds_gone
        assert await is_refused(connection, "DELETE FROM bursar.holds WHERE call_id = 'c1'")
        assert not await is_refused(connection, f"DELETE FROM bursar.entries WHERE seq <= {entries_gone}")
        assert await is_refused(connection, f"DELETE FROM bursar.entries WHERE seq = {entries_gone + 1}")
        await transaction.rollback()
    await connection.close()
