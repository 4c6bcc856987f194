"""What SQLite adds: the constraints repeat the rules, lost files stop the start, trouble passes."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
import pytest_asyncio

from bursar.ledger.account import (
    AccountState,
    Amounts,
    Ask,
    Authorize,
    Basis,
    Changed,
    Expire,
    Granted,
    Limits,
    Opened,
    OpenScope,
    Settle,
    Settled,
    Void,
)
from bursar.ledger.store import LedgerLostError, LedgerUnavailableError, NotWrittenError
from bursar.money import BrokenInvariantError
from bursar.stores.migrate import Migration, SchemaError, migrate_sqlite, migrations, pending
from bursar.stores.queries import for_rows, queries
from bursar.stores.sqlite import SqliteStore

KEY, RUN = "key:ci", "run:r1"
PATH = (KEY, RUN)
ASK = Ask(1000, 100, 2000, 1, 1000, 500, 100, False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "ledger.db"


async def opened(path: Path, busy_seconds: float = 5.0) -> SqliteStore:
    store = SqliteStore(path, busy_seconds=busy_seconds)
    await store.start()
    await store.submit(OpenScope(KEY, "", Limits()))
    await store.submit(OpenScope(RUN, KEY, Limits(usd=10_000_000, calls=1_000)))
    return store


@pytest_asyncio.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    made = await opened(path, busy_seconds=0.01)
    yield made
    await made.close()


def authorize(store: SqliteStore, call_id: str) -> Authorize:
    return Authorize(call_id, store.worker, PATH, ASK, "m1", "u")


# ---- the constraints ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE accounts SET held = -1",
        "UPDATE accounts SET captured = -1",
        "UPDATE accounts SET overrun = -1",
        "UPDATE accounts SET held = ceiling + 1 WHERE ceiling IS NOT NULL",
        "UPDATE accounts SET ceiling = cap - 1 WHERE cap IS NOT NULL",
        "UPDATE accounts SET cap = -1, ceiling = -1",
        "UPDATE accounts SET ceiling = NULL WHERE ceiling IS NOT NULL",
        "UPDATE accounts SET state = 'full'",
        "UPDATE accounts SET unit = 'euro'",
        "UPDATE accounts SET held = 1.5",
        "INSERT INTO accounts (scope, unit, period) SELECT scope, unit, period FROM accounts",
        "INSERT INTO accounts (scope, unit, period) VALUES ('run:nobody', 'usd', 'lifetime')",
        "UPDATE holds SET captured_usd = held_usd + 1, settled_at = 1, state = 'captured'",
        "UPDATE holds SET held_usd = -1",
        "UPDATE holds SET overrun_calls = -1",
        "UPDATE holds SET state = 'open', settled_at = NULL",
        "UPDATE holds SET state = 'captured'",
        "UPDATE holds SET settled_at = 5",
        "UPDATE holds SET basis = 'guessed'",
        "INSERT INTO holds SELECT id + 100, call_id, worker, state, accounts, held_usd, held_calls, held_tokens, "
        "captured_usd, captured_calls, captured_tokens, overrun_usd, overrun_calls, overrun_tokens, output_tokens, "
        "model, upstream, opened_at, settled_at, basis, why FROM holds",
        "DELETE FROM holds",
        "UPDATE entries SET usd = 0",
        "DELETE FROM entries",
        "INSERT INTO entries (at, kind, call_id, worker, usd, calls, tokens, accounts, detail) "
        "VALUES (1, 'gift', '', '', 0, 0, 0, '[]', '{}')",
    ],
)
async def test_the_database_says_the_rules_again(store: SqliteStore, path: Path, statement: str) -> None:
    await store.submit(authorize(store, "c1"))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute(statement)


async def test_what_the_database_refuses_is_refused_alone(store: SqliteStore, path: Path) -> None:
    """Books that were changed behind the ledger's back: the constraint stops the one, the others go through."""
    await store.submit(authorize(store, "c1"))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TRIGGER odd BEFORE INSERT ON holds WHEN new.call_id = 'bad' "
                           "BEGIN SELECT RAISE(ABORT, 'odd'); END")  # fmt: skip
    operations = [store.submit(authorize(store, name)) for name in ("a", "bad", "b")]
    answers = await asyncio.gather(*operations, return_exceptions=True)
    assert [type(answer) for answer in answers] == [Granted, BrokenInvariantError, Granted]


# ---- trouble --------------------------------------------------------------------------------------------------------


