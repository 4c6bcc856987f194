"""Google's format over real HTTP: its paths, its keys, its streams, its errors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from conftest import SECRET, Wire, wire_up
from scripted import Answer, Served, answer, chunked, exchange, play, request

from bursar.ledger.account import Unit

MODEL = "gemini-2.5-pro"
PATH = f"/v1beta/models/{MODEL}"
REQUEST = {"contents": [{"parts": [{"text": "hello"}]}], "generationConfig": {"maxOutputTokens": 100}}
USAGE = {"promptTokenCount": 10, "candidatesTokenCount": 2, "thoughtsTokenCount": 3, "totalTokenCount": 15}
# $1.25 and $10 per million tokens.
COST = 10 * 1_250 + 5 * 10_000


def chunk(text: str, **more: Any) -> dict[str, Any]:
    return {"candidates": [{"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}], **more}


LAST = {"candidates": [{"finishReason": "STOP", "index": 0}], "usageMetadata": USAGE, "modelVersion": MODEL}
REPLY = json.dumps(chunk("hi") | LAST).encode()
EVENTS = [b"data: %b\r\n\r\n" % json.dumps(one).encode() for one in (chunk("h"), chunk("i"), LAST)]
ARRAY = [b"[" + json.dumps(chunk("h")).encode(), b"\n,\r\n" + json.dumps(LAST).encode(), b"\n]\n"]


@pytest.fixture
async def wire(tmp_path: Path) -> AsyncIterator[Wire]:
    async with wire_up(tmp_path, secrets={"gemini": "real-key"}, upstreams={"gemini": {}}) as made:
        made.provider.script = play(answer(REPLY))
        yield made


async def post(wire: Wire, path: str, body: object = REQUEST, **headers: str) -> Answer:
    """Send with the key where the caller puts it, or nowhere."""
    named = {"content-type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return await exchange(wire.port, request(path, json.dumps(body).encode(), named))


def error_of(got: Answer) -> dict[str, Any]:
    error = got.json["error"]
    assert isinstance(error, dict)
    assert error["code"] == got.status
    return error


async def test_a_call_is_metered_with_its_thoughts(wire: Wire) -> None:
    got = await wire.post(f"{PATH}:generateContent", REQUEST, x_bursar_run="r1")
    assert (got.status, got.body) == (200, REPLY)
    assert got.headers["x-bursar-cost-usd"] == "0.0000625"
    await wire.settled(1)
    assert (await wire.account("run:r1")).captured == COST
    (served,) = wire.provider.served
    assert served.json == REQUEST


@pytest.mark.parametrize("prefix", ["/r/r1", "/gemini", "/r/r1/gemini"])
@pytest.mark.parametrize("version", ["v1", "v1beta"])
async def test_every_way_to_write_the_path_leads_to_one(wire: Wire, prefix: str, version: str) -> None:
    got = await wire.post(f"{prefix}/{version}/models/{MODEL}:generateContent", REQUEST)
    assert got.status == 200
    assert [served.path for served in wire.provider.served] == [f"{PATH}:generateContent"]


async def test_without_a_bound_one_is_set(wire: Wire) -> None:
    await wire.post(f"{PATH}:generateContent", {"contents": REQUEST["contents"]})
    assert wire.provider.served[0].json["generationConfig"] == {"maxOutputTokens": 32_768}


@pytest.mark.parametrize("where", ["header", "query", "both", "bearer"])
async def test_our_key_is_taken_wherever_google_takes_one_and_goes_no_further(wire: Wire, where: str) -> None:
    headers = {"x_goog_api_key": SECRET} if where in ("header", "both") else {}
    headers |= {"authorization": f"Bearer {SECRET}"} if where == "bearer" else {}
    query = f"?key={SECRET}" if where in ("query", "both") else ""
    assert (await post(wire, f"{PATH}:generateContent{query}", **headers)).status == 200
    (served,) = wire.provider.served
    assert SECRET not in served.head
    assert served.path == f"{PATH}:generateContent"
    assert served.header("x-goog-api-key") == "real-key"


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        (f"?key={SECRET}", {"x_goog_api_key": "another"}),
        (f"?key={SECRET}", {"authorization": "Bearer another"}),
        ("", {"x_goog_api_key": SECRET, "x_api_key": "another"}),
        ("?key=another", {}),
        (f"?key={SECRET[:5]}%{ord(SECRET[5]):x}{SECRET[6:]}", {}),
        ("", {}),
    ],
)
async def test_two_keys_an_unknown_one_or_none_are_refused(wire: Wire, query: str, headers: dict[str, str]) -> None:
    got = await post(wire, f"{PATH}:generateContent{query}", **headers)
    assert got.status == 401
    assert error_of(got)["status"] == "UNAUTHENTICATED"
    assert wire.provider.served == []


@pytest.mark.parametrize(
    "query",
    [
        "fields=candidates",
        "$alt=sse",
        "alt=media",
        "alt=proto",
        "alt=SSE",
        "alt=sse&fields=candidates",
        "%61lt=sse",
        "key=x&key=y",
        "prettyPrint=false",
        "alt=sse;x",
        "access_token=x",
        "alt",
    ],
)
async def test_what_the_query_asks_for_is_known_or_refused(wire: Wire, query: str) -> None:
    got = await wire.post(f"{PATH}:streamGenerateContent?{query}", REQUEST)
    assert got.status == 400
    assert error_of(got)["bursar"]["code"] == "unreadable"
    assert wire.provider.served == []


@pytest.mark.parametrize("query", ["alt=sse", f"alt=sse&key={SECRET}", f"key={SECRET}&alt=sse", "alt=sse&"])
async def test_a_stream_of_events_passes_byte_by_byte(wire: Wire, query: str) -> None:
    wire.provider.script = play(chunked(*EVENTS))
    got = await wire.post(f"{PATH}:streamGenerateContent?{query}", REQUEST, x_bursar_run="r1")
    assert (got.status, got.body, got.is_complete) == (200, b"".join(EVENTS), True)
    assert wire.provider.served[0].path == f"{PATH}:streamGenerateContent?alt=sse"
    await wire.settled(1)
    assert (await wire.account("run:r1")).captured == COST


@pytest.mark.parametrize("query", ["", "?alt=json"])
async def test_a_stream_as_an_array_passes_as_it_comes(wire: Wire, query: str) -> None:
    may_go_on = asyncio.Event()

    async def script(_served: Served, writer: asyncio.StreamWriter) -> None:
        head, *parts = chunked(*ARRAY, content_type="application/json; charset=UTF-8").partition(ARRAY[0])
        writer.write(head + parts[0] + b"\r\n")
        await may_go_on.wait()
        writer.write(parts[1][2:])
        await writer.drain()

    wire.provider.script = script
    reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
    writer.write(wire.raw(f"{PATH}:streamGenerateContent{query}", REQUEST, x_bursar_run="r1"))
    async with asyncio.timeout(20):
        received = await reader.readuntil(ARRAY[0])  # while the provider has not sent the rest
        may_go_on.set()
        received += await reader.readuntil(b"0\r\n\r\n")
    writer.close()
    assert b"200 OK" in received
    assert ARRAY[1] in received
    assert wire.provider.served[0].path == f"{PATH}:streamGenerateContent"
    await wire.settled(1)
    assert (await wire.account("run:r1")).captured == COST


async def test_an_array_that_was_finished_before_it_was_sent_says_what_it_cost(wire: Wire) -> None:
    wire.provider.script = play(answer(b"".join(ARRAY)))
    got = await wire.post(f"{PATH}:streamGenerateContent", REQUEST)
    assert (got.body, got.headers["x-bursar-cost-usd"]) == (b"".join(ARRAY), "0.0000625")


async def test_a_stream_that_breaks_off_is_charged_whole(wire: Wire) -> None:
    wire.provider.script = play(chunked(*EVENTS[:2]))
    await wire.post(f"{PATH}:streamGenerateContent?alt=sse", REQUEST, x_bursar_run="r1")
    (settled,) = await wire.settled(1)
    assert settled.why == "the stream ended before its end"
    assert settled.captured_nanodollars > COST


@pytest.mark.parametrize(
    ("user_agent", "status", "word"),
    [
        ("google-genai-sdk/3.4.0 gl-python/3.11", 429, "RESOURCE_EXHAUSTED"),
        ("GeminiCLI-tui/0.61.0/gemini-3.1-pro-preview (linux; x64; terminal)", 402, "FAILED_PRECONDITION"),
        ("google-genai-sdk/2.34.0 langchain-google-genai/4.4.2-ChatGoogleGenerativeAI", 402, "FAILED_PRECONDITION"),
    ],
)
async def test_a_spent_cap_is_refused_in_googles_shape(tmp_path: Path, user_agent: str, status: int, word: str) -> None:
    keys = {"wire": {"key_env": "BURSAR_WIRE_TEST_KEY", "run": {"usd": "0.00", "calls": 20}}}
    async with wire_up(tmp_path, secrets={"gemini": "real-key"}, upstreams={"gemini": {}}, keys=keys) as wire:
        for method in ("generateContent", "streamGenerateContent"):
            got = await wire.post(f"{PATH}:{method}", REQUEST, user_agent=user_agent, x_bursar_run="r1")
            assert got.status == status
            error = error_of(got)
            assert (error["status"], error["bursar"]["code"]) == (word, "cap_exhausted")
            assert error["details"][0]["reason"] == "CAP_EXHAUSTED"
            assert error["bursar"]["run"] == "r1"
            assert got.headers["x-should-retry"] == "false"
            assert "retry-after" not in got.headers
        assert wire.provider.served == []
        assert (await wire.account("run:r1", Unit.CALLS)).captured == 0


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({**REQUEST, "tools": [{"googleSearch": {}}]}, 422, "unbounded"),
        ({**REQUEST, "generation_config": {"max_output_tokens": 10**6}}, 400, "unreadable"),
        ({**REQUEST, "model": "models/gemini-3.5-flash-lite"}, 400, "unreadable"),
        ({**REQUEST, "serviceTier": "ultra"}, 422, "unpriced"),
    ],
)
async def test_what_is_not_bounded_is_refused_in_googles_shape(
    wire: Wire, body: dict[str, Any], status: int, code: str
) -> None:
    got = await wire.post(f"{PATH}:generateContent", body)
    assert got.status == status
    assert error_of(got)["bursar"]["code"] == code
    assert wire.provider.served == []


async def test_a_model_that_the_key_may_not_call_is_refused_by_the_path(tmp_path: Path) -> None:
    keys = {"wire": {"key_env": "BURSAR_WIRE_TEST_KEY", "run": {"usd": "1"}, "models": ["gemini-3.5-*"]}}
    async with wire_up(tmp_path, secrets={"gemini": "real-key"}, upstreams={"gemini": {}}, keys=keys) as wire:
        for method in ("generateContent", "countTokens"):
            body = REQUEST if method == "generateContent" else {"contents": REQUEST["contents"]}
            got = await wire.post(f"{PATH}:{method}", body)
            assert (got.status, error_of(got)["status"]) == (403, "PERMISSION_DENIED")
        assert wire.provider.served == []


@pytest.mark.parametrize(
    "path",
    [
        f"{PATH}%3AgenerateContent",
        f"{PATH}:generateContent/",
        f"{PATH}.:generateContent",
        f"{PATH}:GenerateContent",
        f"/v1beta//models/{MODEL}:generateContent",
        f"/v1beta/models/x/../{MODEL}:generateContent",
        f"/v1beta/models/x%2f{MODEL}:generateContent",
        f"/v1beta/tunedModels/{MODEL}:generateContent",
        f"{PATH}:batchGenerateContent",
        f"/openai/../gemini{PATH}:generateContent",
    ],
)
async def test_museum_23_paths_of_google_have_no_second_spelling(wire: Wire, path: str) -> None:
    got = await wire.post(path, REQUEST)
    assert got.status == 404
    assert wire.provider.served == []


async def test_google_is_not_reached_by_the_name_of_another_upstream(wire: Wire) -> None:
    got = await wire.post(f"/openai{PATH}:generateContent", REQUEST)
    assert (got.status, error_of(got)["bursar"]["code"]) == (404, "unmetered")


async def test_embeddings_are_metered_by_their_usage_and_charged_whole_without(wire: Wire) -> None:
    path = "/v1beta/models/gemini-embedding-001:batchEmbedContents"
    body = {"requests": [{"model": "models/gemini-embedding-001", "content": {"parts": [{"text": "a"}]}}] * 3}
    wire.provider.script = play(answer(b'{"embeddings":[],"usageMetadata":{"promptTokenCount":6}}'))
    assert (await wire.post(path, body, x_bursar_run="r1")).headers["x-bursar-cost-usd"] == "0.0000009"
    wire.provider.script = play(answer(b'{"embeddings":[]}'))
    got = await wire.post(path, body, x_bursar_run="r1")
    assert "x-bursar-cost-usd" not in got.headers
    assert [served.json for served in wire.provider.served] == [body, body]
    await wire.settled(2)
    bound = len(json.dumps(body).encode()) + 1 + 3 * 16 + 512
    assert (await wire.account("run:r1")).captured == 6 * 150 + bound * 150
