"""How long a reply is waited for is said per upstream: silence, the whole, and the rest when its client has left."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from bodies import CHAT, FORMATS, Format
from conftest import Wire, wire_up
from scripted import Served, chunked

from bursar.ledger.account import HoldState

by_format = pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)


async def presumed(wire: Wire) -> None:
    await wire.settled(1)
    (hold,) = await wire.holds()
    assert (hold.state, hold.basis, hold.captured) == (HoldState.CAPTURED, "presumed", hold.held)
    assert await wire.audit() == []


def begins_and_never_ends(fmt: Format) -> Any:
    async def script(_served: Served, writer: asyncio.StreamWriter) -> None:
        writer.write(chunked(fmt.stream[0])[: -len(b"0\r\n\r\n")])
        await writer.drain()
        await asyncio.Event().wait()

    return script


@by_format
@pytest.mark.parametrize(("policy", "own"), [(3600, 0), (0, None)])
async def test_the_rest_is_read_for_as_long_as_the_upstream_says_else_as_the_policy_does(
    tmp_path: Path, fmt: Format, policy: int, own: int | None
) -> None:
    given = {} if own is None else {"read_on_seconds_max": own}
    async with wire_up(tmp_path, given, policy={"read_on_seconds_max": policy}) as wire:
        wire.provider.script = begins_and_never_ends(fmt)
        reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
        writer.write(wire.raw(fmt.path, fmt.request | {"stream": True}, x_bursar_run="r1"))
        await reader.readuntil(b"\n\n")
        writer.transport.abort()
        await presumed(wire)


async def test_an_upstream_of_its_own_is_read_on_for_longer_than_the_policy_says(tmp_path: Path) -> None:
    client_left = asyncio.Event()
    async with wire_up(tmp_path, {"read_on_seconds_max": 3600}, policy={"read_on_seconds_max": 0}) as wire:

        async def script(_served: Served, writer: asyncio.StreamWriter) -> None:
            whole = chunked(*CHAT.stream)
            first = len(chunked(CHAT.stream[0])) - len(b"0\r\n\r\n")
            writer.write(whole[:first])
            await writer.drain()
            await client_left.wait()
            writer.write(whole[first:])
            await writer.drain()

        wire.provider.script = script
        reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
        writer.write(wire.raw(CHAT.path, CHAT.request | {"stream": True}, x_bursar_run="r1"))
        await reader.readuntil(b"\n\n")
        writer.transport.abort()
        for _ in range(5):
            assert (await wire.post("/v1/nothing", b"")).status == 404
        client_left.set()
        await wire.settled(1)
        (hold,) = await wire.holds()
        assert (hold.basis, hold.captured.usd) == ("metered", CHAT.cost_nanodollars)


@by_format
@pytest.mark.parametrize("limit", ["idle_seconds_max", "total_seconds_max"])
async def test_a_stream_that_does_not_go_on_ends_at_its_upstreams_limit(
    tmp_path: Path, fmt: Format, limit: str
) -> None:
    async with wire_up(tmp_path, {limit: 0.05}) as wire:
        wire.provider.script = begins_and_never_ends(fmt)
        got = await wire.post(fmt.path, fmt.request | {"stream": True}, x_bursar_run="r1")
        assert not got.is_complete
        await presumed(wire)
