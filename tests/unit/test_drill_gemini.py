"""The fake provider speaks Google's API: it reports what it bills, keeps the bound, counts for free and errs alike."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from bursar.drill.answering import Config
from bursar.drill.fake_provider import FakeProvider
from bursar.drill.faults import Fault, FaultKind

PATH = "/v1beta/models/gemini-2.5-pro:"
# 400 bytes of text at 4 bytes a token, and 3 tokens each for one message and the frame, at 1,250 nanodollars a token.
ASK: dict[str, Any] = {"contents": [{"role": "user", "parts": [{"text": "word" * 100}]}]}
FIXED = Config(output_tokens_least=40, output_tokens_most=40, reasoning_percent=50)
USAGE = {"promptTokenCount": 106, "candidatesTokenCount": 20, "thoughtsTokenCount": 20, "totalTokenCount": 146}


@asynccontextmanager
async def provider(config: Config = FIXED) -> AsyncIterator[tuple[FakeProvider, aiohttp.ClientSession]]:
    async with (
        FakeProvider(config) as running,
        aiohttp.ClientSession(running.base_url, headers={"x-goog-api-key": "k"}) as session,
    ):
        yield running, session


async def post(session: aiohttp.ClientSession, method: str, body: object = ASK) -> Any:
    async with session.post(PATH + method, json=body) as response:
        return await response.json(content_type=None)


async def chunks(session: aiohttp.ClientSession, body: object = ASK) -> list[Any]:
    async with session.post(PATH + "streamGenerateContent?alt=sse", json=body) as response:
        raw = (await response.read()).decode()
    return [json.loads(event.removeprefix("data: ")) for event in raw.split("\r\n\r\n") if event]


async def test_an_answer_reports_what_is_billed() -> None:
    async with provider() as (running, session):
        got = await post(session, "generateContent")
        assert got["usageMetadata"] == USAGE
        assert got["candidates"][0]["finishReason"] == "STOP"
        assert running.till.total.nanodollars == 106 * 1_250 + 40 * 10_000
        assert running.till.by_key["k"].calls == 1


async def test_a_stream_reports_it_in_its_last_chunk() -> None:
    async with provider() as (running, session):
        *first, last = await chunks(session)
        assert first
        assert last["usageMetadata"] == USAGE
        assert last["candidates"][0]["finishReason"] == "STOP"
        assert not any("finishReason" in chunk["candidates"][0] for chunk in first)
        assert running.till.total.calls == 1


@pytest.mark.parametrize("config", [{"maxOutputTokens": 7}, {"max_output_tokens": 7}])
async def test_the_bound_is_kept_in_either_spelling(config: dict[str, int]) -> None:
    async with provider() as (running, session):
        got = await post(session, "generateContent", {**ASK, "generation_config": config})
        assert got["candidates"][0]["finishReason"] == "MAX_TOKENS"
        assert running.till.total.output_tokens == 7


async def test_every_candidate_is_billed() -> None:
    async with provider() as (running, session):
        got = await chunks(session, {**ASK, "generationConfig": {"candidateCount": 3}})
        ended = [one["index"] for chunk in got for one in chunk["candidates"] if "finishReason" in one]
        assert ended == [0, 1, 2]
        assert running.till.total.output_tokens == 120


@pytest.mark.parametrize("body", [ASK, {"generateContentRequest": ASK}])
async def test_a_count_is_free_and_what_would_be_billed(body: dict[str, Any]) -> None:
    async with provider() as (running, session):
        assert await post(session, "countTokens", body) == {"totalTokens": 106}
        assert running.till.total.calls == 0


async def test_tools_and_images_are_read_and_scripted_calls_are_made() -> None:
    image = {"inlineData": {"mimeType": "image/png", "data": "A" * 4_000}}
    asked = {"contents": [{"parts": [image]}], "tools": [{"functionDeclarations": [{"name": "f"}]}]}
    async with provider() as (running, session):
        running.script(replies=({"text": "hi", "tool_calls": [{"name": "f", "arguments": {"a": 1}}]},))
        got = await chunks(session, asked)
        assert got[-1]["candidates"][0]["content"]["parts"] == [{"functionCall": {"name": "f", "args": {"a": 1}}}]
        # The tool as JSON is 39 bytes long.
        assert running.till.total.input_tokens == 10 + 6 + 258


async def test_errors_are_in_googles_shape_and_unbilled() -> None:
    async with provider() as (running, session):
        async with session.post("/v1beta/models/gemini-99:generateContent", json=ASK) as response:
            assert (response.status, (await response.json())["error"]["status"]) == (404, "NOT_FOUND")
        for body in ([], {**ASK, "generationConfig": {"maxOutputTokens": 10**6}}):
            assert (await post(session, "generateContent", body))["error"]["status"] == "INVALID_ARGUMENT"
        async with session.post(PATH + "generateContent", data=b"{") as response:
            assert response.status == 400
        assert (await post(session, "batchGenerateContent"))["error"]["message"].startswith("no such route")
        assert running.till.total.calls == 0


@pytest.mark.parametrize(("kind", "usage"), [(FaultKind.NO_USAGE, None), (FaultKind.GARBAGE_USAGE, "many")])
async def test_usage_can_be_missing_or_garbage(kind: FaultKind, usage: str | None) -> None:
    async with provider() as (running, session):
        running.script(faults=(Fault(kind, count=1),))
        got = await post(session, "generateContent")
        assert got.get("usageMetadata", {}).get("promptTokenCount") == usage
        assert running.till.total.calls == 1
