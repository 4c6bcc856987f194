"""A ledger that an older version has written is brought up, and its books are what they were."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bursar.ledger.account import (
    AccountState,
    Amounts,
    Ask,
    Authorize,
    Basis,
    Denied,
    Granted,
    Limits,
    OpenScope,
    SetLimit,
    SetState,
    Settle,
    Settled,
    Unit,
)
from bursar.ledger.reaper import reap_once
from bursar.ledger.store import LedgerLostError
from bursar.stores.migrate import SchemaError, migrations, pending
from bursar.stores.sqlite import SqliteStore

OLD = Path(__file__).parent / "ledger-0001.sqlite"
KEY, RUN = "key:ci", "run:r1"
PATH = (KEY, RUN)
ASK = Ask(1000, 100, 2000, 1, 1000, 500, 100, False)
ACCOUNTS = "SELECT scope, unit, period, cap, ceiling, held, captured, overrun, state FROM accounts ORDER BY id"
HOLDS = "SELECT * FROM holds ORDER BY id"
ENTRIES = "SELECT seq, at, kind, call_id, worker, usd, calls, tokens, accounts, detail FROM entries ORDER BY seq"
OTHERS = (
    "SELECT scope, owner, label, opened_at, calls_refused FROM scopes ORDER BY scope",
    "SELECT * FROM quarantine ORDER BY model",
    "SELECT digest, name, run, limits_json, created_at, revoked_at FROM keys",
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "ledger.db"
    shutil.copy(OLD, made)
    shutil.copy(f"{OLD}.marker", f"{made}.marker")
    return made


def rows(path: Path, *queries: str) -> list[list[Any]]:
    with closing(sqlite3.connect(path)) as connection:
        return [connection.execute(query).fetchall() for query in queries]


async def started(path: Path) -> SqliteStore:
    store = SqliteStore(path)
    await store.start()
    return store


async def test_the_books_are_what_they_were(path: Path) -> None:
    before = rows(path, ACCOUNTS, HOLDS, ENTRIES, *OTHERS)
    assert [len(found) for found in before] == [8, 11, 24, 3, 1, 1]
    store = await started(path)
    assert rows(path, ACCOUNTS, HOLDS, ENTRIES, *OTHERS) == before
    assert await store.audit() == ()
    assert [(row.model, row.call_id) for row in await store.quarantined()] == [("gpt-5-mini", "r2-1")]
    await store.close()
    assert [number for (number,) in rows(path, "SELECT number FROM migrations ORDER BY number")[0]] == [
        migration.number for migration in migrations("sqlite")
    ]


async def test_what_was_in_flight_is_captured_and_calls_go_on(path: Path) -> None:
    store = await started(path)
    assert await reap_once(store) == 5
    assert await store.submit(SetState(RUN, AccountState.OPEN))
    answer = await store.submit(Authorize("new", store.worker, PATH, ASK, "gpt-4.1-mini", "openai"))
    assert isinstance(answer, Granted)
    settled = await store.submit(
        Settle("new", store.worker, Amounts(7, 1, 10), Basis.METERED, PATH, Amounts(3000, 1, 1100))
    )
    assert isinstance(settled, Settled)
    stopped = await store.submit(Authorize("no", store.worker, (KEY, "run:r2"), ASK, "gpt-4.1-mini", "openai", True))
    assert isinstance(stopped, Denied)
    # What the older version did not know: budgets that come anew.
    await store.submit(SetLimit(KEY, Unit.CALLS, 1, "day"))
    await store.submit(OpenScope("run:r3", KEY, Limits(usd=5_000)))
    assert isinstance(
        await store.submit(Authorize("c-1", store.worker, (KEY, "run:r3"), ASK, "gpt-4.1-mini", "openai")), Granted
    )
    assert await store.audit() == ()
    await store.close()


async def test_a_look_at_the_first_schema_leaves_it_as_it_is(path: Path) -> None:
    before = path.read_bytes()
    found = await SqliteStore(path).survey()
    assert (found.entries, found.trouble) == (24, "")
    assert path.read_bytes() == before


async def test_the_first_entries_fold_like_all_others(path: Path) -> None:
    # The file is of a day that is still to come.
    class Later:
        def now(self) -> int:
            return 1_795_435_200_000_000 + 90 * 86_400_000_000

    store = SqliteStore(path, Later())  # type: ignore[arg-type]
    await store.start()
    assert await reap_once(store) == 5
    step = await store.compact(30, 1000)
    # One more has ended, but was corrected, and stays.
    assert (step.entries, step.holds, step.findings) == (24, 5, ())
    assert await store.audit() == ()
    await store.close()


async def test_a_marker_of_the_older_version_still_guards(path: Path) -> None:
    store = await started(path)
    await reap_once(store)
    await store.close()
    marker = json.loads(path.with_name("ledger.db.marker").read_text())
    assert marker["entries"] > 24
    shutil.copy(OLD, path)
    with pytest.raises(LedgerLostError, match="it has 24 entries"):
        await started(path)


async def test_a_migration_that_cannot_be_finished_changes_nothing(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE base_quarantine (in_the_way TEXT)")
    before = path.read_bytes()
    with pytest.raises(Exception, match="already exists"):
        await started(path)
    assert rows(path, "SELECT number FROM migrations") == [[(1,)]]
    assert len(path.read_bytes()) == len(before)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DROP TABLE base_quarantine")
    store = await started(path)
    assert await store.audit() == ()
    await store.close()


async def test_an_older_version_does_not_run_on_what_was_brought_up(path: Path) -> None:
    await (await started(path)).close()
    (applied,) = rows(path, "SELECT number, digest FROM migrations ORDER BY number")
    with pytest.raises(SchemaError, match="start the newer version"):
        pending(migrations("sqlite")[:1], applied)
