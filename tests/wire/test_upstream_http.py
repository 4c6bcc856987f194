"""What the connection to a provider does with answers that are slow, odd, cut, or more than was asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from bursar.upstream.http import (
    BUFFER_BYTES_MAX,
    HEAD_BYTES_MAX,
    BrokenError,
    ConnectError,
    Connection,
    Origin,
    Pool,
)

REQUEST = b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Counts connections, and serves each as the test says."""

    def __init__(self) -> None:
        self.connections = 0
        self.serve: Serve | None = None
        self.port = 0
        self.tasks: set[asyncio.Task[None]] = set()

    def pool(self, idle_seconds_max: float = 20.0) -> Pool:
        return Pool(Origin.of(f"http://127.0.0.1:{self.port}"), 5.0, idle_seconds_max)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        assert self.serve is not None
        task = asyncio.ensure_future(self.serve(reader, writer))
        self.tasks.add(task)
        try:
            await asyncio.wait([task])
            if not task.cancelled():
                task.result()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    listening = await asyncio.start_server(made.handle, "127.0.0.1", 0)
    made.port = listening.sockets[0].getsockname()[1]
    yield made
    listening.close()
    for task in made.tasks:
        task.cancel()
    await asyncio.gather(*made.tasks, return_exceptions=True)


def answers(*raw: bytes, then_close: bool = False) -> Serve:
    """Answer each request with these bytes, piece by piece."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            for piece in raw:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            if then_close:
                return

    return serve


async def body_of(connection: Connection) -> bytes:
    return b"".join([chunk async for chunk in connection.chunks()])


async def whole(connection: Connection) -> bytes:
    await connection.exchange(REQUEST)
    return await body_of(connection)


async def test_a_connection_whose_answer_was_read_is_used_again(server: Server) -> None:
    server.serve = answers(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
    pool = server.pool()
    for _ in range(3):
        connection = await pool.take()
        await connection.exchange(REQUEST)
        assert (connection.status, await body_of(connection)) == (200, b"hi")
        pool.give_back(connection)
    assert server.connections == 1
    pool.close()


@pytest.mark.parametrize("cut", range(1, 60, 7))
async def test_an_answer_may_arrive_in_any_pieces(server: Server, cut: int) -> None:
    raw = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nx-a: 1\r\nx-a: 2\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    server.serve = answers(raw[:cut], raw[cut:])
    pool = server.pool()
    connection = await pool.take()
    await connection.exchange(REQUEST)
    assert connection.headers[1:] == [(b"x-a", b"1"), (b"x-a", b"2")]
    assert await body_of(connection) == b"abcde"
    assert connection.can_be_kept
    connection.abort()


@pytest.mark.parametrize("status", [200, 307, 404, 429, 529, 999])
async def test_any_status_is_passed_on_and_none_is_followed(server: Server, status: int) -> None:
    server.serve = answers(b"HTTP/1.1 %d X\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n" % status)
    connection = await server.pool().take()
    await connection.exchange(REQUEST)
    assert (connection.status, await body_of(connection)) == (status, b"")
    connection.abort()
    assert server.connections == 1


async def test_interim_answers_are_not_the_answer(server: Server) -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"
    server.serve = answers(interim, b"HTTP/1.1 201 Created\r\ncontent-length: 1\r\nx-b: 1\r\n\r\n!")
    connection = await server.pool().take()
    await connection.exchange(REQUEST)
    assert (connection.status, await body_of(connection)) == (201, b"!")
    assert connection.headers == [(b"content-length", b"1"), (b"x-b", b"1")]
    connection.abort()


async def test_a_body_without_a_length_ends_with_its_connection(server: Server) -> None:
    server.serve = answers(b"HTTP/1.1 200 OK\r\n\r\nto the", b" end", then_close=True)
    connection = await server.pool().take()
    await connection.exchange(REQUEST)
    assert await body_of(connection) == b"to the end"
    assert not connection.can_be_kept


async def test_a_status_without_a_body_needs_no_length(server: Server) -> None:
    server.serve = answers(b"HTTP/1.1 204 No Content\r\n\r\n")
    connection = await server.pool().take()
    await connection.exchange(REQUEST)
    assert await body_of(connection) == b""
    connection.abort()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\nbad header\r\n\r\n",
    ],
)
async def test_an_answer_that_is_cut_or_is_none_breaks(server: Server, raw: bytes) -> None:
    server.serve = answers(raw, then_close=True)
    connection = await server.pool().take()
    with pytest.raises(BrokenError):
        await whole(connection)
    assert not connection.can_be_kept


async def test_bytes_after_the_answer_end_the_connection(server: Server) -> None:
    ok = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"
    server.serve = answers(ok + b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nbad")
    pool = server.pool()
    connection = await pool.take()
    await connection.exchange(REQUEST)
    assert await body_of(connection) == b"hi"
    pool.give_back(connection)
    other = await pool.take()
    assert other is not connection
    other.abort()


async def test_a_head_without_end_is_not_read_for_ever(server: Server) -> None:
    async def endless(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"x-header: " + b"y" * 4000 + b"\r\n")
            await writer.drain()

    server.serve = endless
    connection = await server.pool().take()
    with pytest.raises(BrokenError):
        await connection.exchange(REQUEST)
    assert sum(len(name) + len(value) for name, value in connection.headers) < 2 * HEAD_BYTES_MAX + 65_536


async def test_a_slow_reader_makes_the_provider_wait(server: Server) -> None:
    sent = 0
    stalled = asyncio.Event()

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n")
        while True:
            writer.write(b"z" * 65_536)
            sent += 65_536
            drained = asyncio.ensure_future(writer.drain())
            done, _ = await asyncio.wait([drained], timeout=0.5)
            if not done:
                stalled.set()
            await drained

    server.serve = endless
    connection = await server.pool().take()
    await connection.exchange(REQUEST)
    await asyncio.wait_for(stalled.wait(), 20)
    assert connection._buffered < BUFFER_BYTES_MAX + 2 * 262_144
    assert sent < 50_000_000
    chunks = connection.chunks()
    read = 0
    while read < sent:
        read += len(await anext(chunks))
    connection.abort()


@pytest.mark.parametrize("raw", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab"])
async def test_silence_breaks(server: Server, raw: bytes) -> None:
    server.serve = answers(raw)
    connection = await server.pool(idle_seconds_max=0.05).take()
    with pytest.raises(BrokenError, match="silent"):
        await whole(connection)


async def test_where_nobody_listens_nothing_is_sent() -> None:
    with pytest.raises(ConnectError, match=r"127\.0\.0\.1:1"):
        await Pool(Origin.of("http://127.0.0.1:1"), 5.0, 5.0).take()


async def test_a_server_that_speaks_no_tls_is_not_sent_to(server: Server) -> None:
    server.serve = answers(b"HTTP/1.1 400 Bad\r\n\r\n", then_close=True)
    with pytest.raises(ConnectError):
        await Pool(Origin.of(f"https://127.0.0.1:{server.port}"), 5.0, 5.0).take()


async def test_a_connection_that_the_server_closed_is_not_used_again(server: Server) -> None:
    server.serve = answers(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi", then_close=True)
    pool = server.pool()
    for expected in (1, 2):
        connection = await pool.take()
        await connection.exchange(REQUEST)
        assert await body_of(connection) == b"hi"
        pool.give_back(connection)
        while connection.is_usable:
            await asyncio.sleep(0)
        assert server.connections == expected


@pytest.mark.parametrize(
    ("url", "authority", "prefix"),
    [
        ("https://api.openai.com", "api.openai.com", ""),
        ("http://localhost:11434", "localhost:11434", ""),
        ("https://gw.example.com:8443/openai/", "gw.example.com:8443", "/openai"),
        ("http://[::1]:80", "[::1]", ""),
    ],
)
def test_an_origin_is_read_from_its_url(url: str, authority: str, prefix: str) -> None:
    origin = Origin.of(url)
    assert (origin.authority, origin.prefix) == (authority, prefix)
