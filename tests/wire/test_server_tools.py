"""Tools that the provider runs: refused, or let through with a bound in the request and their fees in the books."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bodies import MESSAGES, RESPONSES
from conftest import CLAUDE, Wire, wire_up
from scripted import answer, play

from bursar.events import CallSettled
from bursar.ledger.account import Unit
from bursar.money import Money

LET_THROUGH = {"server_tools": ["web_search"], "server_tool_uses_default": 2}
ROOM = {"wire": {"key_env": "BURSAR_WIRE_TEST_KEY", "run": {"usd": "20.00", "calls": 20}}}
SMALL = {
    "input": "1.00",
    "output": "2.00",
    "context_tokens": 2_000,
    "output_tokens_max": 500,
    "upstream": "openai",
    "fees": {"web_search": "0.01"},
}
SEARCH = {
    "/v1/messages": {
        "model": CLAUDE,
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "hi"}],
        "tools": [{"type": "web_search_20250305", "name": "web_search"}],
    },
    "/v1/responses": {"model": "small", "max_output_tokens": 100, "input": "hi", "tools": [{"type": "web_search"}]},
}
FORMATS = {"/v1/messages": MESSAGES, "/v1/responses": RESPONSES}
by_path = pytest.mark.parametrize("path", list(SEARCH))


def searched(path: str, times: int) -> bytes:
    """Give the format's reply with so many searches in it."""
    reply = json.loads(FORMATS[path].reply)
    if path == "/v1/messages":
        reply["usage"]["server_tool_use"] = {"web_search_requests": times}
    else:
        item = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search"}}
        reply["output"] = [item] * times
    return json.dumps(reply).encode()


async def settled(wire: Wire, path: str, times: int) -> CallSettled:
    wire.provider.script = play(answer(searched(path, times)))
    found = await wire.post(path, SEARCH[path], x_bursar_run="r1")
    assert found.status == 200
    return (await wire.settled(1))[0]


@by_path
async def test_such_a_tool_is_refused_with_the_setting_that_lets_it_through(wire: Wire, path: str) -> None:
    found = await wire.post(path, SEARCH[path])
    assert found.status == 422
    assert '`[policy] server_tools = [\\"web_search\\"]` lets it through' in found.body.decode()
    assert wire.provider.served == []


@by_path
async def test_a_bound_is_put_into_the_request_and_a_use_is_booked_with_its_fee(path: str, tmp_path: Path) -> None:
    async with wire_up(tmp_path, policy=LET_THROUGH, keys=ROOM, models={"small": SMALL}) as wire:
        await settled(wire, path, 0)
        without = await wire.account("run:r1")
        (sent,) = wire.provider.served
        bound: Any = sent.json.get("max_tool_calls")
        if path == "/v1/messages":
            bound = sent.json["tools"][0]["max_uses"]  # type: ignore[index]
        assert bound == 2

        wire.provider.script = play(answer(searched(path, 2)))
        await wire.post(path, SEARCH[path], x_bursar_run="r1")
        await wire.settled(2)
        both = await wire.account("run:r1")
        assert both.captured - 2 * without.captured == 2 * Money.from_usd("0.01").nanodollars
        assert await wire.audit() == []


async def test_more_uses_than_the_bound_are_an_overrun_that_is_booked_in_full(tmp_path: Path) -> None:
    async with wire_up(tmp_path, policy=LET_THROUGH, keys=ROOM, models={"small": SMALL}) as wire:
        await settled(wire, "/v1/responses", 30)
        account = await wire.account("run:r1", Unit.USD)
        # The reply of the format has 10 input and 5 output tokens.
        assert account.captured + account.overrun == Money.from_usd("0.30002").nanodollars
        assert account.overrun > 0
        again = await wire.post("/v1/responses", SEARCH["/v1/responses"], x_bursar_run="r2")
        assert again.status != 200
        assert len(wire.provider.served) == 1
