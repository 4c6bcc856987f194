"""Every way in which a call can end is settled exactly once, and what is not known is charged."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from bodies import CHAT, FORMATS, MESSAGES, Format
from conftest import Wire, wire_up
from scripted import Served, answer, chunked, cut, play, read_answer

from bursar.ledger.account import HoldState, Unit
from bursar.proxy import KEPT_BYTES_MAX

by_format = pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)

SOON_SILENT = {"idle_seconds_max": 0.05}


async def the_hold(wire: Wire) -> tuple[HoldState, int, int, str]:
    await wire.settled(1)
    (hold,) = await wire.holds()
    assert await wire.audit() == []
    run, key = await wire.account("run:r1"), await wire.account("key:wire")
    assert (run.held, key.held) == (0, 0)
    assert run.captured == key.captured == hold.captured.usd
    calls = await wire.account("run:r1", Unit.CALLS)
    assert (calls.held, calls.captured) == (0, hold.captured.calls)
    return hold.state, hold.captured.usd, hold.held.usd, hold.basis


async def expect_metered(wire: Wire, fmt: Format) -> None:
    state, captured, held, basis = await the_hold(wire)
    assert (state, captured, basis) == (HoldState.CAPTURED, fmt.cost_nanodollars, "metered")
    assert captured < held


async def expect_presumed(wire: Wire) -> None:
    state, captured, held, basis = await the_hold(wire)
    assert (state, captured, basis) == (HoldState.CAPTURED, held, "presumed")


async def expect_void(wire: Wire) -> None:
    state, captured, _held, _basis = await the_hold(wire)
    assert (state, captured) == (HoldState.VOID, 0)


@by_format
async def test_an_answer_is_charged_what_it_says_it_used(wire: Wire, fmt: Format) -> None:
    wire.provider.script = play(answer(fmt.reply, extra="set-cookie: a=1\r\nset-cookie: b=2\r\nx-empty:\r\n"))
    got = await wire.post(fmt.path, fmt.request, x_bursar_run="r1")
    assert (got.status, got.body) == (200, fmt.reply)
    assert got.headers["x-bursar-run"] == "r1"
    assert got.headers["x-bursar-cost-usd"] == f"0.{fmt.cost_nanodollars:09d}".rstrip("0")
    assert got.headers["x-bursar-remaining-usd"] == f"0.{10**9 - fmt.cost_nanodollars:09d}".rstrip("0")
    assert got.headers["x-bursar-remaining-calls"] == "19"
    assert got.headers["set-cookie"] == "b=2"
    assert got.headers["x-empty"] == ""
    await expect_metered(wire, fmt)


@by_format
async def test_a_stream_is_charged_what_its_last_usage_says(wire: Wire, fmt: Format) -> None:
    wire.provider.script = play(chunked(*fmt.stream))
    got = await wire.post(fmt.path, fmt.request | {"stream": True}, x_bursar_run="r1")
    assert got.is_complete
    wanted = b"".join(fmt.stream)
    if fmt is CHAT:  # the client did not ask for the usage chunk
        wanted = b"".join(fmt.stream[:3] + fmt.stream[4:])
    assert got.body == wanted
    await expect_metered(wire, fmt)


async def test_the_usage_chunk_reaches_a_client_that_asked_for_it(wire: Wire) -> None:
    wire.provider.script = play(chunked(*CHAT.stream))
    asking = CHAT.request | {"stream": True, "stream_options": {"include_usage": True}}
    got = await wire.post(CHAT.path, asking, x_bursar_run="r1")
    assert got.body == b"".join(CHAT.stream)
    await expect_metered(wire, CHAT)


async def test_the_provider_gets_its_own_key_and_an_explicit_bound(wire: Wire) -> None:
    wire.provider.script = play(chunked(*CHAT.stream))
    unbounded = {k: v for k, v in CHAT.request.items() if k != "max_tokens"} | {"stream": True}
    await wire.post(CHAT.path, unbounded, x_bursar_run="r1", x_secret_flag="1", openai_organization="org-1")
    (served,) = wire.provider.served
    assert served.header("authorization") == "Bearer sk-real-openai"
    assert served.header("x-secret-flag") == ""
    assert served.header("openai-organization") == "org-1"
    assert served.json["stream_options"] == {"include_usage": True}
    assert served.json["service_tier"] == "default"
    assert isinstance(served.json["max_completion_tokens"], int)


@by_format
@pytest.mark.parametrize("status", [400, 401, 404, 429, 307])
async def test_an_error_that_is_not_billed_is_void_and_passed_on(wire: Wire, fmt: Format, status: int) -> None:
    body = b'{"error":{"message":"no"}}'
    wire.provider.script = play(answer(body, status=status, extra="location: /elsewhere\r\nretry-after: 7\r\n"))
    got = await wire.post(fmt.path, fmt.request, x_bursar_run="r1")
    assert (got.status, got.body, got.headers["retry-after"]) == (status, body, "7")
    await expect_void(wire)
    assert len(wire.provider.served) == 1


async def test_a_server_error_of_openai_is_presumed(wire: Wire) -> None:
    wire.provider.script = play(answer(b"{}", status=500))
    assert (await wire.post(CHAT.path, CHAT.request, x_bursar_run="r1")).status == 500
    await expect_presumed(wire)


async def test_an_overload_of_anthropic_is_void(wire: Wire) -> None:
    wire.provider.script = play(answer(b"{}", status=529))
    assert (await wire.post(MESSAGES.path, MESSAGES.request, x_bursar_run="r1")).status == 529
    await expect_void(wire)


async def test_a_connection_that_was_never_made_is_void(tmp_path: Path) -> None:
    async with wire_up(tmp_path, {"base_url": "http://127.0.0.1:1"}) as wire:
        got = await wire.post(CHAT.path, CHAT.request, x_bursar_run="r1")
        assert (got.status, got.json["error"]["code"]) == (502, "upstream_unreachable")  # type: ignore[index]
        await expect_void(wire)


@by_format
@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"HTTP/1.1 20",
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n" + b'{"id": "x"',
    ],
    ids=["nothing", "half a status", "head only", "half a body"],
)
async def test_a_connection_that_breaks_after_the_request_is_presumed(wire: Wire, fmt: Format, raw: bytes) -> None:
    wire.provider.script = cut(raw)
    got = await wire.post(fmt.path, fmt.request, x_bursar_run="r1")
    assert got.status == 502
    await expect_presumed(wire)
    assert len(wire.provider.served) == 1  # never sent again


@by_format
async def test_a_stream_that_breaks_is_presumed_and_never_looks_complete(wire: Wire, fmt: Format) -> None:
    whole = chunked(*fmt.stream[:2])
    wire.provider.script = cut(whole[: -len(b"0\r\n\r\n")])
    got = await wire.post(fmt.path, fmt.request | {"stream": True}, x_bursar_run="r1")
    assert (got.status, got.is_complete) == (200, False)
    assert got.body == b"".join(fmt.stream[:2])
    await expect_presumed(wire)


@by_format
async def test_a_stream_that_ends_without_usage_is_presumed(wire: Wire, fmt: Format) -> None:
    wire.provider.script = play(chunked(*fmt.stream[:2]))
    await wire.post(fmt.path, fmt.request | {"stream": True}, x_bursar_run="r1")
    await expect_presumed(wire)


@by_format
@pytest.mark.parametrize("usage", ["missing", "negative", "text", "null", "not json"])
async def test_a_usage_that_cannot_be_read_is_presumed(wire: Wire, fmt: Format, usage: str) -> None:
    reply = json.loads(fmt.reply)
    match usage:
        case "missing":
            del reply["usage"]
        case "negative":
            reply["usage"] = dict.fromkeys(reply["usage"], -1)
        case "text":
            reply["usage"] = "many"
        case _:
            reply["usage"] = None
    body = b"<html>" if usage == "not json" else json.dumps(reply).encode()
    wire.provider.script = play(answer(body))
    got = await wire.post(fmt.path, fmt.request, x_bursar_run="r1")
    assert (got.status, got.body) == (200, body)  # what was paid for is delivered
    await expect_presumed(wire)


async def test_a_provider_that_stays_silent_is_presumed(tmp_path: Path) -> None:
    async with wire_up(tmp_path, SOON_SILENT) as wire:

        async def never(_served: Served, _writer: asyncio.StreamWriter) -> None:
            await asyncio.Event().wait()

        wire.provider.script = never
        got = await wire.post(CHAT.path, CHAT.request, x_bursar_run="r1")
        assert (got.status, got.json["error"]["code"]) == (502, "upstream_silent")  # type: ignore[index]
        await expect_presumed(wire)


@by_format
async def test_a_stream_that_goes_silent_is_presumed(tmp_path: Path, fmt: Format) -> None:
    async with wire_up(tmp_path, SOON_SILENT) as wire:

        async def stalls(_served: Served, writer: asyncio.StreamWriter) -> None:
            writer.write(chunked(fmt.stream[0])[: -len(b"0\r\n\r\n")])
            await writer.drain()
            await asyncio.Event().wait()

        wire.provider.script = stalls
        got = await wire.post(fmt.path, fmt.request | {"stream": True}, x_bursar_run="r1")
        assert not got.is_complete
        await expect_presumed(wire)


@by_format
async def test_more_than_the_hold_is_booked_in_full_and_stops_the_run(wire: Wire, fmt: Format) -> None:
    reply = json.loads(fmt.reply)
    name = "completion_tokens" if fmt is CHAT else "output_tokens"
    reply["usage"][name] = 50_000
    reply["usage"] |= {"total_tokens": 50_010} if "total_tokens" in reply["usage"] else {}
    wire.provider.script = play(answer(json.dumps(reply).encode()))
    got = await wire.post(fmt.path, fmt.request, x_bursar_run="r1")
    assert got.status == 200
    await wire.settled(1)
    (hold,) = await wire.holds()
    rate = fmt.cost_nanodollars - 10 * (3000 if fmt is MESSAGES else 400)
    assert hold.captured.usd + hold.overrun.usd == fmt.cost_nanodollars - rate + rate // 5 * 50_000
    assert hold.overrun.usd > 0
    assert await wire.audit() == []
    elsewhere = "claude-haiku-4-5" if fmt is MESSAGES else "gpt-4.1-nano"
    stopped = await wire.post(fmt.path, fmt.request | {"model": elsewhere}, x_bursar_run="r1")
    assert (stopped.status, stopped.json["error"]["code"]) == (429, "run_stopped")  # type: ignore[index]
    quarantined = await wire.post(fmt.path, fmt.request, x_bursar_run="other")
    assert (quarantined.status, quarantined.json["error"]["code"]) == (422, "unpriced")  # type: ignore[index]
    assert len(wire.provider.served) == 1


# ---- the client leaves ----------------------------------------------------------------------------------------------


@by_format
@pytest.mark.parametrize("events_read", [0, 1, 2])
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_that_leaves_a_stream_still_pays_what_it_cost(
    wire: Wire, fmt: Format, events_read: int, how: str
) -> None:
    client_left = asyncio.Event()

    async def script(_served: Served, writer: asyncio.StreamWriter) -> None:
        whole = chunked(*fmt.stream)
        head, rest = whole.split(b"\r\n\r\n", 1)
        first = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in fmt.stream[:events_read])
        writer.write(head + b"\r\n\r\n" + first)
        await writer.drain()
        await client_left.wait()
        writer.write(rest[len(first) :])
        await writer.drain()

    wire.provider.script = script
    reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
    writer.write(wire.raw(fmt.path, fmt.request | {"stream": True}, x_bursar_run="r1"))
    await reader.readuntil(b"\r\n\r\n")
    for _ in range(events_read):
        await reader.readuntil(b"\n\n")
    if how == "reset":
        writer.transport.abort()
    writer.close()
    client_left.set()
    await expect_metered(wire, fmt)


async def test_a_client_that_leaves_before_the_head_still_pays(wire: Wire) -> None:
    client_left, has_request = asyncio.Event(), asyncio.Event()

    async def script(_served: Served, writer: asyncio.StreamWriter) -> None:
        has_request.set()
        await client_left.wait()
        writer.write(answer(CHAT.reply))
        await writer.drain()

    wire.provider.script = script
    _reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
    writer.write(wire.raw(CHAT.path, CHAT.request, x_bursar_run="r1"))
    await has_request.wait()
    writer.transport.abort()
    client_left.set()
    await expect_metered(wire, CHAT)


async def test_when_the_provider_does_not_end_after_the_client_left_the_hold_is_presumed(tmp_path: Path) -> None:
    async with wire_up(tmp_path, policy={"read_on_seconds_max": 0}) as wire:

        async def endless(_served: Served, writer: asyncio.StreamWriter) -> None:
            writer.write(chunked(CHAT.stream[0])[: -len(b"0\r\n\r\n")])
            await writer.drain()
            await asyncio.Event().wait()

        wire.provider.script = endless
        reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
        writer.write(wire.raw(CHAT.path, CHAT.request | {"stream": True}, x_bursar_run="r1"))
        await reader.readuntil(b"\n\n")
        writer.transport.abort()
        await expect_presumed(wire)


async def test_a_call_in_flight_at_shutdown_is_settled(tmp_path: Path) -> None:
    has_request = asyncio.Event()
    async with wire_up(tmp_path) as wire:

        async def slow(_served: Served, writer: asyncio.StreamWriter) -> None:
            has_request.set()
            await wire.stopping.wait()
            writer.write(answer(CHAT.reply))
            await writer.drain()

        wire.provider.script = slow
        reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
        writer.write(wire.raw(CHAT.path, CHAT.request, x_bursar_run="r1"))
        await has_request.wait()
        waiting = asyncio.create_task(read_answer(reader))
    got = await waiting
    writer.close()
    assert got.status == 200
    async with wire_up(tmp_path) as again:
        (hold,) = await again.holds()
        assert (hold.state, hold.captured.usd) == (HoldState.CAPTURED, CHAT.cost_nanodollars)
        assert await again.audit() == []


# ---- long answers, slow clients ---------------------------------------------------------------------------------


async def test_an_answer_too_long_to_keep_is_passed_on_and_metered(wire: Wire) -> None:
    reply = json.loads(CHAT.reply)
    reply["choices"][0]["message"]["content"] = "x" * (KEPT_BYTES_MAX + 1)
    body = json.dumps(reply).encode()
    wire.provider.script = play(answer(body))
    got = await wire.post(CHAT.path, CHAT.request, x_bursar_run="r1")
    assert (got.status, got.body) == (200, body)
    assert "x-bursar-cost-usd" not in got.headers  # it was not known when the headers went
    await expect_metered(wire, CHAT)


async def test_an_answer_that_takes_longer_than_allowed_is_presumed(tmp_path: Path) -> None:
    async with wire_up(tmp_path, {"total_seconds_max": 0.2}) as wire:

        async def endless(_served: Served, writer: asyncio.StreamWriter) -> None:
            writer.write(chunked(CHAT.stream[0])[: -len(b"0\r\n\r\n")])
            while True:
                writer.write(b"6\r\n: on\n\n\r\n")
                await writer.drain()
                await asyncio.sleep(0.01)

        wire.provider.script = endless
        got = await wire.post(CHAT.path, CHAT.request | {"stream": True}, x_bursar_run="r1")
        assert not got.is_complete
        await expect_presumed(wire)


async def test_a_client_that_stops_reading_does_not_hold_its_money_for_ever(tmp_path: Path) -> None:
    async with wire_up(tmp_path, {"total_seconds_max": 0.5}) as wire:

        async def flood(_served: Served, writer: asyncio.StreamWriter) -> None:
            writer.write(chunked(CHAT.stream[0])[: -len(b"0\r\n\r\n")])
            piece = b": " + b"z" * 65_532 + b"\n\n"
            while True:
                writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                await writer.drain()

        wire.provider.script = flood
        reader, writer = await asyncio.open_connection("127.0.0.1", wire.port, limit=1024)
        writer.write(wire.raw(CHAT.path, CHAT.request | {"stream": True}, x_bursar_run="r1"))
        await reader.readuntil(b"\r\n\r\n")  # and never again
        await expect_presumed(wire)
        writer.transport.abort()


async def test_an_answer_that_costs_more_than_can_be_counted_is_presumed(wire: Wire) -> None:
    reply = json.loads(CHAT.reply)
    reply["usage"] = {"prompt_tokens": 10, "completion_tokens": 10**16, "total_tokens": 10**16 + 10}
    wire.provider.script = play(answer(json.dumps(reply).encode()))
    assert (await wire.post(CHAT.path, CHAT.request, x_bursar_run="r1")).status == 200
    await expect_presumed(wire)
