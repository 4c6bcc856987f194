"""Lists and reports are read from real servers, whole or not at all."""

from __future__ import annotations

import asyncio

import pytest
from scripted import Served, provider

from bursar.upstream.reading import ReadingError, read_url

HEAD = "HTTP/1.1 {} X\r\ncontent-length: {}\r\n\r\n"


async def read(
    status: str, body: bytes, *, bytes_max: int = 1000, path: str = "/list?a=b&a[]=c"
) -> tuple[bytes, Served]:
    async def script(served: Served, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD.format(status, len(body)).encode() + body)
        await writer.drain()

    async with provider() as made:
        made.script = script
        got = await read_url(f"{made.url}{path}", {"x-api-key": "k"}, bytes_max=bytes_max, seconds_max=30)
    return got, made.served[0]


async def test_a_list_is_got_with_its_query_and_headers_and_no_body() -> None:
    body, served = await read("200", b"[1]")
    assert body == b"[1]"
    assert served.head.startswith("GET /list?a=b&a[]=c HTTP/1.1\r\n")
    assert served.header("x-api-key") == "k"
    assert served.body == b""
    _, root = await read("200", b"x", path="")
    assert root.path == "/"


@pytest.mark.parametrize("status", ["301", "302", "304", "401", "404", "500"])
async def test_anything_but_200_is_an_error_with_what_was_said(status: str) -> None:
    with pytest.raises(ReadingError, match=rf"/list: status {status}"):
        await read(status, b"")
    if status != "304":
        with pytest.raises(ReadingError, match=rf"status {status} no such key"):
            await read(status, b"no\n such  key")


async def test_a_list_that_is_too_long_is_an_error() -> None:
    assert await read("200", b"x" * 10, bytes_max=10)
    with pytest.raises(ReadingError, match="longer than 9 bytes"):
        await read("200", b"x" * 10, bytes_max=9)


async def test_an_answer_that_breaks_off_or_never_comes_is_an_error() -> None:
    async def half(served: Served, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf")
        writer.close()

    async def silence(served: Served, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with provider() as made:
        made.script = half
        with pytest.raises(ReadingError, match="broke the connection"):
            await read_url(f"{made.url}/list", {}, bytes_max=10, seconds_max=30)
        made.script = silence
        with pytest.raises(ReadingError, match="no whole answer in 0 seconds"):
            await read_url(f"{made.url}/list", {}, bytes_max=10, seconds_max=0.01)
    with pytest.raises(ReadingError, match="cannot connect"):
        await read_url(f"{made.url}/list", {}, bytes_max=10, seconds_max=30)


@pytest.mark.parametrize(
    ("url", "headers", "why"),
    [
        ("ftp://example.com/x", {}, "is not a URL"),
        ("https:///x", {}, "is not a URL"),
        ("https://user@example.com/x", {}, "is not a URL"),
        ("https://example.com/a b", {}, "is not a URL"),
        ("http://example.com/x", {}, "is not https"),
        ("https://example.com/x", {"x-api-key": "k\r\nhost: evil"}, "is the key whole?"),
        ("https://example.com/x", {"x-api-key": "kéy"}, "is the key whole?"),
    ],
)
async def test_what_would_not_be_safe_to_send_is_not_sent(url: str, headers: dict[str, str], why: str) -> None:
    with pytest.raises(ReadingError, match=why.replace("?", r"\?")):
        await read_url(url, headers, bytes_max=10, seconds_max=30)
