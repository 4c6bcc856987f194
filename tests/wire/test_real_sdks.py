"""The SDKs of Google and OpenAI, unmodified, on the routes that agents under test elsewhere do not use."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from conftest import KEY_ENV, SECRET, Wire, wire_up
from google import genai
from google.genai import errors, types
from scripted import Served, answer, chunked, play

from bursar.events import CallDenied
from bursar.ledger.account import Unit

MODEL = "gemini-2.5-pro"
USAGE = {"promptTokenCount": 10, "candidatesTokenCount": 2, "thoughtsTokenCount": 3, "totalTokenCount": 15}
COST = 10 * 1_250 + 5 * 10_000
PNG = bytes.fromhex("89504e470d0a1a0a0000000d4948445200000320000002580806000000")


def said(text: str, **more: Any) -> dict[str, Any]:
    candidate = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}
    return {"candidates": [candidate | more], "usageMetadata": USAGE, "modelVersion": MODEL}


REPLY = answer(json.dumps(said("hi", finishReason="STOP")).encode(), content_type="application/json; charset=UTF-8")
STREAM = chunked(
    *[b"data: %b\r\n\r\n" % json.dumps(one).encode() for one in (said("h"), said("i", finishReason="STOP"))]
)


def with_google() -> dict[str, Any]:
    return {"secrets": {"gemini": "real-key"}, "upstreams": {"gemini": {}}}


@pytest.fixture
async def wire(tmp_path: Path) -> AsyncIterator[Wire]:
    async with wire_up(tmp_path, **with_google()) as made:
        made.provider.script = play(REPLY)
        yield made


def google(wire: Wire, **options: Any) -> Any:
    http = types.HttpOptions(base_url=f"http://127.0.0.1:{wire.port}/r/r1", **options)
    return genai.Client(api_key=SECRET, http_options=http).aio


async def booked(wire: Wire, calls: int) -> int:
    await wire.settled(calls)
    assert (await wire.account("run:r1", Unit.CALLS)).captured == calls
    return (await wire.account("run:r1")).captured


# ---- google-genai ----------------------------------------------------------------------------------------------------


async def test_google_generates(wire: Wire) -> None:
    config = types.GenerateContentConfig(
        system_instruction="be kind",
        temperature=0.5,
        max_output_tokens=50,
        candidate_count=1,
        thinking_config=types.ThinkingConfig(thinking_budget=10, include_thoughts=True),
        safety_settings=[types.SafetySetting(category="HARM_CATEGORY_HARASSMENT", threshold="BLOCK_NONE")],
        response_mime_type="application/json",
        response_schema={"type": "STRING"},
        tools=[types.Tool(function_declarations=[types.FunctionDeclaration(name="f", description="d")])],
        tool_config=types.ToolConfig(function_calling_config=types.FunctionCallingConfig(mode="NONE")),
        automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
    )
    got = await google(wire).models.generate_content(model=MODEL, contents="hello", config=config)
    assert got.text == "hi"
    assert got.usage_metadata.thoughts_token_count == 3
    assert await booked(wire, 1) == COST
    (served,) = wire.provider.served
    assert served.json["generationConfig"]["maxOutputTokens"] == 50  # type: ignore[index]
    assert SECRET not in served.head
    assert served.header("x-goog-api-client").startswith("google-genai-sdk/")


async def test_google_streams(wire: Wire) -> None:
    wire.provider.script = play(STREAM)
    chunks = [chunk async for chunk in await google(wire).models.generate_content_stream(model=MODEL, contents="hello")]
    assert "".join(chunk.text or "" for chunk in chunks) == "hi"
    assert await booked(wire, 1) == COST
    assert wire.provider.served[0].path.endswith(":streamGenerateContent?alt=sse")
    assert wire.provider.served[0].json["generationConfig"] == {"maxOutputTokens": 32_768}


async def test_google_sends_images_and_documents(wire: Wire) -> None:
    parts = [types.Part.from_bytes(data=PNG, mime_type="image/png"), "what is it?"]
    await google(wire).models.generate_content(model="gemini-2.5-flash", contents=parts)
    small = (await wire.holds())[0].held.usd
    parts[0] = types.Part.from_bytes(data=b"%PDF", mime_type="application/pdf")
    await google(wire).models.generate_content(model="gemini-2.5-flash", contents=parts)
    assert max(hold.held.usd for hold in await wire.holds()) > small + 1_000_000 * 300  # its whole window


async def test_google_counts_for_free(wire: Wire) -> None:
    wire.provider.script = play(answer(b'{"totalTokens":31}'))
    got = await google(wire).models.count_tokens(model=MODEL, contents="hello")
    assert got.total_tokens == 31
    assert await wire.holds() == ()


async def test_google_embeds(wire: Wire) -> None:
    wire.provider.script = play(
        answer(b'{"embeddings":[{"values":[0.5]},{"values":[0.25]}],"usageMetadata":{"promptTokenCount":6}}')
    )
    config = types.EmbedContentConfig(output_dimensionality=1, task_type="CLUSTERING")
    got = await google(wire).models.embed_content(model="gemini-embedding-001", contents=["a", "b"], config=config)
    assert [one.values for one in got.embeddings] == [[0.5], [0.25]]
    assert await booked(wire, 1) == 6 * 150


async def test_google_lists_and_gets_models(wire: Wire) -> None:
    client = google(wire)
    names = [model.name async for model in await client.models.list()]
    assert f"models/{MODEL}" in names
    assert (await client.models.get(model=MODEL)).output_token_limit == 65_536
    assert wire.provider.served == []


@pytest.mark.parametrize("stream", [False, True])
async def test_at_the_cap_google_raises_its_typed_error_after_one_attempt(tmp_path: Path, stream: bool) -> None:
    keys = {"wire": {"key_env": KEY_ENV, "run": {"calls": 1, "usd": "1"}}}
    async with wire_up(tmp_path, keys=keys, **with_google()) as wire:
        wire.provider.script = play(STREAM if stream else REPLY)
        client = google(wire)

        async def ask() -> None:
            if stream:
                async for _ in await client.models.generate_content_stream(model=MODEL, contents="hello"):
                    pass
            else:
                await client.models.generate_content(model=MODEL, contents="hello")

        await ask()
        with pytest.raises(errors.ClientError) as raised:
            await ask()
        assert (raised.value.code, raised.value.status) == (429, "RESOURCE_EXHAUSTED")
        assert "the cap of 1 calls on run:r1 is spent" in str(raised.value)
        assert raised.value.details["error"]["bursar"]["code"] == "cap_exhausted"
        assert len(wire.provider.served) == 1
        assert len([event for event in wire.events if isinstance(event, CallDenied)]) == 1


async def test_google_search_is_refused_with_a_reason(wire: Wire) -> None:
    config = types.GenerateContentConfig(tools=[types.Tool(google_search=types.GoogleSearch())])
    with pytest.raises(errors.ClientError, match="`googleSearch` is refused"):
        await google(wire).models.generate_content(model=MODEL, contents="hello", config=config)
    assert wire.provider.served == []


# ---- openai ----------------------------------------------------------------------------------------------------------


def open_ai(wire: Wire) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(api_key=SECRET, base_url=f"http://127.0.0.1:{wire.port}/r/r1/v1")


async def test_openai_embeds_in_base64(wire: Wire) -> None:
    data = [{"object": "embedding", "index": 0, "embedding": "AAAAPw=="}]
    usage = {"prompt_tokens": 8, "total_tokens": 8}
    wire.provider.script = play(
        answer(json.dumps({"object": "list", "data": data, "model": "m", "usage": usage}).encode())
    )
    async with open_ai(wire) as client:
        got = await client.embeddings.create(model="text-embedding-3-small", input=["a", "b"])
    assert got.data[0].embedding == [0.5]
    assert await booked(wire, 1) == 8 * 20


async def test_openai_completes_and_the_default_of_16_is_made_explicit(wire: Wire) -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
    base = {"id": "c", "object": "text_completion", "created": 1, "model": "gpt-3.5-turbo-instruct"}
    said = base | {"choices": [{"text": "hi", "index": 0, "logprobs": None, "finish_reason": "stop"}]}

    async def script(served: Served, writer: Any) -> None:
        if served.json.get("stream"):
            events = [
                b"data: %b\n\n" % json.dumps(one).encode() for one in (said, base | {"choices": [], "usage": usage})
            ]
            writer.write(chunked(*events, b"data: [DONE]\n\n"))
        else:
            writer.write(answer(json.dumps(said | {"usage": usage}).encode()))
        await writer.drain()

    wire.provider.script = script
    async with open_ai(wire) as client:
        got = await client.completions.create(model="gpt-3.5-turbo-instruct", prompt="a")
        assert got.choices[0].text == "hi"
        chunks = [
            one
            async for one in await client.completions.create(model="gpt-3.5-turbo-instruct", prompt="a", stream=True)
        ]
    assert [len(one.choices) for one in chunks] == [1]  # the usage was asked for by the gateway, and stays there
    assert [served.json["max_tokens"] for served in wire.provider.served] == [16, 16]
    assert wire.provider.served[1].json["stream_options"] == {"include_usage": True}
    assert await booked(wire, 2) == 2 * (5 * 1_500 + 7 * 2_000)


async def test_openai_counts_for_free_and_lists_models(wire: Wire) -> None:
    wire.provider.script = play(answer(b'{"object":"response.input_tokens","input_tokens":12}'))
    async with open_ai(wire) as client:
        got = await client.responses.input_tokens.count(model="gpt-5", input="hello", instructions="be kind")
        names = [model.id async for model in client.models.list()]
        assert (await client.models.retrieve("gpt-5")).owned_by == "openai"
        with pytest.raises(openai.NotFoundError, match="no model of that name"):
            await client.models.retrieve("gpt-99")
    assert got.input_tokens == 12
    assert "gpt-5" in names
    assert await wire.holds() == ()
    assert len(wire.provider.served) == 1


@pytest.mark.parametrize("what", ["embeddings", "completions"])
async def test_at_the_cap_openai_raises_its_typed_error_after_one_attempt(tmp_path: Path, what: str) -> None:
    keys = {"wire": {"key_env": KEY_ENV, "run": {"usd": "0.00"}}}
    async with wire_up(tmp_path, keys=keys) as wire, open_ai(wire) as client:
        ask = {
            "embeddings": lambda: client.embeddings.create(model="text-embedding-3-small", input="a"),
            "completions": lambda: client.completions.create(model="gpt-3.5-turbo-instruct", prompt="a"),
        }[what]
        with pytest.raises(openai.RateLimitError) as raised:
            await ask()
        assert raised.value.code == "cap_exhausted"
        assert len([event for event in wire.events if isinstance(event, CallDenied)]) == 1
        assert wire.provider.served == []


# ---- anthropic -------------------------------------------------------------------------------------------------------


async def test_anthropic_counts_for_free_and_lists_models(wire: Wire) -> None:
    wire.provider.script = play(answer(b'{"input_tokens":14}'))
    base_url = f"http://127.0.0.1:{wire.port}/r/r1"
    async with anthropic.AsyncAnthropic(api_key=SECRET, base_url=base_url) as client:
        hello: list[Any] = [{"role": "user", "content": "hello"}]
        got = await client.messages.count_tokens(model="claude-sonnet-4-5", messages=hello, system="be kind")
        names = [model.id async for model in client.models.list()]
        assert (await client.models.retrieve("claude-sonnet-4-5")).type == "model"
    assert got.input_tokens == 14
    assert "claude-sonnet-4-5" in names
    assert await wire.holds() == ()
    assert len(wire.provider.served) == 1
