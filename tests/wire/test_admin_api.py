"""The HTTP API of a gateway that serves: what is changed there holds for the next call, and entries can be followed."""

from __future__ import annotations

import asyncio
import json

from bodies import CHAT
from conftest import SECRET, Wire
from scripted import Answer, answer, exchange, play, request

from bursar.edge.callers import digest, new_secret, template_to_json, terms_to_json
from bursar.ledger.account import Limits

BASE = "/bursar/v1"


async def manager(wire: Wire, role: str = "operator") -> str:
    secret = new_secret()
    await wire.store.put_key(role, digest(secret), "", template_to_json(Limits()), terms_to_json({"role": role}))
    return secret


async def ask(wire: Wire, method: str, path: str, secret: str, body: object = None) -> Answer:
    headers = {"authorization": f"Bearer {secret}", "content-type": "application/json"}
    raw = b"" if body is None else json.dumps(body).encode()
    return await exchange(wire.port, request(BASE + path, raw, headers, method))


async def call(wire: Wire, secret: str) -> Answer:
    return await wire.post(CHAT.path, CHAT.request, authorization=f"Bearer {secret}")


async def test_a_run_is_opened_spent_raised_and_stopped_over_http(wire: Wire) -> None:
    wire.provider.script = play(answer(CHAT.reply))
    operator = await manager(wire)
    opened = await ask(wire, "POST", "/runs", SECRET, {"calls": 1})
    run, secret = opened.json["run"]["run"], str(opened.json["secret"])  # type: ignore[index]
    assert [(await call(wire, secret)).status for _ in range(2)] == [200, 429]
    me = (await ask(wire, "GET", "/me", secret)).json
    assert (me["left"]["calls"], "nothing left in calls" in str(me["advice"])) == (0, True)  # type: ignore[index]
    assert (await ask(wire, "POST", f"/runs/{run}/raise", operator, {"calls": 2})).status == 200
    assert [(await call(wire, secret)).status for _ in range(2)] == [200, 429]
    assert (await ask(wire, "POST", f"/runs/{run}/raise", operator, {"calls": 9})).status == 200
    assert (await ask(wire, "POST", f"/runs/{run}/stop", operator)).status == 200
    stopped = await call(wire, secret)
    assert (stopped.status, stopped.json["error"]["code"]) == (429, "run_stopped")  # type: ignore[index]
    assert (await ask(wire, "POST", f"/runs/{run}/resume", operator)).status == 200
    assert (await call(wire, secret)).status == 200
    assert len(wire.provider.served) == 3


async def test_a_budget_that_is_set_over_http_holds_for_the_next_call(wire: Wire) -> None:
    wire.provider.script = play(answer(CHAT.reply))
    operator = await manager(wire)
    assert (await call(wire, SECRET)).status == 200
    for scope in ("org", "key:wire", "model:gpt-4.1*", "upstream:openai"):
        got = await ask(wire, "POST", "/budgets", operator, {"scope": scope, "calls": 0, "period": "day"})
        assert got.status == 200
        refused = await call(wire, SECRET)
        assert (refused.status, refused.json["error"]["bursar"]["scope"]) == (429, scope)  # type: ignore[index]
        (budget,) = json.loads(got.body)
        assert (await ask(wire, "DELETE", f"/budgets/{budget['id']}", operator)).status == 200
        assert (await call(wire, SECRET)).status == 200


async def test_entries_are_followed_as_events_while_they_are_written(wire: Wire) -> None:
    viewer = await manager(wire, "viewer")
    entries = [entry.seq async for entry in wire.store.entries()]
    headers = {"authorization": f"Bearer {viewer}", "last-event-id": str(entries[-2])}
    reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
    try:
        writer.write(request(f"{BASE}/entries/stream", b"", headers, "GET"))
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        assert "200 OK" in head
        assert "text/event-stream" in head
        await ask(wire, "POST", "/runs", SECRET, {"label": "followed"})
        async with asyncio.timeout(20):
            first = await reader.readuntil(b"\n\n\r\n")
            while b"event: " not in first:
                first = await reader.readuntil(b"\n\n\r\n")
            assert f"id: {entries[-1]}\n".encode() in first
            followed = await reader.readuntil(b"followed")
        assert b"event: open" in followed
    finally:
        writer.close()


async def test_paths_beside_the_api_are_still_not_passed_on(wire: Wire) -> None:
    for path in ("/bursar", "/bursar/v2/runs", "/bursar/v1x", "/openai/bursar/v1/runs", "/r/r1/bursar/v1/runs"):
        got = await exchange(wire.port, request(path, b"", {"authorization": f"Bearer {SECRET}"}, "GET"))
        assert got.status == 404, path
        assert b"not metered here" in got.body, path
    assert wire.provider.served == []
