"""What PostgreSQL adds: the constraints repeat the rules, roles may little, and every outage ends by itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio
from cluster import Cluster, shared
from databases import database_of
from wire import Cut, Wire

from bursar.ledger.account import (
    AccountState,
    Amounts,
    Ask,
    Authorize,
    Basis,
    Changed,
    Conflict,
    Expire,
    Granted,
    HoldState,
    Limits,
    Opened,
    OpenScope,
    SetLimit,
    Settle,
    Settled,
    Unit,
    Void,
)
from bursar.ledger.reaper import reap_once
from bursar.ledger.store import (
    DAY,
    NEVER,
    DeliveryState,
    LedgerLostError,
    LedgerUnavailableError,
    NotWrittenError,
)
from bursar.money import BrokenInvariantError
from bursar.stores import marker as markers
from bursar.stores.marker import Marker
from bursar.stores.migrate import Migration, SchemaError, migrations
from bursar.stores.postgres import PostgresStore
from bursar.stores.postgres_link import Patience, place_of

KEY, RUN = "key:ci", "run:r1"
PATH = (KEY, RUN)
ASK = Ask(1000, 100, 2000, 1, 1000, 500, 100, False)
HELD = Amounts(3000, 1, 1100)
QUICK = Patience(connect=5, statement=5, answer=6, lock=0.2, idle=2, grace=0)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return database_of(tmp_path)


@pytest.fixture
def server() -> Cluster:
    return shared()


def store_at(url: str, folder: Path, **more: object) -> PostgresStore:
    options: dict[str, object] = {"marker": folder / "marker.json", "patience": QUICK}
    return PostgresStore(url, **(options | more))  # type: ignore[arg-type]


async def opened(url: str, folder: Path, **more: object) -> PostgresStore:
    store = store_at(url, folder, **more)
    await store.start()
    await store.submit(OpenScope(KEY, "", Limits()))
    await store.submit(OpenScope(RUN, KEY, Limits(usd=10_000_000, calls=1_000)))
    return store


@pytest_asyncio.fixture
async def store(url: str, tmp_path: Path) -> AsyncIterator[PostgresStore]:
    made = await opened(url, tmp_path)
    yield made
    try:
        assert await made.audit() == ()
    finally:
        await made.close()


def name_of(url: str) -> str:
    return url.rpartition("/")[2]


def authorize(store: PostgresStore, call_id: str, worker: str = "") -> Authorize:
    return Authorize(call_id, worker or store.worker, PATH, ASK, "m1", "u")


def settle(store: PostgresStore, call_id: str, usd: int = 7) -> Settle:
    return Settle(call_id, store.worker, Amounts(usd, 1, 10), Basis.METERED, PATH, HELD)


async def granted_in_the_end(store: PostgresStore, call_id: str) -> Granted:
    """Ask again and again, as the ledger's caller does."""
    async with asyncio.timeout(30):
        while True:
            try:
                answer = await store.submit(authorize(store, call_id))
            except LedgerUnavailableError:
                await asyncio.sleep(0)
                continue
            assert isinstance(answer, Granted), answer
            return answer


# ---- the constraints ------------------------------------------------------------------------------------------------


async def test_what_the_database_refuses_is_refused_alone(store: PostgresStore, server: Cluster, url: str) -> None:
    """Books that were changed behind the ledger's back: the constraint stops the one, the others go through."""
    server.sql("ALTER TABLE bursar.holds ADD CHECK (call_id <> 'bad')", name_of(url))
    operations = [store.submit(authorize(store, name)) for name in ("a", "bad", "b\0", "b")]
    answers = await asyncio.gather(*operations, return_exceptions=True)
    assert [type(answer) for answer in answers] == [Granted, BrokenInvariantError, BrokenInvariantError, Granted]


async def test_entries_are_numbered_without_a_gap_whatever_fails(
    store: PostgresStore, server: Cluster, url: str, tmp_path: Path
) -> None:
    server.sql("ALTER TABLE bursar.holds ADD CHECK (call_id NOT LIKE '%bad%')", name_of(url))
    others = [store_at(url, tmp_path) for _ in range(2)]
    for other in others:
        await other.start()
    tried = [
        one.submit(authorize(one, f"{kind}-{number}-{one.worker}"))
        for number in range(30)
        for kind in ("good", "bad")
        for one in (store, *others)
    ]
    answers = await asyncio.gather(*tried, return_exceptions=True)
    assert sum(isinstance(answer, Granted) for answer in answers) == 90
    assert [entry.seq async for entry in store.entries()] == list(range(1, 93))
    for other in others:
        await other.close()


