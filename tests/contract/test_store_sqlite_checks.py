"""The constraints of the SQLite ledger: each says no to what the rules would never write."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from test_store_contract import ASK, KEY, PATH, RUN, Hands

from bursar.ledger.account import Authorize, Limits, OpenScope
from bursar.stores.sqlite import SqliteStore

HOLD = (
    "INSERT INTO holds (call_id, worker, state, accounts, held_usd, held_calls, held_tokens, captured_usd,"
    " captured_calls, captured_tokens, overrun_usd, overrun_calls, overrun_tokens, output_tokens, model, upstream,"
    " opened_at, settled_at, basis, why) VALUES ('c9', 'w', {state}, '[]', {held}, {captured}, {overrun}, {tokens},"
    " 'm', 'u', 1, {settled}, {basis}, '')"
)
FINE = {
    "state": "'captured'",
    "held": "1, 1, 1",
    "captured": "1, 1, 1",
    "overrun": "0, 0, 0",
    "tokens": "0",
    "settled": "2",
    "basis": "'metered'",
}
ENTRY = (
    "INSERT INTO entries (at, kind, call_id, worker, usd, calls, tokens, accounts, detail)"
    " VALUES (1, {}, '', '', 0, 0, 0, '[]', '{{}}')"
)


def hold(**changes: str) -> str:
    return HOLD.format(**(FINE | changes))


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    place = tmp_path / "ledger.db"
    store = SqliteStore(place, Hands())
    await store.start()
    await store.submit(OpenScope(KEY, "", Limits()))
    await store.submit(OpenScope(RUN, KEY, Limits(usd=10_000, calls=10)))
    await store.submit(Authorize("c1", store.worker, PATH, ASK, "m1", "u"))
    await store.close()
    return place


@pytest.mark.parametrize("statement", [hold(), ENTRY.format("'note'")])
async def test_what_the_rules_write_is_taken(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE scopes SET calls_refused = -1",
        "UPDATE accounts SET unit = 'euro' WHERE unit = 'usd'",
        "UPDATE accounts SET cap = -1, ceiling = 10000",
        "UPDATE accounts SET ends_at = starts_at",
        "UPDATE accounts SET counts = 2",
        "UPDATE accounts SET state = 'full'",
        hold(state="'lost'"),
        hold(held="-1, 1, 1", captured="-1, 1, 1"),
        hold(held="-1, 1, 1", captured="-2, 1, 1"),
        hold(held="1, -1, 1", captured="1, -1, 1"),
        hold(held="1, 1, -1", captured="1, 1, -1"),
        hold(captured="2, 1, 1"),
        hold(captured="1, 2, 1"),
        hold(captured="1, 1, 2"),
        hold(captured="1, -1, 1"),
        hold(captured="1, 1, -1"),
        hold(overrun="-1, 0, 0"),
        hold(overrun="0, -1, 0"),
        hold(overrun="0, 0, -1"),
        hold(tokens="-1"),
        hold(basis="'guessed'"),
        hold(state="'open'", settled="NULL"),
        hold(settled="NULL"),
        ENTRY.format("'gift'"),
    ],
)
async def test_what_the_rules_never_write_is_refused(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection, pytest.raises(sqlite3.IntegrityError):
        connection.execute(statement)
