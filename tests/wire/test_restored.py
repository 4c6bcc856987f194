"""A ledger that is put back under a gateway that runs: 503, nothing is sent, until an operator has accepted it."""

from __future__ import annotations

import shutil
from pathlib import Path

from bodies import CHAT
from conftest import Wire
from scripted import answer, play

from bursar.stores.sqlite import SqliteStore


async def status(wire: Wire) -> int:
    return (await wire.post(CHAT.path, CHAT.request, x_bursar_run="r1")).status


async def test_a_gateway_sends_nothing_on_a_ledger_that_went_back_in_time(wire: Wire, tmp_path: Path) -> None:
    path, backup = tmp_path / "ledger.db", tmp_path / "backup.db"
    wire.provider.script = play(answer(CHAT.reply))
    assert await status(wire) == 200
    await wire.settled(1)
    for end in ("", "-wal"):
        shutil.copy(f"{path}{end}", f"{backup}{end}")
    assert await status(wire) == 200
    await wire.settled(2)
    for end in ("", "-wal", "-shm"):
        Path(f"{path}{end}").unlink()
    for end in ("", "-wal"):
        shutil.copy(f"{backup}{end}", f"{path}{end}")
    refused = await wire.post(CHAT.path, CHAT.request, x_bursar_run="r1")
    assert (refused.status, refused.json["error"]["code"]) == (503, "ledger_unavailable")
    assert len(wire.provider.served) == 2
    assert await SqliteStore(path).adopt("ann")
    assert await status(wire) == 200
    assert await wire.audit() == []