async def test_a_row_that_is_gone_behind_our_back_is_not_taken_for_written(
    store: PostgresStore, server: Cluster, url: str
) -> None:
    server.sql(
        "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; "
        "CREATE TRIGGER swallow BEFORE UPDATE ON bursar.accounts FOR EACH ROW "
        "WHEN (new.held > 0) EXECUTE FUNCTION swallow()",
        name_of(url),
    )
    with pytest.raises(BrokenInvariantError, match="not"):
        await store.submit(authorize(store, "c1"))
    assert await store.hold("c1") is None


async def test_a_hold_whose_account_is_gone_is_not_settled_and_freezes_the_rest(
    url: str, tmp_path: Path, server: Cluster
) -> None:
    store = await opened(url, tmp_path)
    await store.submit(authorize(store, "c1"))
    server.sql(f"DELETE FROM bursar.accounts WHERE scope = '{RUN}' AND unit = 'usd'", name_of(url))
    with pytest.raises(BrokenInvariantError, match="run:r1/usd"):
        await store.submit(settle(store, "c1"))
    assert {account.state for account in await store.accounts()} == {AccountState.STOPPED}
    await store.close()


async def test_a_settlement_that_names_other_scopes_finds_its_accounts(store: PostgresStore) -> None:
    await store.submit(authorize(store, "c1"))
    elsewhere = Settle("c1", store.worker, Amounts(5, 1, 1), Basis.METERED, ("key:other",), HELD)
    assert isinstance(await store.submit(elsewhere), Settled)
    assert {account.held for account in await store.accounts()} == {0}


# ---- two gateways ---------------------------------------------------------------------------------------------------


async def test_gateways_that_open_the_same_scopes_at_once_all_get_them(
    store: PostgresStore, url: str, tmp_path: Path
) -> None:
    others = [store_at(url, tmp_path) for _ in range(3)]
    for other in others:
        await other.start()
    for number in range(40):
        new = OpenScope(f"run:same-{number}", KEY, Limits(usd=5))
        lost = Settle(f"lost-{number}", "w", Amounts(5, 1, 1), Basis.METERED, (KEY, f"run:lost-{number}"), HELD)
        answers = await asyncio.gather(*(one.submit(what) for one in (store, *others) for what in (new, lost)))
        assert all(isinstance(answer, Opened) for answer in answers[::2])
        assert sum(answer.created for answer in answers if isinstance(answer, Opened)) == 1
        assert all(isinstance(answer, Settled) for answer in answers[1::2])
        assert sum(not answer.repeated for answer in answers if isinstance(answer, Settled)) == 1
    for other in others:
        await other.close()


async def test_a_scope_that_is_made_while_a_batch_is_loaded_is_not_half_seen(
    server: Cluster, url: str, tmp_path: Path
) -> None:
    store = await opened(url, tmp_path, patience=Patience())
    other = await asyncpg.connect(url)
    transaction = other.transaction()
    await transaction.start()
    await other.execute("LOCK TABLE bursar.holds IN ACCESS EXCLUSIVE MODE")
    asked = asyncio.ensure_future(store.submit(OpenScope("run:new", KEY, Limits(usd=5))))
    waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    async with asyncio.timeout(10):
        while not await other.fetchval(waits):
            # Within a transaction the server would show the same picture again.
            await other.execute("SELECT pg_stat_clear_snapshot()")
            await asyncio.sleep(0)
    await other.execute(
        "INSERT INTO bursar.scopes VALUES ('run:new', 'key:ci', '', 1); "
        "INSERT INTO bursar.accounts (scope, unit, period) VALUES ('run:new', 'usd', 'lifetime')"
    )
    await transaction.commit()
    answer = await asked
    assert isinstance(answer, Opened)
    assert not answer.created
    assert [account.limit for account in answer.accounts] == [None]
    await other.close()
    await store.close()


async def test_gateways_that_take_many_scopes_in_any_order_never_wait_in_a_circle(
    store: PostgresStore, server: Cluster, url: str, tmp_path: Path
) -> None:
    before = server.sql(f"SELECT deadlocks FROM pg_stat_database WHERE datname = '{name_of(url)}'")
    other = store_at(url, tmp_path)
    await other.start()
    names = [f"run:{number}" for number in range(8)]
    for name in names:
        await store.submit(OpenScope(name, KEY, Limits()))
    answers = await asyncio.gather(
        *(
            one.submit(Authorize(f"{one.worker}-{number}", one.worker, (KEY, *path), ASK, "m", "u"))
            for number in range(40)
            for one, path in ((store, names), (other, names[::-1]))
        )
    )
    assert all(isinstance(answer, Granted) for answer in answers)
    assert server.sql(f"SELECT deadlocks FROM pg_stat_database WHERE datname = '{name_of(url)}'") == before
    await other.close()


