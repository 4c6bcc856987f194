"""A gateway folds what is old by itself, while calls go on."""

from __future__ import annotations

import asyncio
from pathlib import Path

from bodies import CHAT
from conftest import wire_up
from scripted import answer, play

from bursar.clock import Instant, SystemClock
from bursar.ledger.account import Amounts, Ask, Authorize, Basis, Limits, OpenScope, Settle
from bursar.ledger.store import DAY
from bursar.stores.sqlite import SqliteStore

ASK = Ask(1000, 100, 2000, 1, 1000, 500, 100, False)


class DaysAgo:
    def now(self) -> Instant:
        return Instant(SystemClock().now() - 10 * DAY)


async def test_a_gateway_folds_what_is_old_while_calls_go_on(tmp_path: Path) -> None:
    old = SqliteStore(tmp_path / "ledger.db", DaysAgo())
    await old.start()
    await old.submit(OpenScope("key:old", "", Limits()))
    for number in range(300):
        await old.submit(Authorize(f"old-{number}", old.worker, ("key:old",), ASK, "m1", "u"))
        cost, held = Amounts(7, 1, 10), Amounts(3000, 1, 1100)
        await old.submit(Settle(f"old-{number}", old.worker, cost, Basis.METERED, ("key:old",), held))
    await old.close()
    async with wire_up(tmp_path, ledger={"keep_days": 2}) as wire:
        wire.provider.script = play(answer(CHAT.reply))
        async with asyncio.timeout(20):
            while any(row.call_id.startswith("old") for row in await wire.store.holds()):
                assert (await wire.post(CHAT.path, CHAT.request, x_bursar_run="r1")).status in (200, 429)
        assert await wire.audit() == []
        assert (await wire.account("key:old")).captured == 2100
