"""Which rows of PostgreSQL a batch locks and looks at, and which locks are a life: neither fewer nor others."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio
from cluster import shared
from databases import database_of
from test_store_contract import HELD, KEY, NOON, PATH, RUN, Hands, authorize, settle

from bursar.clock import SECOND, Instant
from bursar.ledger.account import (
    Amounts,
    Basis,
    Denied,
    Granted,
    HoldState,
    Limits,
    OpenScope,
    SetLimit,
    Settle,
    Settled,
    TooManyRuns,
    Unit,
    Void,
)
from bursar.ledger.store import DAY, LedgerUnavailableError
from bursar.stores.postgres import PostgresStore
from bursar.stores.postgres_link import SQL, Patience, connect, has_life, is_made, life_key, take_life
from bursar.stores.postgres_reads import lives

OTHER = "run:other"
NOTHING = Amounts(0, 0, 0)
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
QUICK = Patience(connect=5, statement=5, answer=6, lock=0.2, idle=2, grace=0)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return database_of(tmp_path)


@pytest.fixture
def clock() -> Hands:
    return Hands()


@pytest_asyncio.fixture
async def store(url: str, tmp_path: Path, clock: Hands) -> AsyncIterator[PostgresStore]:
    made = PostgresStore(url, clock, marker=tmp_path / "ledger.json")
    await made.start()
    await made.submit(OpenScope(KEY, "", Limits()))
    for run in (RUN, OTHER):
        await made.submit(OpenScope(run, KEY, Limits(usd=10_000, calls=10)))
    yield made
    await made.close()


@asynccontextmanager
async def somebody(url: str) -> AsyncIterator[asyncpg.Connection]:
    """Give a connection that is nobody's of ours, in a transaction that is committed at the end of the block."""
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            yield connection
    finally:
        await connection.close()


async def granted_in_the_end(store: PostgresStore, call_id: str) -> None:
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(LedgerUnavailableError):
                assert isinstance(await store.submit(authorize(store, call_id)), Granted)
                return
            await asyncio.sleep(0)


async def waits(connection: asyncpg.Connection) -> None:
    async with asyncio.timeout(10):
        while not await connection.fetchval(WAITING):
            # A transaction goes on seeing the sessions that it saw first.
            await connection.execute("SELECT pg_stat_clear_snapshot()")


def halves(key: int) -> tuple[int, int]:
    """Give the halves of a lock's key; as a pair they are another lock."""
    whole = key.to_bytes(8, "big", signed=True)
    return int.from_bytes(whole[:4], "big", signed=True), int.from_bytes(whole[4:], "big", signed=True)


# ---- what a batch locks and loads -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE bursar.accounts SET state = 'stopped' WHERE scope = 'run:r1'",
        # The lock of the scope stands for the accounts that somebody adds to it.
        "WITH scope AS (SELECT FROM bursar.scopes WHERE scope = 'run:r1' FOR NO KEY UPDATE) "
        "INSERT INTO bursar.accounts (scope, unit, period, cap, ceiling) "
        "SELECT 'run:r1', 'tokens', 'lifetime', 0, 0 FROM scope",
    ],
)
async def test_what_changes_while_a_batch_waits_for_its_locks_is_seen(
    store: PostgresStore, url: str, statement: str
) -> None:
    async with somebody(url) as other:
        await other.execute(statement)
        asked = asyncio.ensure_future(store.submit(authorize(store, "c1")))
        await waits(other)
    assert isinstance(await asked, Denied)


async def test_a_batch_locks_and_loads_nothing_of_the_neighbours(
    url: str, tmp_path: Path, store: PostgresStore
) -> None:
    quick = PostgresStore(url, Hands(), marker=tmp_path / "ledger.json", patience=QUICK)
    await quick.start()
    await quick.submit(authorize(quick, "elsewhere", scopes=(OTHER,)))
    await quick.submit(authorize(quick, "gone", scopes=(OTHER,)))
    await quick.submit(settle(quick, "gone", 7, scopes=(OTHER,)))
    for name in ("c1", "c2"):
        await quick.submit(authorize(quick, name))
    async with somebody(url) as other:
        await other.execute("SELECT FROM bursar.scopes WHERE scope = $1 FOR UPDATE", OTHER)
        await other.execute("SELECT FROM bursar.accounts WHERE scope = $1 FOR UPDATE", OTHER)
        assert isinstance(await quick.submit(authorize(quick, "c3")), Granted)
        assert isinstance(await quick.submit(settle(quick, "c1", 5)), Settled)
        assert isinstance(await quick.submit(Void("c2", quick.worker, "not sent")), Settled)
    await quick.close()