# ---- outages --------------------------------------------------------------------------------------------------------


async def test_accounts_that_somebody_else_keeps_locked_are_unavailable_and_then_recover(
    store: PostgresStore, url: str
) -> None:
    connection = await asyncpg.connect(url)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("LOCK TABLE bursar.accounts IN EXCLUSIVE MODE")
    with pytest.raises(NotWrittenError, match="keeps the accounts locked"):
        await store.submit(authorize(store, "c1"))
    await transaction.rollback()
    await connection.close()
    assert isinstance(await store.submit(authorize(store, "c1")), Granted)


@pytest.mark.parametrize("with_reply", [False, True])
@pytest.mark.parametrize("request_number", [0, 1, 2, 3])
async def test_a_connection_that_is_cut_at_any_moment_loses_nothing_and_doubles_nothing(
    server: Cluster, url: str, tmp_path: Path, request_number: int, with_reply: bool
) -> None:
    """Requests: 0 begins, 1 locks and loads, 2 writes, 3 commits."""
    async with Wire(server.port) as wire:
        store = await opened(wire.url(url), tmp_path)
        await store.submit(authorize(store, "before"))
        worker = store.worker
        wire.cut_at = Cut(request_number, with_reply)
        with pytest.raises(LedgerUnavailableError) as lost:
            await store.submit(authorize(store, "c1"))
        assert wire.cut_at.is_done
        assert isinstance(lost.value, NotWrittenError) == (request_number < 3)
        assert (await granted_in_the_end(store, "c1")).state is HoldState.OPEN
        wire.cut_at = Cut(request_number, with_reply)
        with pytest.raises(LedgerUnavailableError):
            await store.submit(settle(store, "c1"))
        await granted_in_the_end(store, "before")
        assert isinstance(await store.submit(settle(store, "c1")), Settled)
        assert store.worker == worker
        assert [account.held for account in await store.accounts(RUN)] == [3000, 1]
        assert [account.captured for account in await store.accounts(RUN)] == [7, 1]
        assert await store.audit() == ()
        await store.close()


async def test_a_server_that_ends_in_any_way_loses_nothing_and_needs_no_operator(tmp_path: Path) -> None:
    with Cluster(durable=True) as server:
        store = await opened(server.url(server.new_database()), tmp_path)
        worker = store.worker
        held: list[str] = []
        for number, end in enumerate((server.stop, lambda: server.stop("immediate"), server.kill9)):
            held.append((await granted_in_the_end(store, f"c{number}")).call_id)
            await asyncio.to_thread(end)
            with pytest.raises(NotWrittenError):
                await store.submit(authorize(store, f"lost{number}"))
            with pytest.raises(LedgerUnavailableError):
                await store.accounts()
            with pytest.raises(LedgerUnavailableError):
                await store.find_key("d")
            await asyncio.to_thread(server.start)
        await granted_in_the_end(store, "last")
        assert await store.dead_workers() == ()
        assert store.worker == worker
        assert [hold.call_id for hold in await store.holds(HoldState.OPEN)] == ["last", *held[::-1]]
        assert await store.audit() == ()
        await store.close()


async def test_a_server_that_stands_still_is_unavailable_and_then_recovers(tmp_path: Path) -> None:
    with Cluster() as server:
        store = await opened(server.url(server.new_database()), tmp_path, patience=Patience(answer=0.3, connect=0.3))
        server.pause()
        with pytest.raises(LedgerUnavailableError, match="does not answer"):
            await store.submit(authorize(store, "c1"))
        server.unpause()
        await granted_in_the_end(store, "c1")
        assert await store.audit() == ()
        await store.close()


@pytest.mark.parametrize(
    ("code", "message"),
    [("disk_full", "disk is full"), ("out_of_memory", "out of memory"), ("too_many_connections", "no connection left")],
)
async def test_a_server_in_trouble_is_unavailable_and_breaks_no_invariant(
    store: PostgresStore, server: Cluster, url: str, code: str, message: str
) -> None:
    server.sql(
        "CREATE FUNCTION trouble() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION 'could not' USING ERRCODE = '{code}'; END $$; "
        "CREATE TRIGGER trouble BEFORE INSERT ON bursar.entries EXECUTE FUNCTION trouble()",
        name_of(url),
    )
    with pytest.raises(NotWrittenError, match=message):
        await store.submit(authorize(store, "c1"))
    server.sql("DROP TRIGGER trouble ON bursar.entries", name_of(url))
    await granted_in_the_end(store, "c1")


