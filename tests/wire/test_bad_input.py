"""Bad input gets a clear 4xx, and neither money nor a byte leaves."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

import pytest
from bodies import CHAT, FORMATS, MESSAGES, RESPONSES, Format
from conftest import SECRET, Wire
from scripted import exchange, read_answer, request

by_format = pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)
BOUND = {"chat": "max_tokens", "responses": "max_output_tokens", "messages": "max_tokens"}


async def expect_refused(wire: Wire, fmt: Format, body: object, *mentions: str, **headers: str) -> None:
    got = await wire.post(fmt.path, body, **headers)
    assert 400 <= got.status < 500, got
    message = got.json["error"]["message"]  # type: ignore[index]
    for mention in mentions:
        assert mention in message, message
    assert wire.provider.served == []
    assert await wire.holds() == ()


@by_format
@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b"{}{}", b'{"model": NaN}', b"[" * 100_000, b"\xef\xbb\xbf{}"],
    ids=["empty", "open", "array", "null", "string", "not utf-8", "two values", "NaN", "deep", "byte order mark"],
)
async def test_malformed_json(wire: Wire, fmt: Format, body: bytes) -> None:
    await expect_refused(wire, fmt, body)


@by_format
@pytest.mark.parametrize("value", [-1, 10**9, 10**30, 1.5, "100", True, [], {}])
async def test_an_output_bound_that_is_none(wire: Wire, fmt: Format, value: Any) -> None:
    await expect_refused(wire, fmt, fmt.request | {BOUND[fmt.name]: value}, BOUND[fmt.name])


@by_format
@pytest.mark.parametrize("value", ["", 7, None, [], "x" * 2000, "gpt\n4"])
async def test_a_model_that_is_none(wire: Wire, fmt: Format, value: Any) -> None:
    await expect_refused(wire, fmt, fmt.request | {"model": value}, "model")


@by_format
async def test_a_missing_model(wire: Wire, fmt: Format) -> None:
    await expect_refused(wire, fmt, {k: v for k, v in fmt.request.items() if k != "model"}, "model")


@by_format
async def test_a_field_nobody_knows_is_named_with_the_way_to_allow_it(wire: Wire, fmt: Format) -> None:
    await expect_refused(wire, fmt, fmt.request | {"turbo": 9}, "turbo", "allow_fields")


@by_format
async def test_a_key_that_occurs_twice(wire: Wire, fmt: Format) -> None:
    body = json.dumps(fmt.request)[:-1] + ', "model": "gpt-4.1-nano"}'
    await expect_refused(wire, fmt, body.encode(), "model")


@by_format
async def test_wrong_types(wire: Wire, fmt: Format) -> None:
    name = "input" if fmt is RESPONSES else "messages"
    await expect_refused(wire, fmt, fmt.request | {name: 7})
    await expect_refused(wire, fmt, fmt.request | {"stream": "yes"}, "stream")


@pytest.mark.parametrize(
    ("fmt", "field", "value"),
    [
        (CHAT, "n", 0),
        (CHAT, "n", -3),
        (CHAT, "web_search_options", {}),
        (CHAT, "modalities", ["text", "audio"]),
        (RESPONSES, "background", True),
        (RESPONSES, "tools", [{"type": "web_search"}]),
        (RESPONSES, "tools", [{"type": "mcp", "server_label": "x", "server_url": "https://x"}]),
        (MESSAGES, "tools", [{"type": "web_search_20250305", "name": "web_search"}]),
        (MESSAGES, "mcp_servers", [{"type": "url", "url": "https://x", "name": "x"}]),
        (MESSAGES, "container", "c"),
    ],
    ids=str,
)
async def test_what_nothing_bounds_is_refused_by_name(wire: Wire, fmt: Format, field: str, value: Any) -> None:
    await expect_refused(wire, fmt, fmt.request | {field: value}, "tool type" if field == "tools" else field)


async def test_a_compressed_body(wire: Wire) -> None:
    body = gzip.compress(json.dumps(CHAT.request).encode())
    await expect_refused(wire, CHAT, body, "compressed", content_encoding="gzip")


async def test_a_body_of_50_megabytes_is_refused_by_its_length(wire: Wire) -> None:
    raw = request(CHAT.path, b"", {"authorization": f"Bearer {SECRET}"}).replace(
        b"content-length: 0", b"content-length: 50000000"
    )
    assert (await exchange(wire.port, raw)).status == 413
    assert await wire.holds() == ()


async def test_a_body_of_50_megabytes_in_chunks_is_refused_while_it_comes(wire: Wire) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
    head = f"POST {CHAT.path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {SECRET}\r\n"
    writer.write(f"{head}transfer-encoding: chunked\r\n\r\n".encode())
    chunk = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
    answer = asyncio.create_task(read_answer(reader))
    for _ in range(50):
        if answer.done():
            break
        try:
            writer.write(chunk)
            await writer.drain()
        except ConnectionError:
            break
        await asyncio.sleep(0)
    assert (await answer).status == 413
    writer.close()
    assert await wire.holds() == ()


@pytest.mark.parametrize("name", ["authorization", "x-bursar-run", "content-type", "x-session-id", "anthropic-beta"])
async def test_a_header_that_occurs_twice(wire: Wire, name: str) -> None:
    raw = wire.raw(CHAT.path, CHAT.request).replace(b"\r\n\r\n", f"\r\n{name}: a\r\n{name}: b\r\n\r\n".encode(), 1)
    got = await exchange(wire.port, raw)
    assert (got.status, wire.provider.served) == (400, [])
    assert name in got.json["error"]["message"]  # type: ignore[index]


async def test_a_length_and_chunks_at_once_are_refused(wire: Wire) -> None:
    raw = wire.raw(CHAT.path, CHAT.request, transfer_encoding="chunked")
    got = await exchange(wire.port, raw)
    assert (got.status, wire.provider.served) == (400, [])


async def test_without_the_provider_key_the_message_names_the_variable(wire: Wire) -> None:
    wire.gateway._parts.missing_keys["openai"] = "set WIRE_OPENAI where bursar runs"  # type: ignore[index]
    await expect_refused(wire, CHAT, CHAT.request, "WIRE_OPENAI")


async def test_a_body_of_20_megabytes_passes_to_the_context_check(wire: Wire) -> None:
    body = CHAT.request | {"messages": [{"role": "user", "content": "x" * 20_000_000}]}
    got = await wire.post(CHAT.path, body, x_bursar_run="r1")
    # It is read and quoted: at most the context window of a million tokens is due, $0.40 of the $1.00.
    assert got.status == 502
    assert len(wire.provider.served) == 1