async def test_the_next_run_is_told_for_when_the_oldest_one_that_counts_is_an_hour_old(
    store: PostgresStore, clock: Hands
) -> None:
    def new(name: str, most: int) -> OpenScope:
        return OpenScope(f"run:{name}", "key:loop", Limits(), runs_per_hour_max=most)

    for number in range(4):
        clock.instant = Instant(NOON + number * SECOND)
        await store.submit(new(f"n{number}", 4))
    assert await store.submit(new("n4", 4)) == TooManyRuns("key:loop", 4, Instant(NOON + 3600 * SECOND))
    assert await store.submit(new("n4", 3)) == TooManyRuns("key:loop", 3, Instant(NOON + 3601 * SECOND))


async def test_every_amount_of_a_hold_is_written_in_its_place(store: PostgresStore) -> None:
    await store.submit(SetLimit(RUN, Unit.TOKENS, 100_000))
    await store.submit(authorize(store, "under"))
    await store.submit(authorize(store, "over"))
    await store.submit(Settle("under", store.worker, Amounts(20, 0, 7), Basis.METERED, PATH, HELD, why="answered"))
    await store.submit(Settle("over", store.worker, Amounts(3_001, 3, 1_104), Basis.PRESUMED, PATH, HELD))
    under, over = [await store.hold(call) for call in ("under", "over")]
    assert under is not None
    assert over is not None
    assert (under.captured, under.overrun, under.basis, under.why) == (
        Amounts(20, 0, 7),
        NOTHING,
        "metered",
        "answered",
    )
    assert (over.captured, over.overrun, over.basis) == (HELD, Amounts(1, 2, 4), "presumed")
    booked = {account.unit: (account.held, account.captured, account.overrun) for account in await store.accounts(RUN)}
    assert booked == {Unit.USD: (0, 3_020, 1), Unit.CALLS: (0, 1, 2), Unit.TOKENS: (0, 1_107, 4)}
    assert await store.audit() == ()


async def test_a_refusal_is_counted_on_its_run_alone(store: PostgresStore) -> None:
    await store.submit(SetLimit(RUN, Unit.CALLS, 0))
    for number in range(2):
        assert isinstance(await store.submit(authorize(store, f"c{number}")), Denied)
    assert {run.run: run.calls_refused for run in await store.runs()} == {"r1": 2, "other": 0}


# ---- which lock is a life -------------------------------------------------------------------------------------------


async def test_a_life_is_the_one_lock_of_the_one_session(store: PostgresStore, url: str) -> None:
    one, two = [await connect(url, QUICK, "w") for _ in range(2)]
    first, second = [await connection.fetchval(SQL["backend"]) for connection in (one, two)]
    assert not await has_life(one, "w", first)
    assert await take_life(one, "w", 0)
    assert await take_life(two, "x", 0)
    await two.execute("SELECT pg_advisory_lock($1::int, $2::int)", *halves(life_key("w")))
    assert await has_life(one, "w", first)
    assert not await has_life(one, "x", first)
    assert not await has_life(one, "w", second)
    assert not await has_life(two, "w", second)
    assert not await has_life(two, "w", first)
    for connection in (one, two):
        await connection.close()


async def test_only_the_former_session_of_the_same_worker_is_cut(store: PostgresStore, url: str) -> None:
    former, stranger, again = [await connect(url, QUICK, worker) for worker in ("w", "x", "w")]
    pids = [await connection.fetchval(SQL["backend"]) for connection in (former, stranger)]
    assert await take_life(former, "w", 0)
    assert await again.fetch(SQL["cut_former_self"], pids[1], "w") == []
    assert await take_life(again, "w", pids[0])
    assert former.is_closed()
    assert not stranger.is_closed()
    for connection in (stranger, again):
        await connection.close()


async def test_what_only_looks_like_a_life_keeps_no_hold(store: PostgresStore, url: str, tmp_path: Path) -> None:
    gone = PostgresStore(url, Hands(), marker=tmp_path / "ledger.json")
    await gone.start()
    await gone.submit(authorize(gone, "c1"))
    await gone.close()
    key = life_key(gone.worker)
    async with somebody(url) as pair, somebody(url.rpartition("/")[0] + "/postgres") as elsewhere:
        await pair.execute("SELECT pg_advisory_lock($1::int, $2::int)", *halves(key))
        await elsewhere.execute("SELECT pg_advisory_lock($1)", key)
        assert await store.dead_workers() == (gone.worker,)


async def test_who_has_open_holds_is_known_and_who_of_them_has_left(
    store: PostgresStore, url: str, tmp_path: Path
) -> None:
    gone, done = [PostgresStore(url, Hands(), marker=tmp_path / "ledger.json") for _ in range(2)]
    for one in (store, gone, done):
        if one is not store:
            await one.start()
        await one.submit(authorize(one, one.worker))
    await done.submit(settle(done, done.worker, 5))
    await gone.close()
    connection = await connect(url, QUICK)
    suspects, keys = await lives(connection)
    assert sorted(suspects) == sorted([(store.worker, False), (gone.worker, True)])
    assert keys == {life_key(store.worker), life_key(done.worker)}
    await connection.close()
    await done.close()


# ---- what an old ledger has -----------------------------------------------------------------------------------------