async def test_a_server_that_takes_no_writes_is_unavailable_and_then_recovers(
    store: PostgresStore, server: Cluster, url: str
) -> None:
    name = name_of(url)
    server.sql(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    server.cut(name)
    with pytest.raises(NotWrittenError):
        await store.submit(authorize(store, "c1"))
    async with asyncio.timeout(10):
        while True:
            with pytest.raises(NotWrittenError) as refused:
                await store.submit(authorize(store, "c1"))
            if "takes no writes" in str(refused.value):
                break
            await asyncio.sleep(0)
    server.sql(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    await granted_in_the_end(store, "c1")


async def test_a_server_with_no_connection_left_does_not_open(tmp_path: Path, server: Cluster, url: str) -> None:
    role = f"late_{name_of(url)}"
    server.sql(f"ALTER DATABASE {name_of(url)} CONNECTION LIMIT 0; CREATE ROLE {role} LOGIN PASSWORD 'p'")
    try:
        with pytest.raises(LedgerUnavailableError, match="no connection left"):
            await store_at(server.url(name_of(url), role, "p"), tmp_path).start()
    finally:
        server.sql(f"DROP ROLE {role}")


async def test_a_full_queue_refuses_at_once(url: str, tmp_path: Path) -> None:
    store = store_at(url, tmp_path, queue_max=3)
    await store.start()
    tasks = [asyncio.ensure_future(store.submit(Void(f"c{number}", "w", "x"))) for number in range(4)]
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(answer) for answer in answers] == [Settled, Settled, Settled, NotWrittenError]
    await store.close()


async def test_what_is_no_operation_fails_alone(store: PostgresStore) -> None:
    with pytest.raises(BrokenInvariantError):
        await store.submit(object())  # type: ignore[arg-type]
    assert isinstance(await store.submit(authorize(store, "c1")), Granted)


async def test_a_writer_that_has_ended_leaves_nobody_waiting(url: str, tmp_path: Path) -> None:
    store = await opened(url, tmp_path)

    async def bug(_: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(LedgerUnavailableError, match="ended"):
        await store._ticket(bug)
    with pytest.raises(NotWrittenError, match="ended"):
        await store.submit(authorize(store, "c1"))
    await store.close()


async def test_keys_are_looked_up_together_and_never_remembered(store: PostgresStore, url: str, tmp_path: Path) -> None:
    other = store_at(url, tmp_path)
    await other.start()
    for number in range(5):
        await store.put_key("ci", f"d{number}", "", "{}")
    found = await asyncio.gather(*(other.find_key(f"d{number % 6}") for number in range(60)))
    assert [key.digest if key else None for key in found[:6]] == ["d0", "d1", "d2", "d3", "d4", None]
    asked = asyncio.ensure_future(other.find_key("d0"))
    left = asyncio.ensure_future(other.find_key("d0"))
    await asyncio.sleep(0)
    left.cancel()
    assert (await asked) is not None
    await store.revoke_key("ci")
    again = await asyncio.gather(*(other.find_key(f"d{number}") for number in range(5)))
    assert all(key is not None and key.revoked_at is not None for key in again)
    await other.close()


# ---- who lives ------------------------------------------------------------------------------------------------------


async def test_a_worker_that_is_cut_off_is_dead_then_fenced_and_goes_on_under_a_new_name(
    store: PostgresStore, server: Cluster, url: str, tmp_path: Path
) -> None:
    async with Wire(server.port) as wire:
        other = store_at(wire.url(url), tmp_path)
        await other.start()
        old = other.worker
        await other.submit(authorize(other, "c1"))
        assert await store.dead_workers() == ()
        assert isinstance(await store.submit(Expire(old)), Conflict)
        wire.is_open = False
        wire.cut()
        async with asyncio.timeout(10):
            while await store.dead_workers() != (old,):
                await asyncio.sleep(0)
        assert await store.submit(Expire(old)) == Changed(count=1, calls=("c1",))
        with pytest.raises(NotWrittenError):
            await other.submit(settle(other, "c1"))
        wire.is_open = True
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(LedgerUnavailableError):
                    answer = await other.submit(settle(other, "c1"))
                    break
                await asyncio.sleep(0)
        assert isinstance(answer, Conflict)
        assert answer.fenced
        await other.renew(old)
        await other.renew(old)
        assert other.worker != old
        # Late truth: the reaper has captured the hold whole, the settlement lowers it to what the call did cost.
        assert isinstance(await other.submit(settle(other, "c1")), Settled)
        assert isinstance(await other.submit(authorize(other, "c2")), Granted)
        assert await store.dead_workers() == ()
        assert [account.captured for account in await store.accounts(RUN)] == [7, 1]
        await other.close()


async def test_a_session_that_the_server_keeps_after_the_network_went_is_ended_by_its_own_worker(
    server: Cluster, url: str, tmp_path: Path
) -> None:
    store = await opened(url, tmp_path)
    opened_before = store._writer._opened
    assert opened_before is not None
    # Forgotten without a word, as by a router that drops its table: the server keeps session and lock.
    store._writer._opened = None
    assert isinstance(await store.submit(authorize(store, "c1")), Granted)
    assert await store.audit() == ()
    await store.close()
    opened_before.connection.terminate()


async def test_after_an_outage_nobody_is_called_dead_at_once(server: Cluster, url: str, tmp_path: Path) -> None:
    store = await opened(url, tmp_path, patience=Patience(grace=3600))
    async with Wire(server.port) as wire:
        other = store_at(wire.url(url), tmp_path)
        await other.start()
        await other.submit(authorize(other, "c1"))
        gone = other.worker
        wire.is_open = False
        wire.cut()
        async with asyncio.timeout(10):
            while await store.dead_workers() != (gone,):
                await asyncio.sleep(0)
        server.cut(name_of(url))
        await granted_in_the_end(store, "c2")
        assert await store.dead_workers() == ()
        wire.is_open = True
        await other.close()
    await store.close()


async def test_a_pooler_in_transaction_mode_is_refused(server: Cluster, url: str, tmp_path: Path) -> None:
    await (await opened(url, tmp_path)).close()
    async with Wire(server.port) as wire:
        wire.pools = True
        with pytest.raises(LedgerUnavailableError, match="pooler"):
            await store_at(wire.url(url), tmp_path).start()


async def test_a_pooler_that_comes_between_later_is_refused_too(server: Cluster, url: str, tmp_path: Path) -> None:
    async with Wire(server.port) as wire:
        store = await opened(wire.url(url), tmp_path)
        wire.pools = True
        wire.cut()
        async with asyncio.timeout(10):
            while True:
                with pytest.raises(LedgerUnavailableError) as refused:
                    await store.submit(authorize(store, "c1"))
                if "pooler" in str(refused.value):
                    break
                await asyncio.sleep(0)
        assert await store.hold("c1") is None
        wire.pools = False
        wire.cut()
        await granted_in_the_end(store, "c1")
        await store.close()


# ---- start ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("127.0.0.1", "127.0.0.1:1"), "cannot be opened"),
        (("/test_", "/no_such_"), "no such database"),
        (("bursar@", "nobody:geheim@"), "password is wrong"),
    ],
)
async def test_a_server_that_does_not_let_us_in_is_unavailable_and_no_secret_is_said(
    url: str, tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    wrong = url.replace(*change)
    if message == "cannot be opened" and ":1" in change[1]:
        wrong = f"postgresql://bursar:geheim@127.0.0.1:1/{name_of(url)}"
    with pytest.raises(LedgerUnavailableError, match=message) as refused:
        await store_at(wrong, tmp_path).start()
    assert "geheim" not in str(refused.value)
    assert "geheim" not in repr(refused.value.__cause__)
    with pytest.raises(LedgerUnavailableError, match=message):
        await store_at(wrong, tmp_path).survey()


@pytest.mark.parametrize("tail", ["[/books", "host:port/books", "host/books?sslmode=perhaps"])
async def test_what_is_no_url_is_refused_and_no_secret_is_said(tmp_path: Path, tail: str) -> None:
    with pytest.raises((ValueError, LedgerUnavailableError)) as refused:
        await store_at(f"postgresql://me:geheim@{tail}", tmp_path).start()
    assert "geheim" not in str(refused.value)


async def test_stores_that_start_at_once_on_an_empty_database_migrate_it_once(url: str, tmp_path: Path) -> None:
    stores = [store_at(url, tmp_path) for _ in range(4)]
    await asyncio.gather(*(store.start() for store in stores))
    await asyncio.gather(*(store.submit(OpenScope(KEY, "", Limits())) for store in stores))
    for store in stores:
        await store.close()


async def test_a_ledger_of_a_newer_version_does_not_start(server: Cluster, url: str, tmp_path: Path) -> None:
    await (await opened(url, tmp_path)).close()
    server.sql("INSERT INTO bursar.migrations VALUES (99, '0099_x.sql', 'x', 1, 1)", name_of(url))
    with pytest.raises(SchemaError, match="99"):
        await store_at(url, tmp_path).start()
    with pytest.raises(SchemaError, match="99"):
        await store_at(url, tmp_path).survey()


async def test_an_older_gateway_goes_on_beside_a_migration_that_says_so(
    server: Cluster, url: str, tmp_path: Path
) -> None:
    """A rolling upgrade: the newer gateway comes and adds to the schema, the older one runs on and reconnects."""
    old = await opened(url, tmp_path)
    known = migrations("postgres")
    newest = known[-1].number
    more = Migration(newest + 1, "more.sql", f"-- beside: {newest}\nALTER TABLE bursar.accounts ADD COLUMN more int;")
    new = store_at(url, tmp_path, known=(*known, more))
    await new.start()
    for number in range(5):
        assert isinstance(await old.submit(authorize(old, f"old{number}")), Granted)
        assert isinstance(await new.submit(authorize(new, f"new{number}")), Granted)
    server.cut(name_of(url))
    await granted_in_the_end(old, "cut")
    assert isinstance(await old.submit(settle(old, "old1")), Settled)
    assert await old.audit() == await new.audit() == ()
    last = Migration(newest + 2, "last.sql", f"-- beside: {newest + 1}\nALTER TABLE bursar.accounts DROP COLUMN more;")
    newer = store_at(url, tmp_path, known=(*known, more, last))
    await newer.start()
    server.cut(name_of(url))
    async with asyncio.timeout(10):
        while True:
            with pytest.raises(NotWrittenError) as refused:
                await old.submit(authorize(old, "c1"))
            if "newer gateways" in str(refused.value):
                break
            await asyncio.sleep(0)
    await granted_in_the_end(new, "c1")
    for store in (old, new, newer):
        await store.close()


def test_a_migration_without_a_word_about_others_stops_them() -> None:
    assert Migration(7, "x.sql", "CREATE TABLE x ();").beside == 7
    known = migrations("postgres")
    assert [migration.number for migration in known] == list(range(1, len(known) + 1))
    assert all(migration.beside <= migration.number for migration in known)


async def test_a_migration_that_fails_changes_nothing(server: Cluster, url: str, tmp_path: Path) -> None:
    known = migrations("postgres")
    wrong = Migration(2, "wrong.sql", "CREATE TABLE bursar.more (); SELECT 1 / 0;")
    with pytest.raises(LedgerUnavailableError, match="division"):
        await store_at(url, tmp_path, known=(*known, wrong)).start()
    assert server.sql("SELECT count(*) FROM pg_tables WHERE schemaname = 'bursar'", name_of(url)) == [["0"]]


async def test_durability_is_looked_at_and_said(server: Cluster, url: str, tmp_path: Path) -> None:
    store = await opened(url, tmp_path)
    assert [warning.split(":")[1].strip() for warning in store.warnings] == [
        "fsync is off",
        "full_page_writes is off",
    ]
    await store.close()
    server.sql(f"ALTER ROLE bursar IN DATABASE {name_of(url)} SET synchronous_commit = off")
    store = await opened(url, tmp_path)
    assert "synchronous_commit is off" in store.warnings[-1]
    await store.close()


async def test_a_standby_that_nobody_waits_for_is_said(tmp_path: Path) -> None:
    with Cluster(
        durable=True, settings={"synchronous_standby_names": "other", "synchronous_commit": "local"}
    ) as server:
        store = await opened(server.url(server.new_database()), tmp_path)
        (warning,) = store.warnings
        assert "'other', but synchronous_commit is local" in warning
        await store.close()


# ---- roles ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def gateway_url(server: Cluster, url: str) -> Iterator[str]:
    """Give the URL for a role that is in the group of gateways and has nothing else."""
    role = f"gateway_{name_of(url)}"
    server.sql(f"CREATE ROLE {role} LOGIN PASSWORD 'geheim'")
    yield server.url(name_of(url), role, "geheim")
    server.sql(f"DROP ROLE {role}")


async def test_a_gateway_needs_little_and_cannot_change_what_was_written(
    server: Cluster, url: str, gateway_url: str, tmp_path: Path
) -> None:
    role = f"gateway_{name_of(url)}"
    with pytest.raises((SchemaError, LedgerUnavailableError)) as refused:
        await store_at(gateway_url, tmp_path).start()
    assert "as the owner of the database" in str(refused.value)
    assert "geheim" not in str(refused.value)
    await (await opened(url, tmp_path)).close()
    with pytest.raises(LedgerUnavailableError, match="grant it bursar_gateway"):
        await store_at(gateway_url, tmp_path).start()
    server.sql(f"GRANT bursar_gateway TO {role}")
    store = await opened(gateway_url, tmp_path)
    for number in range(3):
        await store.submit(authorize(store, f"c{number}"))
    await store.submit(settle(store, "c0", usd=4_000))
    await store.submit(Void("c1", store.worker, "not sent"))
    await store.submit(SetLimit(RUN, Unit.USD, 5))
    await store.submit(SetLimit(RUN, Unit.TOKENS, 5))
    await store.submit(authorize(store, "denied"))
    await store.put_key("ci", "d", "", "{}")
    await store.revoke_key("ci")
    for name in ("kept", "given up"):
        assert await store.recall(name, "request") is None
    await store.remember("kept", 200, "{}")
    await store.forget("given up")
    await store.dead_workers()
    assert await store.audit() == ()
    assert len(await store.quarantined()) == 1
    await store.close()
    connection = await asyncpg.connect(gateway_url)
    for statement in (
        "UPDATE bursar.entries SET usd = 0",
        "DELETE FROM bursar.entries",
        "TRUNCATE bursar.entries",
        "DELETE FROM bursar.holds",
        "DELETE FROM bursar.accounts",
        "UPDATE bursar.accounts SET scope = 'run:other'",
        "UPDATE bursar.holds SET held_usd = 0",
        "UPDATE bursar.meta SET value = '9'",
        "INSERT INTO bursar.meta VALUES ('epoch', '9')",
        "DROP TABLE bursar.entries",
        "CREATE TABLE bursar.more ()",
        "ALTER TABLE bursar.entries DISABLE TRIGGER ALL",
        "UPDATE bursar.migrations SET number = 5",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    await connection.close()
    server.sql(f"DROP OWNED BY {role}", name_of(url))


async def test_a_gateway_tells_what_happened_and_forgets_it(
    server: Cluster, url: str, gateway_url: str, tmp_path: Path
) -> None:
    await (await opened(url, tmp_path)).close()
    server.sql(f"GRANT bursar_gateway TO gateway_{name_of(url)}")
    store = store_at(gateway_url, tmp_path)
    await store.start()
    await store.outbox.tell("loop", "r1", "run:r1", {})
    for _ in range(2):
        (taken,) = await store.outbox.take("ops", (), NEVER, DAY, 0, 9)
    await store.outbox.note("ops", taken, DeliveryState.DELIVERED, "200")
    assert await store.outbox.prune(-1, 9) == 1
    assert await store.outbox.newest() == ()
    await store.close()


async def test_a_gateway_does_not_migrate(server: Cluster, url: str, gateway_url: str, tmp_path: Path) -> None:
    await (await opened(url, tmp_path)).close()
    server.sql(f"GRANT bursar_gateway TO gateway_{name_of(url)}")
    known = migrations("postgres")
    more = Migration(known[-1].number + 1, "more.sql", "ALTER TABLE bursar.accounts ADD COLUMN more int;")
    with pytest.raises(SchemaError, match=r"needs schema .* once as the owner"):
        await store_at(gateway_url, tmp_path, known=(*known, more)).start()


# ---- back in time ---------------------------------------------------------------------------------------------------


def test_the_marker_knows_the_ledger_its_epoch_and_its_last_entry() -> None:
    marker = Marker("a", 10, 2)
    assert markers.check(None, "a", 0, 0) == ""
    assert markers.check(marker, "a", 2, 10) == ""
    assert markers.check(marker, "a", 2, 11) == ""
    assert "older" in markers.check(marker, "a", 2, 9)
    assert markers.check(marker, "a", 3, 0) == ""
    assert "epoch" in markers.check(marker, "a", 1, 99)
    assert "another" in markers.check(marker, "b", 9, 99)


def test_the_place_of_a_ledger_names_no_user_and_no_password() -> None:
    assert place_of("postgresql://me:geheim@db:5432/books?sslmode=require") == "db:5432/books"
    assert place_of("postgresql://me:geheim@a:1,b:2/books") == "a:1,b:2/books"
    assert place_of("postgresql://me@/books?host=/run/pg&port=5") == "books//run/pg/5"
    assert place_of("postgresql:///books?user=me&password=geheim") == "books"


def restore(server: Cluster, backup: str, name: str) -> None:
    server.cut(name)
    server.drop_database(name)
    server.sql(f"ALTER DATABASE {backup} RENAME TO {name}")


async def test_museum_19_a_restored_backup_does_not_start_until_it_is_adopted(
    server: Cluster, url: str, tmp_path: Path
) -> None:
    await (await opened(url, tmp_path)).close()
    backup = server.new_database(name_of(url))
    store = await opened(url, tmp_path)
    for number in range(3):
        await store.submit(authorize(store, f"c{number}"))
    await store.close()
    restore(server, backup, name_of(url))
    with pytest.raises(LedgerLostError, match=r"it has 2 entries and had 5.*bursar ledger adopt"):
        await store_at(url, tmp_path).start()
    look = await store_at(url, tmp_path).survey()
    assert (look.entries, look.missing, look.epoch) == (2, 3, 1)
    assert "older" in look.trouble
    with pytest.raises(LedgerLostError):
        await store_at(url, tmp_path).start()
    assert await store_at(url, tmp_path).adopt("ann") == look
    store = await opened(url, tmp_path)
    assert isinstance(await store.submit(authorize(store, "c1")), Granted)
    await store.close()
    assert (await store_at(url, tmp_path).survey()).trouble == ""


async def test_museum_19_a_running_gateway_refuses_a_restored_ledger_and_goes_on_when_it_is_adopted(
    server: Cluster, url: str, tmp_path: Path
) -> None:
    store = await opened(url, tmp_path)
    server.cut(name_of(url))
    backup = server.new_database(name_of(url))
    await granted_in_the_end(store, "c1")
    restore(server, backup, name_of(url))
    async with asyncio.timeout(10):
        while True:
            with pytest.raises(NotWrittenError) as refused:
                await store.submit(authorize(store, "c2"))
            if "bursar ledger adopt" in str(refused.value):
                break
            await asyncio.sleep(0)
    assert (await store_at(url, tmp_path).adopt("ann")).missing == 1
    await granted_in_the_end(store, "c2")
    assert await store.audit() == ()
    await store.close()


async def test_another_ledger_at_the_same_place_does_not_start(
    server: Cluster, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    await (await opened(url, tmp_path, marker=None)).close()
    (first,) = (tmp_path / "bursar" / "ledgers").iterdir()
    restore(server, server.new_database(), name_of(url))
    with pytest.raises(LedgerLostError, match="another ledger"):
        await store_at(url, tmp_path, marker=None).start()
    await store_at(url, tmp_path, marker=None).adopt("ann")
    await (await opened(url, tmp_path, marker=None)).close()
    assert markers.read(first) is not None
    assert len(list((tmp_path / "bursar" / "ledgers").iterdir())) == 2


async def test_a_look_at_a_ledger_does_not_change_its_schema(server: Cluster, url: str, tmp_path: Path) -> None:
    with pytest.raises(LedgerLostError, match="nothing to accept"):
        await store_at(url, tmp_path).survey()
    schemas = "SELECT count(*) FROM pg_namespace WHERE nspname = 'bursar'"
    assert server.sql(schemas, name_of(url)) == [["0"]]
    await (await opened(url, tmp_path)).close()
    known = migrations("postgres")
    more = Migration(known[-1].number + 1, "more.sql", "ALTER TABLE bursar.accounts ADD COLUMN more int;")
    assert (await store_at(url, tmp_path, known=(*known, more)).survey()).entries == 2
    assert server.sql("SELECT max(number) FROM bursar.migrations", name_of(url)) == [[str(known[-1].number)]]
    server.sql("DROP SCHEMA bursar CASCADE", name_of(url))
    look = await store_at(url, tmp_path).survey()
    assert (look.ledger, look.entries, look.trouble) == ("", 0, "is another ledger than before")
    assert server.sql(schemas, name_of(url)) == [["0"]]
    await store_at(url, tmp_path).adopt("ann")
    await (await opened(url, tmp_path)).close()


async def test_a_marker_that_cannot_be_read_stops_the_start(url: str, tmp_path: Path) -> None:
    await (await opened(url, tmp_path)).close()
    (tmp_path / "marker.json").write_text("[]")
    with pytest.raises(LedgerLostError, match="cannot be read"):
        await store_at(url, tmp_path).start()
    await store_at(url, tmp_path).adopt("ann")
    await (await opened(url, tmp_path)).close()


async def test_the_marker_follows_the_ledger(url: str, tmp_path: Path) -> None:
    store = await opened(url, tmp_path)
    await store.dead_workers()
    marker = markers.read(tmp_path / "marker.json")
    assert marker is not None
    assert (marker.entries, marker.epoch, marker.place) == (2, 0, place_of(url))
    assert marker.at > 0
    await store.submit(authorize(store, "c1"))
    assert await reap_once(store) == 0
    marker = markers.read(tmp_path / "marker.json")
    assert marker is not None
    assert marker.entries == 3
    await store.close()
