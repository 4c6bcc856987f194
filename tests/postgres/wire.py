"""A way to a PostgreSQL server that a test can cut at any message, close, or turn into a pooler in transaction mode."""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass
from typing import Self

SSL_REQUEST = 80877103


@dataclass
class Cut:
    """Where to cut: at the request that is so many after the next BEGIN (which is 0), with its reply or without."""

    request: int
    with_reply: bool
    """True: the server has done it, and only its reply is lost."""
    count: int = -1
    is_done: bool = False


class Wire:
    """Listens on a port of its own and passes everything on, message by message."""

    def __init__(self, server_port: int) -> None:
        self.port = 0
        self.is_open = True
        """Whether new connections come through."""
        self.pools = False
        """Whether every transaction goes to another session of the server."""
        self.cut_at: Cut | None = None
        self._server_port = server_port
        self._lines: set[_Line] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await asyncio.gather(*(line.ended.wait() for line in set(self._lines)))
        await self._server.wait_closed()

    def url(self, url: str) -> str:
        """Give the URL of a database by this way."""
        return url.replace(f":{self._server_port}/", f":{self.port}/")

    def cut(self) -> None:
        """Cut everything that goes through at the moment."""
        for line in set(self._lines):
            line.cut()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = _Line(self, reader, writer)
        self._lines.add(line)
        try:
            if self.is_open:
                await line.run(self._server_port)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            line.cut()
            self._lines.discard(line)
            line.ended.set()


class _Line:
    """One client and its session, or its two sessions behind a pooler."""

    def __init__(self, wire: Wire, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.ended = asyncio.Event()
        self._wire = wire
        self._reader, self._writer = reader, writer
        self._sessions: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._current = 0
        self._is_swallowing = False

    def cut(self) -> None:
        for writer in (self._writer, *(writer for _, writer in self._sessions)):
            writer.transport.abort()

    async def run(self, port: int) -> None:
        startup = await self._startup()
        for number in range(2 if self._wire.pools else 1):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            self._sessions.append((reader, writer))
            writer.write(startup)
            await self._greet(reader, is_heard=number == 0)
        self._tasks = [asyncio.create_task(self._back(number)) for number in range(len(self._sessions))]
        try:
            await self._forth()
        finally:
            self.cut()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _startup(self) -> bytes:
        while True:
            head = await self._reader.readexactly(8)
            length, code = struct.unpack("!II", head)
            rest = await self._reader.readexactly(length - 8)
            if code != SSL_REQUEST:
                return head + rest
            self._writer.write(b"N")

    async def _greet(self, reader: asyncio.StreamReader, *, is_heard: bool) -> None:
        while True:
            message = await _message(reader)
            if is_heard:
                self._writer.write(message)
            if message[:1] == b"Z":
                return

    async def _forth(self) -> None:
        while True:
            message = await _message(self._reader)
            cut = self._wire.cut_at
            if cut is not None and not cut.is_done and message[:1] in b"QS" and self._is_there(cut, message):
                cut.is_done = True
                if not cut.with_reply:
                    return
                self._is_swallowing = True
            self._sessions[self._current][1].write(message)

    def _is_there(self, cut: Cut, message: bytes) -> bool:
        if message[5:10].upper() == b"BEGIN":
            cut.count = 0
        elif cut.count >= 0:
            cut.count += 1
        return cut.count == cut.request

    async def _back(self, number: int) -> None:
        reader = self._sessions[number][0]
        try:
            while True:
                message = await _message(reader)
                if not self._is_swallowing:
                    self._writer.write(message)
                if message[:1] == b"Z":
                    if self._is_swallowing:
                        self.cut()
                    if message[5:6] == b"I" and len(self._sessions) > 1:
                        self._current = 1 - self._current
        except (OSError, asyncio.IncompleteReadError):
            self.cut()


async def _message(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(5)
    return head + await reader.readexactly(struct.unpack("!I", head[1:])[0] - 4)
