"""At a spent cap a call can wait for a person: raised, it goes on; else it is refused as ever; nothing is held."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from bodies import CHAT
from conftest import KEY_ENV, Wire, wire_up
from scripted import Answer, answer, play

from bursar.edge import asking
from bursar.edge.webhooks import sentence
from bursar.ledger.account import AccountState, SetLimit, SetState, Unit


async def wired(folder: Path, seconds: float) -> AsyncIterator[Wire]:
    keys = {"wire": {"key_env": KEY_ENV, "run": {"usd": "1.00", "calls": 1}}}
    async with wire_up(folder, keys=keys, policy={"ask_seconds_max": seconds, "wait_seconds_max": 30}) as wire:
        wire.provider.script = play(answer(CHAT.reply))
        assert (await ask(wire)).status == 200
        yield wire


@pytest.fixture
async def wire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Wire]:
    monkeypatch.setattr(asking, "LOOK_SECONDS", 0.005)
    async for made in wired(tmp_path, 3600):
        yield made


async def ask(wire: Wire) -> Answer:
    return await wire.post(CHAT.path, CHAT.request, x_bursar_run="r1")


async def waiting(wire: Wire, count: int) -> None:
    await wire.until(lambda: wire.gateway._asking.count == count)


async def told(wire: Wire) -> list[str]:
    await wire.gateway._news.drain()
    return [sentence(row) for row in await wire.store.outbox.newest(("asking",))]


async def test_a_raise_lets_the_calls_go_on_that_fit(wire: Wire) -> None:
    held = [asyncio.create_task(ask(wire)) for _ in range(2)]
    await waiting(wire, 2)
    assert (await wire.account("run:r1", Unit.CALLS)).held == 0
    (said,) = await told(wire)
    assert said.startswith("run:r1 is at its cap of 1 calls, and a call waits up to 3600 seconds for more: ")
    assert said.endswith("`bursar runs raise r1 --calls CAP`")
    await wire.store.submit(SetLimit("run:r1", Unit.CALLS, 2, by="ann"))
    done, rest = await asyncio.wait(held, return_when=asyncio.FIRST_COMPLETED)
    assert [task.result().status for task in done] == [200]
    await waiting(wire, 1)
    assert len(await told(wire)) == 2
    await wire.store.submit(SetLimit("run:r1", Unit.CALLS, 9, by="ann"))
    assert [(await task).status for task in rest] == [200]
    assert len(wire.provider.served) == 3
    assert await wire.audit() == []


async def test_a_run_that_is_stopped_waits_no_longer(wire: Wire) -> None:
    held = asyncio.create_task(ask(wire))
    await waiting(wire, 1)
    await wire.store.submit(SetState("run:r1", AccountState.STOPPED, by="ann"))
    assert "is stopped" in str((await held).json)
    assert len(wire.provider.served) == 1


async def test_a_client_that_leaves_waits_no_longer(wire: Wire) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", wire.port)
    writer.write(wire.raw(CHAT.path, CHAT.request, x_bursar_run="r1"))
    await waiting(wire, 1)
    writer.close()
    await waiting(wire, 0)
    await wire.store.submit(SetLimit("run:r1", Unit.CALLS, 2, by="ann"))
    # What was raised is there for the next one.
    assert (await ask(wire)).status == 200
    assert len(wire.provider.served) == 2


async def test_more_than_so_many_are_refused_at_once(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "WAITERS_MAX", 0)
    assert "cap_exhausted" in json.dumps((await ask(wire)).json)


@pytest.mark.parametrize("seconds", [0, 0.02])
async def test_who_is_not_raised_in_time_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    monkeypatch.setattr(asking, "LOOK_SECONDS", 0.005)
    async for wire in wired(tmp_path, seconds):
        assert "cap_exhausted" in json.dumps((await ask(wire)).json)
        assert len(await told(wire)) == (1 if seconds else 0)