async def test_a_locked_database_is_unavailable_and_then_recovers(store: SqliteStore, path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(NotWrittenError, match="locked"):
            await store.submit(authorize(store, "c1"))
        with pytest.raises(LedgerUnavailableError):
            await store.put_key("ci", "d", "", "{}")
        other.execute("ROLLBACK")
    assert isinstance(await store.submit(authorize(store, "c1")), Granted)


async def test_a_database_that_goes_away_is_unavailable_and_recovers_when_it_is_back(
    store: SqliteStore, path: Path
) -> None:
    aside = path.with_name("aside")
    path.rename(aside)
    with pytest.raises(NotWrittenError):
        await store.submit(authorize(store, "c1"))
    aside.rename(path)
    assert isinstance(await store.submit(authorize(store, "c1")), Granted)


async def test_museum_19_a_database_that_is_exchanged_under_way_is_not_written(
    store: SqliteStore, path: Path, tmp_path: Path
) -> None:
    other = await opened(tmp_path / "other.db")
    await other.close()
    path.rename(path.with_name("aside"))
    for end in ("-wal", "-shm"):
        Path(f"{path}{end}").rename(f"{path.with_name('aside')}{end}")
    shutil.copy(tmp_path / "other.db", path)
    with pytest.raises(NotWrittenError, match="exchanged"):
        await store.submit(authorize(store, "c1"))


async def test_a_damaged_read_is_reported_and_recovers(store: SqliteStore, path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("ALTER TABLE keys RENAME TO locks")
        with pytest.raises(LedgerUnavailableError, match="cannot be read"):
            await store.keys()
        other.execute("ALTER TABLE locks RENAME TO keys")
    assert await store.keys() == ()


async def test_a_full_queue_refuses_at_once(path: Path) -> None:
    store = SqliteStore(path, queue_max=3)
    await store.start()
    tasks = [asyncio.ensure_future(store.submit(Void(f"c{number}", "w", "x"))) for number in range(4)]
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(answer) for answer in answers] == [Settled, Settled, Settled, NotWrittenError]
    await store.close()


async def test_what_is_no_operation_fails_alone(store: SqliteStore) -> None:
    with pytest.raises(BrokenInvariantError):
        await store.submit(object())  # type: ignore[arg-type]
    assert isinstance(await store.submit(authorize(store, "c1")), Granted)


async def test_a_hold_whose_account_is_gone_is_not_settled_and_freezes_the_rest(store: SqliteStore, path: Path) -> None:
    await store.submit(authorize(store, "c1"))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DELETE FROM accounts WHERE scope = ? AND unit = 'usd'", (RUN,))
    with pytest.raises(BrokenInvariantError, match="run:r1/usd"):
        await store.submit(Settle("c1", store.worker, None, Basis.PRESUMED, PATH, Amounts(0, 0, 0)))
    assert {account.state for account in await store.accounts()} == {AccountState.STOPPED}


async def test_work_that_breaks_takes_nobody_with_it(store: SqliteStore) -> None:
    with pytest.raises(BrokenInvariantError, match="'nothing'"):
        await store._work(lambda _: {}["nothing"])
    assert isinstance(await store.submit(authorize(store, "c1")), Granted)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_writer_that_has_ended_leaves_nobody_waiting(store: SqliteStore) -> None:
    with pytest.raises(LedgerUnavailableError):
        await store._work(lambda _: 1 // 0)
    for name in ("c1", "c2"):
        with pytest.raises(LedgerUnavailableError):
            await store.submit(authorize(store, name))


# ---- start ----------------------------------------------------------------------------------------------------------


async def test_museum_19_a_ledger_that_is_gone_does_not_start_anew(path: Path) -> None:
    await (await opened(path)).close()
    path.unlink()
    with pytest.raises(LedgerLostError) as lost:
        await SqliteStore(path).start()
    marker = path.with_name("ledger.db.marker")
    assert str(marker) in str(lost.value)
    assert str(path) in str(lost.value)
    assert not path.exists()
    path.touch()
    with pytest.raises(LedgerLostError, match="gone"):
        await SqliteStore(path).start()
    marker.unlink()
    await (await opened(path)).close()


async def test_museum_19_an_older_copy_does_not_start(path: Path, tmp_path: Path) -> None:
    await (await opened(path)).close()
    shutil.copy(path, tmp_path / "backup")
    store = await opened(path)
    await store.submit(authorize(store, "c1"))
    await store.close()
    shutil.copy(tmp_path / "backup", path)
    with pytest.raises(LedgerLostError, match="older"):
        await SqliteStore(path).start()


async def test_another_ledger_in_its_place_does_not_start(path: Path, tmp_path: Path) -> None:
    await (await opened(path)).close()
    await (await opened(tmp_path / "other.db")).close()
    shutil.copy(tmp_path / "other.db", path)
    with pytest.raises(LedgerLostError, match="another ledger"):
        await SqliteStore(path).start()


@pytest.mark.parametrize("text", ["", "[]", "{}", "not json"])
async def test_a_marker_that_cannot_be_read_stops_the_start(path: Path, text: str) -> None:
    await (await opened(path)).close()
    path.with_name("ledger.db.marker").write_text(text)
    with pytest.raises(LedgerLostError, match="cannot be read"):
        await SqliteStore(path).start()


async def test_a_file_that_is_no_database_does_not_start(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this is not a database, and it is longer than a header of a hundred bytes" * 20)
    with pytest.raises(LedgerUnavailableError, match="cannot be opened"):
        await SqliteStore(path).start()
    assert list((path.parent / "ledger.db.workers").iterdir()) == []


async def test_the_ledger_is_for_its_owner_only(store: SqliteStore, path: Path) -> None:
    assert path.stat().st_mode & 0o077 == 0
    assert Path(f"{path}-wal").stat().st_mode & 0o077 == 0


async def test_durability_is_not_traded_for_speed(store: SqliteStore) -> None:
    found: list[tuple[str, int]] = []

    def look(connection: sqlite3.Connection) -> None:
        mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
        found.append((mode, connection.execute("PRAGMA synchronous").fetchone()[0]))

    await store._work(look)
    assert found == [("wal", 2)]


# ---- liveness -------------------------------------------------------------------------------------------------------


async def test_a_worker_whose_file_is_gone_counts_as_dead_and_one_that_cannot_be_asked_does_not(
    store: SqliteStore, path: Path
) -> None:
    other = await opened(path)
    await other.submit(authorize(other, "c1"))
    file = path.with_name("ledger.db.workers") / other.worker
    file.unlink()
    file.mkdir()
    assert await store.dead_workers() == ()
    file.rmdir()
    assert await store.dead_workers() == (other.worker,)
    assert await store.submit(Expire(other.worker)) == Changed(count=1, calls=("c1",))
    await other.close()


# ---- migrations -----------------------------------------------------------------------------------------------------


def test_migrations_are_numbered_without_a_gap() -> None:
    known = migrations("sqlite")
    assert [migration.number for migration in known] == list(range(1, len(known) + 1))


def test_a_migration_is_applied_once() -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        migrate_sqlite(connection, 1, "a")  # type: ignore[arg-type]
        migrate_sqlite(connection, 2, "b")  # type: ignore[arg-type]
        assert connection.execute("SELECT number, applied_at FROM migrations").fetchall() == [
            (migration.number, 1) for migration in migrations("sqlite")
        ]


def test_a_newer_schema_and_an_edited_migration_are_refused() -> None:
    known = (Migration(1, "0001_a.sql", "A"), Migration(2, "0002_b.sql", "B"))
    assert pending(known, []) == known
    assert pending(known, [(1, known[0].digest)]) == known[1:]
    with pytest.raises(SchemaError, match="has schema 3"):
        pending(known, [(1, known[0].digest), (3, "x")])
    with pytest.raises(SchemaError, match="migration 2"):
        pending(known, [(2, known[0].digest)])


async def test_a_ledger_of_a_newer_version_does_not_start(path: Path) -> None:
    await (await opened(path)).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("INSERT INTO migrations VALUES (99, '0099_x.sql', 'x', 1)")
    with pytest.raises(SchemaError, match="99"):
        await SqliteStore(path).start()
    with pytest.raises(SchemaError, match="99"):
        await SqliteStore(path).survey()


def test_a_query_takes_many_rows() -> None:
    assert for_rows("INSERT INTO t VALUES (?, ?) /*rows*/", 3) == "INSERT INTO t VALUES (?, ?), (?, ?), (?, ?)"
    assert for_rows("INSERT INTO t VALUES (?) /*rows*/", 2) == "INSERT INTO t VALUES (?), (?)"
    assert queries("sqlite")["read_key"].startswith("SELECT")
    assert all("/*rows*/" not in for_rows(text, 2) for text in queries("sqlite").values())


async def test_opening_twice_finds_the_same_accounts(path: Path) -> None:
    await (await opened(path)).close()
    store = await opened(path)
    answer = await store.submit(OpenScope(RUN, KEY, Limits(usd=1)))
    assert isinstance(answer, Opened)
    assert not answer.created
    await store.close()
