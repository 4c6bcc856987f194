"""Gemini at Google's own API and on Vertex: the same wire format, other places, credentials and prices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Wire, wire_up
from scripted import answer, chunked, cut, play
from test_providers_signed import TOKEN, a_token, vertex

from bursar.ledger.account import HoldState

MODEL = "gemini-3.6-flash"
REQUEST = {"contents": [{"role": "user", "parts": [{"text": "hello"}]}]}
USAGE = {"promptTokenCount": 10, "candidatesTokenCount": 2, "thoughtsTokenCount": 3, "totalTokenCount": 15}
REPLY = {
    "candidates": [{"content": {"role": "model", "parts": [{"text": "hi"}]}, "finishReason": "STOP", "index": 0}],
    "usageMetadata": USAGE,
    "modelVersion": MODEL,
}
# 0.75 and 3.75 USD per million tokens.
COST = 10 * 750 + 5 * 3750


def stream() -> bytes:
    first = REPLY | {"candidates": [{"content": {"role": "model", "parts": [{"text": "h"}]}, "index": 0}]}
    return chunked(*(f"data: {json.dumps(part)}\r\n\r\n".encode() for part in (first, REPLY)))


async def the_end(wire: Wire, count: int = 1) -> tuple[HoldState, str, int, int]:
    await wire.settled(count)
    hold = (await wire.holds())[-1]
    return hold.state, hold.basis, hold.captured.usd, hold.held.usd


def gemini(folder: Path, **settings: Any) -> Any:
    return wire_up(folder, secrets={"gemini": "K"}, upstreams={"gemini": settings})


@pytest.mark.parametrize("method", ["generateContent", "streamGenerateContent?alt=sse"])
async def test_gemini_gets_its_key_and_a_bound_and_bills_thoughts(tmp_path: Path, method: str) -> None:
    async with gemini(tmp_path) as wire:
        wire.provider.script = play(stream() if "stream" in method else answer(json.dumps(REPLY).encode()))
        got = await wire.post(f"/v1beta/models/{MODEL}:{method}", REQUEST, x_bursar_run="r1")
        assert got.status == 200, got.body
        (served,) = wire.provider.served
        assert served.path == f"/v1beta/models/{MODEL}:{method}"
        assert served.header("x-goog-api-key") == "K"
        assert served.header("authorization") == ""
        assert isinstance(served.json["generationConfig"]["maxOutputTokens"], int)  # type: ignore[index]
        assert (await the_end(wire))[:3] == (HoldState.CAPTURED, "metered", COST)


@pytest.mark.parametrize(("status", "state"), [(400, HoldState.VOID), (500, HoldState.VOID), (503, HoldState.CAPTURED)])
async def test_an_error_of_gemini_is_void_where_its_page_says_so(tmp_path: Path, status: int, state: HoldState) -> None:
    async with gemini(tmp_path) as wire:
        wire.provider.script = play(answer(b'{"error":{"code":1}}', status=status))
        await wire.post(f"/v1beta/models/{MODEL}:generateContent", REQUEST, x_bursar_run="r1")
        assert (await the_end(wire))[0] is state


async def test_a_stream_of_gemini_that_breaks_is_presumed(tmp_path: Path) -> None:
    async with gemini(tmp_path) as wire:
        first = {"candidates": [{"content": {"parts": [{"text": "h"}]}}]}
        raw = chunked(f"data: {json.dumps(first)}\r\n\r\n".encode())
        wire.provider.script = cut(raw[: -len(b"0\r\n\r\n")])
        await wire.post(f"/v1beta/models/{MODEL}:streamGenerateContent?alt=sse", REQUEST, x_bursar_run="r1")
        _state, basis, captured, held = await the_end(wire)
        assert (basis, captured) == ("presumed", held)


async def test_gemini_on_vertex_is_called_in_its_project_with_a_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reply = json.dumps(REPLY).encode()
    async with vertex(tmp_path, monkeypatch, a_token(3600), name="vertex", reply=reply) as wire:
        got = await wire.post(f"/vertex/v1beta/models/{MODEL}:generateContent", REQUEST, x_bursar_run="r1")
        assert (got.status, got.body) == (200, reply)
        _asked, call = wire.provider.served
        place = "/v1/projects/my-project/locations/europe-west1/publishers/google/models"
        assert call.path == f"{place}/{MODEL}:generateContent"
        assert call.header("authorization") == f"Bearer {TOKEN}"
        assert (await the_end(wire))[:3] == (HoldState.CAPTURED, "metered", -(-COST * 11 // 10))


async def test_what_vertex_does_not_have_is_not_charged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with vertex(tmp_path, monkeypatch, a_token(3600), name="vertex") as wire:
        content = {"content": {"parts": [{"text": "hello"}]}}
        got = await wire.post("/vertex/v1beta/models/gemini-embedding-001:embedContent", content, x_bursar_run="r1")
        assert (got.status, "has no /v1beta" in got.body.decode()) == (502, True)
        assert wire.provider.served == []
        assert (await the_end(wire))[0] is HoldState.VOID