async def test_entries_are_in_order_where_new_ones_lie_in_the_place_of_old_ones(
    store: PostgresStore, url: str, clock: Hands
) -> None:
    async def spend(calls: range) -> None:
        for number in calls:
            await store.submit(authorize(store, f"c{number}"))
            await store.submit(settle(store, f"c{number}", 1))

    await store.submit(SetLimit(RUN, Unit.CALLS, None))
    await spend(range(60))
    clock.instant = Instant(NOON + 2 * DAY)
    await spend(range(60, 80))
    clock.instant = Instant(NOON + 3 * DAY)
    while not (await store.compact(2, 1000)).is_done:
        pass
    connection = await asyncpg.connect(url)
    await connection.execute("VACUUM bursar.entries")
    await connection.execute("VACUUM bursar.holds")
    await connection.close()
    # No plan is trusted with the order: these two give the rows as they lie.
    name = url.rpartition("/")[2]
    for plan in ("enable_indexscan", "enable_bitmapscan"):
        shared().sql(f"ALTER DATABASE {name} SET {plan} = off")
    shared().cut(name)
    await granted_in_the_end(store, "c100")
    await store.submit(settle(store, "c100", 1))
    await spend(range(101, 130))
    numbers = [entry.seq async for entry in store.entries()]
    assert numbers == sorted(numbers)
    assert await store.audit() == ()
    clock.instant = Instant(NOON + 9 * DAY)
    while not (step := await store.compact(2, 7)).is_done:
        pass
    assert (step.findings, step.seq) == ((), numbers[-2])
    assert await store.audit() == ()


async def test_a_hold_that_is_corrected_while_it_is_folded_stays(store: PostgresStore, url: str, clock: Hands) -> None:
    await store.submit(authorize(store, "c1"))
    await store.submit(settle(store, "c1", 7))
    clock.instant = Instant(NOON + 3 * DAY)
    await store.submit(authorize(store, "c2"))
    async with somebody(url) as other:
        await other.execute(
            "UPDATE bursar.holds SET captured_usd = 5, basis = 'adjusted', settled_at = $1 WHERE call_id = 'c1'",
            clock.instant,
        )
        folded = asyncio.ensure_future(store.compact(2, 1000))
        await waits(other)
    assert (await folded).findings == ()
    assert await store.hold("c1") is not None


async def test_the_time_of_the_last_entry_is_told_whatever_the_clock_did(store: PostgresStore, clock: Hands) -> None:
    for seconds in (10, 5):
        clock.instant = Instant(NOON + seconds * SECOND)
        await store.submit(authorize(store, f"c{seconds}"))
    assert (await store.survey()).at == NOON + 5 * SECOND


async def test_a_ledger_that_was_adopted_is_adopted_again(store: PostgresStore) -> None:
    for epoch in (1, 2):
        assert (await store.adopt("ann")).epoch == epoch
    assert (await store.survey()).trouble == ""


async def test_the_tables_of_others_are_not_taken_for_a_ledger(url: str, tmp_path: Path) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE TABLE migrations (number int); CREATE SCHEMA bursar; CREATE TABLE bursar.notes ()")
    await connection.close()
    assert not await is_made(url)
    store = PostgresStore(url, marker=tmp_path / "ledger.json")
    await store.start()
    assert await store.audit() == ()
    await store.close()
    assert await is_made(url)


# ---- lists ----------------------------------------------------------------------------------------------------------


async def test_lists_go_on_where_a_page_ended(store: PostgresStore, clock: Hands) -> None:
    await store.submit(OpenScope("team:x", "", Limits()))
    clock.instant = Instant(NOON + SECOND)
    for run in ("run:b", "run:a"):
        await store.submit(OpenScope(run, KEY, Limits()))
    # The newest first, and by name those of one instant.
    assert [run.run for run in await store.runs()] == ["a", "b", "other", "r1"]
    assert [run.run for run in await store.runs(2, "a")] == ["b", "other"]
    assert [run.run for run in await store.runs(9, "b")] == ["other", "r1"]
    assert await store.runs(9, "nobody") == ()
    one = await store.run("b")
    assert one is not None
    assert (one.run, await store.run("nobody")) == ("b", None)
    await store.submit(SetLimit(RUN, Unit.USD, None))
    for number in range(4):
        await store.submit(authorize(store, f"c{number}"))
    await store.submit(settle(store, "c1", 1))
    assert [hold.call_id for hold in await store.holds(None, 2, "c3")] == ["c2", "c1"]
    assert [hold.call_id for hold in await store.holds(HoldState.OPEN, 9, "c2")] == ["c0"]


async def test_only_budgets_for_all_models_that_begin_alike_are_patterns(store: PostgresStore) -> None:
    for scope in ("model:b*", "model:a*", "model:gpt", "key:x*", "model;*", "tag:x*"):
        await store.submit(OpenScope(scope, "", Limits()))
    assert await store.patterns() == ("model:a*", "model:b*")
