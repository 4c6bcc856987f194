"""Counts of tokens reach the provider without a hold: they cost nothing, change nothing, and end with the run."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from conftest import SECRET, Wire, wire_up
from scripted import Served, answer, chunked, cut, play

from bursar.edge import counts
from bursar.ledger.account import AccountState, SetLimit, SetState, Unit
from bursar.upstream import free

CASES: dict[str, tuple[str, dict[str, Any], bytes]] = {
    "anthropic": (
        "/v1/messages/count_tokens",
        {"model": "claude-sonnet-4-5", "messages": [{"role": "user", "content": "hi"}]},
        b'{"input_tokens":8}',
    ),
    "openai": (
        "/v1/responses/input_tokens",
        {"model": "gpt-5", "input": "hi"},
        b'{"object":"response.input_tokens","input_tokens":8}',
    ),
    "gemini": (
        "/v1beta/models/gemini-2.5-pro:countTokens",
        {"contents": [{"parts": [{"text": "hi"}]}]},
        b'{"totalTokens":2}',
    ),
}
EVERY = pytest.mark.parametrize("name", CASES)


@pytest.fixture
async def wire(tmp_path: Path) -> AsyncIterator[Wire]:
    async with wire_up(tmp_path, secrets={"gemini": "real-key"}, upstreams={"gemini": {}}) as made:
        yield made


async def nothing_happened(wire: Wire) -> None:
    assert await wire.holds() == ()
    assert await wire.store.runs() == ()


@EVERY
@pytest.mark.parametrize("prefix", ["", "/r/r1", "/{name}"])
async def test_a_count_is_passed_both_ways_and_leaves_no_trace_in_the_books(wire: Wire, name: str, prefix: str) -> None:
    path, body, reply = CASES[name]
    wire.provider.script = play(answer(reply))
    got = await wire.post(prefix.format(name=name) + path, body, anthropic_version="2023-06-01")
    assert (got.status, got.body, got.headers["x-bursar-cost-usd"]) == (200, reply, "0.00")
    (served,) = wire.provider.served
    assert (served.path, served.json) == (path, body)
    assert SECRET not in served.head
    await nothing_happened(wire)


async def test_claude_code_counts_with_its_query_and_its_betas(wire: Wire) -> None:
    path, body, reply = CASES["anthropic"]
    wire.provider.script = play(answer(reply))
    got = await wire.post(f"{path}?beta=true", body, anthropic_beta="token-counting-2024-11-01")
    assert got.status == 200
    assert wire.provider.served[0].path == f"{path}?beta=true"
    assert wire.provider.served[0].header("anthropic-beta") == "token-counting-2024-11-01"


@EVERY
async def test_an_error_of_the_provider_is_passed_on(wire: Wire, name: str) -> None:
    path, body, _ = CASES[name]
    wire.provider.script = play(answer(b'{"error":{"message":"no"}}', 429))
    got = await wire.post(path, body)
    assert (got.status, got.body) == (429, b'{"error":{"message":"no"}}')


@EVERY
async def test_a_field_that_is_not_documented_is_refused(wire: Wire, name: str) -> None:
    path, body, _ = CASES[name]
    for field, value in {"stream": True, "max_tokens": 10, "tools_please": []}.items():
        got = await wire.post(path, {**body, field: value})
        assert got.status == 422
        assert field in got.body.decode()
    assert wire.provider.served == []


@EVERY
async def test_without_a_key_there_is_no_count(wire: Wire, name: str) -> None:
    path, body, _ = CASES[name]
    got = await wire.post(path, body, authorization="Bearer bursar-unknown")
    assert got.status == 401
    assert wire.provider.served == []


@pytest.mark.parametrize("scope", ["run:r1", "key:wire"])
@EVERY
async def test_a_stopped_agent_gets_no_counts_either(wire: Wire, name: str, scope: str) -> None:
    path, body, reply = CASES[name]
    wire.provider.script = play(answer(reply))
    other = {"model": "gpt-4.1-mini", "input": "x", "max_output_tokens": 16}
    await wire.post("/v1/responses", other, x_bursar_run="r1")  # opens the run
    asked = len(wire.provider.served)
    await wire.store.submit(SetState(scope, AccountState.STOPPED, "test"))
    got = await wire.post(path, body, x_bursar_run="r1")
    assert got.status == 429
    assert "run_stopped" in got.body.decode()
    assert got.headers["x-should-retry"] == "false"
    assert len(wire.provider.served) == asked


async def test_who_has_spent_all_may_still_count(wire: Wire) -> None:
    path, body, reply = CASES["openai"]
    wire.provider.script = play(answer(reply))
    await wire.store.submit(SetLimit("key:wire", Unit.USD, 0))
    assert (await wire.post(path, body)).status == 200


async def test_an_upstream_that_breaks_off_or_is_silent_is_a_502(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    path, body, _ = CASES["openai"]
    monkeypatch.setattr(free, "BYTES_MAX", 1_000)
    for script in (cut(b""), cut(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{"), play(chunked(b"x" * 1_001))):
        wire.provider.script = script
        got = await wire.post(path, body)
        assert (got.status, got.json["error"]["code"]) == (502, "upstream_silent")  # type: ignore[index]
    await nothing_happened(wire)


async def test_an_upstream_that_is_not_there_is_a_502(tmp_path: Path) -> None:
    nobody = {"openai": {"base_url": "http://127.0.0.1:9", "key_env": "X"}}
    async with wire_up(tmp_path, upstreams=nobody) as wire:
        path, body, _ = CASES["openai"]
        got = await wire.post(path, body)
        assert (got.status, got.json["error"]["code"]) == (502, "upstream_unreachable")  # type: ignore[index]


async def test_counts_do_not_crowd_out_what_is_paid_for(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts, "IN_FLIGHT_MAX", 2)
    path, body, reply = CASES["openai"]
    may_answer = asyncio.Event()

    async def script(_served: Served, writer: asyncio.StreamWriter) -> None:
        await may_answer.wait()
        writer.write(answer(reply))
        await writer.drain()

    wire.provider.script = script
    waiting = [asyncio.create_task(wire.post(path, body)) for _ in range(2)]
    await wire.until(lambda: len(wire.provider.served) == 2)
    got = await wire.post(path, body)
    assert (got.status, got.json["error"]["code"]) == (429, "too_many_counts")  # type: ignore[index]
    may_answer.set()
    assert [(await one).status for one in waiting] == [200, 200]
    assert (await wire.post(path, body)).status == 200


async def test_a_count_never_reaches_a_path_that_is_paid_for(wire: Wire) -> None:
    wire.provider.script = play(answer(b"{}"))
    for path in ("/v1/messages/count_tokens/", "/v1/messages/count_tokens/../", "/v1/responses/input_tokens/x"):
        assert (await wire.post(path, CASES["openai"][1])).status == 404
    assert wire.provider.served == []


async def test_the_body_of_a_count_is_bounded(tmp_path: Path) -> None:
    async with wire_up(tmp_path, server={"body_bytes_max": 2_048}) as wire:
        path, body, _ = CASES["openai"]
        got = await wire.post(path, {**body, "input": "x" * 2_048})
        assert got.status == 413
        assert json.loads(got.body)["error"]["code"] == "unreadable"
        assert wire.provider.served == []
