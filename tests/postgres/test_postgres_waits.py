"""Who stands still, on either side, keeps nobody from the ledger for long and is never taken at its word."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from cluster import Cluster

from bursar.ledger.account import Ask, Authorize, Granted, Limits, OpenScope
from bursar.ledger.store import LedgerUnavailableError, NotWrittenError
from bursar.stores.postgres import PostgresStore
from bursar.stores.postgres_link import OUTAGES, SQL, Patience, connect, explain

KEY, RUN = "key:ci", "run:r1"
ASK = Ask(1000, 100, 2000, 1, 1000, 500, 100, False)


async def opened(url: str, folder: Path) -> PostgresStore:
    store = PostgresStore(url, marker=folder / "marker.json", patience=Patience(statement=20, answer=25))
    await store.start()
    await store.submit(OpenScope(KEY, "", Limits()))
    await store.submit(OpenScope(RUN, KEY, Limits(usd=10_000_000, calls=1_000)))
    return store


def authorize(store: PostgresStore, call_id: str) -> Authorize:
    return Authorize(call_id, store.worker, (KEY, RUN), ASK, "m1", "u")


async def test_a_gateway_that_stands_still_in_a_transaction_loses_it_and_its_life(
    database: str, tmp_path: Path
) -> None:
    store = await opened(database, tmp_path)
    stopped = await connect(database, Patience(idle=0.5), "stopped")
    await stopped.execute(SQL["begin"])
    nothing: tuple[object, ...] = ([], [], [])
    await stopped.fetchrow(SQL["books"], [KEY, RUN], *nothing, [], [], [], [], False, False, None)
    assert isinstance(await store.submit(authorize(store, "c1")), Granted)
    with pytest.raises(OUTAGES) as lost:
        await stopped.execute(SQL["commit"])
    assert explain(lost.value)
    assert await store.audit() == ()
    await store.close()


async def test_a_commit_that_did_not_wait_for_its_standby_is_not_taken_for_done(tmp_path: Path) -> None:
    with Cluster(durable=True) as server:
        store = await opened(server.url(server.new_database()), tmp_path)
        server.set("synchronous_standby_names", "nobody")
        asked = asyncio.ensure_future(store.submit(authorize(store, "c1")))
        cancel = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        async with asyncio.timeout(15):
            while await asyncio.to_thread(server.sql, cancel) == [["0"]]:
                assert not asked.done()
        with pytest.raises(LedgerUnavailableError, match="did not wait for its standby") as unsure:
            await asked
        assert not isinstance(unsure.value, NotWrittenError)
        # It is there, but a failover would lose it; and to ask again waits for the standby as the first time did.
        again = asyncio.ensure_future(store.submit(authorize(store, "c1")))
        waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        async with asyncio.timeout(15):
            while await asyncio.to_thread(server.sql, waits) == [["0"]]:
                assert not again.done()
        server.reset("synchronous_standby_names")
        assert isinstance(await again, Granted)
        assert await store.audit() == ()
        await store.close()
