"""The loss of a primary with a real synchronous standby: what was acknowledged is there, once, and nothing is free."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from databases import drop_all  # noqa: F401 - puts tests/postgres on the path

from bursar.drill.cluster import Cluster
from bursar.ledger.account import (
    Amounts,
    Ask,
    Authorize,
    Basis,
    Denied,
    Granted,
    HoldState,
    Limits,
    OpenScope,
    Settle,
    Settled,
)
from bursar.ledger.store import LedgerUnavailableError
from bursar.stores.postgres import PostgresStore
from bursar.stores.postgres_link import Patience

KEY, RUN = "key:ci", "run:r1"
PATH = (KEY, RUN)
ASK = Ask(1_000, 100, 2_000, 1, 1_000, 500, 100, client_bounded=True)
ACTUAL = Amounts(500, 1, 10)
CAP = 300 * 3_000
SECONDS_MAX = 60.0
PATIENCE = Patience(answer=1.0, connect=1.0)


class Agents:
    """Calls that hold and settle on one gateway, and what the gateway was told."""

    def __init__(self, store: PostgresStore, name: str) -> None:
        self.store = store
        self.name = name
        self.granted: set[str] = set()
        self.settled: set[str] = set()
        self.unsure: set[str] = set()
        self.outages = 0
        self.is_over = False

    async def run(self, agents: int) -> None:
        await asyncio.gather(*(self._loop(number) for number in range(agents)))

    async def _loop(self, agent: int) -> None:
        for number in range(10_000):
            call_id = f"{self.name}-{agent}-{number}"
            answer = await self._authorized(call_id)
            if answer is None:
                continue
            if isinstance(answer, Denied):
                return
            self.granted.add(call_id)
            await self._settle(call_id, answer)
            if self.is_over:
                return

    async def _authorized(self, call_id: str) -> Granted | Denied | None:
        op = Authorize(call_id, self.store.worker, PATH, ASK, "m1", "up", is_last_try=True)
        try:
            answer = await self.store.submit(op)
        except LedgerUnavailableError:
            self.unsure.add(call_id)
            self.outages += 1
            await asyncio.sleep(0.01)
            return None
        assert isinstance(answer, Granted | Denied), answer
        return answer

    async def _settle(self, call_id: str, granted: Granted) -> None:
        op = Settle(call_id, self.store.worker, ACTUAL, Basis.METERED, PATH, granted.held)
        while True:
            try:
                answer = await self.store.submit(op)
            except LedgerUnavailableError:
                self.outages += 1
                await asyncio.sleep(0.01)
                continue
            assert isinstance(answer, Settled), answer
            assert answer.overrun == Amounts(0, 0, 0)
            self.settled.add(call_id)
            return


async def until(is_so: object) -> None:
    async with asyncio.timeout(SECONDS_MAX):
        while not is_so():  # type: ignore[operator]
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("end", ["kill9", "immediate"])
async def test_what_was_acknowledged_survives_the_loss_of_the_primary(end: str, tmp_path: Path) -> None:
    with Cluster(durable=True) as primary:
        name = primary.new_database()
        standby = await asyncio.to_thread(primary.standby, synchronous="remote_apply")
        hosts = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
        url = f"{primary.url(name).replace(f'127.0.0.1:{primary.port}', hosts)}?target_session_attrs=read-write"
        stores = [PostgresStore(url, marker=tmp_path / f"{place}.json", patience=PATIENCE) for place in range(2)]
        for store in stores:
            await store.start()
        await stores[0].submit(OpenScope(KEY, "", Limits()))
        await stores[0].submit(OpenScope(RUN, KEY, Limits(usd=CAP)))
        workers = [store.worker for store in stores]
        sides = [Agents(store, f"g{place}") for place, store in enumerate(stores)]
        work = asyncio.gather(*(side.run(8) for side in sides))

        await until(lambda: all(len(side.settled) > 20 for side in sides))
        await asyncio.to_thread(primary.kill9 if end == "kill9" else lambda: primary.stop("immediate"))
        acknowledged = {call_id for side in sides for call_id in side.granted}
        settled = {call_id for side in sides for call_id in side.settled}
        await until(lambda: all(side.outages for side in sides))
        await asyncio.to_thread(standby.promote)
        before = [len(side.settled) for side in sides]
        await until(
            lambda: (
                all(len(side.settled) > count + 10 for side, count in zip(sides, before, strict=True)) or work.done()
            )
        )
        for side in sides:
            side.is_over = True
        async with asyncio.timeout(SECONDS_MAX):
            await work

        holds = {hold.call_id: hold for hold in await stores[1].holds(limit_rows=100_000)}
        assert acknowledged <= holds.keys()
        assert all(holds[call_id].state is HoldState.CAPTURED for call_id in settled)
        # Nobody was declared dead for losing the server, and what was never acknowledged is voided by its own caller.
        assert [store.worker for store in stores] == workers
        open_ones = [hold for hold in holds.values() if hold.state is HoldState.OPEN]
        assert {hold.call_id for hold in open_ones} <= {call_id for side in sides for call_id in side.unsure}
        (account,) = [a for a in await stores[0].accounts(RUN) if a.unit == "usd"]
        metered = sum(hold.captured.usd for hold in holds.values())
        assert account.captured == metered == 500 * sum(hold.state is HoldState.CAPTURED for hold in holds.values())
        assert account.captured + account.held <= CAP
        assert account.overrun == 0
        assert await stores[0].audit() == ()
        for store in stores:
            await store.close()


async def test_a_commit_that_the_standby_has_not_seen_is_not_acknowledged(tmp_path: Path) -> None:
    with Cluster(durable=True) as primary:
        name = primary.new_database()
        standby = await asyncio.to_thread(primary.standby, synchronous="remote_apply")
        store = PostgresStore(primary.url(name), marker=tmp_path / "m.json", patience=PATIENCE)
        await store.start()
        await store.submit(OpenScope(KEY, "", Limits()))
        await store.submit(OpenScope(RUN, KEY, Limits(usd=CAP)))
        standby.pause()
        op = Authorize("c1", store.worker, PATH, ASK, "m1", "up")
        with pytest.raises(LedgerUnavailableError):
            await store.submit(op)
        standby.unpause()
        async with asyncio.timeout(SECONDS_MAX):
            while True:
                try:
                    # The same again: it waits for the locks of the one that is still committing, and finds its hold.
                    answer = await store.submit(op)
                except LedgerUnavailableError:
                    await asyncio.sleep(0.01)
                    continue
                break
        assert isinstance(answer, Granted)
        assert len(await store.holds()) == 1
        assert await store.audit() == ()
        await store.close()
