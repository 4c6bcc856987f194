"""A gateway stops the runs that nobody has used for long, and one that is resumed goes on."""

from __future__ import annotations

import asyncio
from pathlib import Path

from bodies import CHAT
from conftest import KEY_ENV, Wire, wire_up
from scripted import answer, play

from bursar.clock import SECOND, Instant, SystemClock
from bursar.edge.admin.books import set_state
from bursar.ledger.account import AccountState, Limits, OpenScope, Unit
from bursar.stores.sqlite import SqliteStore

KEYS = {
    "wire": {"key_env": KEY_ENV, "run": {"calls": 9, "hours": 3}},
    "slow": {"run": {"hours": "none"}},
}


class HoursAgo:
    """A clock that is late."""

    def __init__(self, hours: int) -> None:
        self._late = hours * 3600 * SECOND

    def now(self) -> Instant:
        return Instant(SystemClock().now() - self._late)


async def opened(folder: Path, hours: int, *runs: tuple[str, str]) -> None:
    """Open runs that long ago."""
    store = SqliteStore(folder / "ledger.db", HoursAgo(hours))
    await store.start()
    for run, key in runs:
        await store.submit(OpenScope(f"run:{run}", f"key:{key}", Limits(calls=9)))
    await store.close()


async def stopped(wire: Wire, run: str) -> None:
    async with asyncio.timeout(20):
        while (await wire.account(f"run:{run}", Unit.CALLS)).state is not AccountState.STOPPED:
            await asyncio.sleep(0.001)


async def test_idle_runs_are_stopped_and_go_on_when_they_are_resumed(tmp_path: Path) -> None:
    await opened(tmp_path, 4, ("a-old", "wire"), ("b-ever", "slow"), ("c-local", "local"))
    await opened(tmp_path, 2, ("d-young", "wire"))
    await opened(tmp_path, 4, ("z-old", "wire"))
    async with wire_up(tmp_path, keys=KEYS) as wire:
        wire.provider.script = play(answer(CHAT.reply))
        await stopped(wire, "a-old")
        # They are stopped in the order of their names.
        await stopped(wire, "z-old")
        for run in ("b-ever", "c-local", "d-young"):
            assert (await wire.account(f"run:{run}", Unit.CALLS)).state is AccountState.OPEN
        got = await wire.post(CHAT.path, CHAT.request, x_bursar_run="a-old")
        assert (got.status, got.json["error"]["code"]) == (429, "run_stopped")  # type: ignore[index]
        await set_state(wire.store, "a-old", AccountState.OPEN, "ann")
        assert (await wire.post(CHAT.path, CHAT.request, x_bursar_run="a-old")).status == 200
        assert (await wire.post(CHAT.path, CHAT.request, x_bursar_run="d-young")).status == 200
        assert {row.scope for row in await wire.store.idle_runs(3600)} == {"run:b-ever", "run:c-local"}
