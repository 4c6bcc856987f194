"""The load: closed loop, open loop, streams and slow streams; `wrk` where it is installed, else raw asyncio."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, cast

import httptools

PROMPT_BYTES = 4096
OUTPUT_TOKENS_MAX = 300
IDLE_SECONDS_MAX = 2
OPENING_SECONDS_MAX = 90


class WrongAnswerError(RuntimeError):
    """A proxy answered something else than the upstream's answer; its figures would mean nothing."""


@dataclass(frozen=True)
class Target:
    """Where the calls go; the name is a row of the table."""

    name: str
    port: int
    path: str = "/v1/chat/completions"
    key: str = "sk-bench"
    model: str = "gpt-4o-mini"

    def body(self, *, stream: bool, note: str = "") -> bytes:
        """Give a chat call of 4 kB."""
        call: dict[str, object] = {"model": self.model, "max_tokens": OUTPUT_TOKENS_MAX}
        if stream:
            call["stream"] = True
        call["messages"] = [
            {"role": "system", "content": "You keep the books." + note},
            {"role": "user", "content": ""},
        ]
        missing = PROMPT_BYTES - len(json.dumps(call))
        call["messages"][1]["content"] = ("Where did the money go this time? " * 200)[:missing]  # type: ignore[index]
        return json.dumps(call).encode()

    def request(self, *, stream: bool = False, note: str = "", key: str = "") -> bytes:
        body = self.body(stream=stream, note=note)
        head = [f"POST {self.path} HTTP/1.1", f"host: 127.0.0.1:{self.port}", "content-type: application/json"]
        head += [f"authorization: Bearer {key or self.key}", "user-agent: bench", f"content-length: {len(body)}"]
        return "\r\n".join([*head, "", ""]).encode() + body


@dataclass
class Answer:
    status: int
    events: int
    body: bytes


class Connection(asyncio.Protocol):
    """One keep-alive connection, one request at a time."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser
        self._done: asyncio.Future[Answer]
        self._body = bytearray()
        self.first_byte: asyncio.Future[None]
        self.idle_since = self._loop.time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its base class

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        for waiting in (getattr(self, "_done", None), getattr(self, "first_byte", None)):
            if waiting is not None and not waiting.done():
                waiting.set_exception(WrongAnswerError(f"connection lost: {exc}"))
                waiting.exception()

    def ask(self, request: bytes) -> asyncio.Future[Answer]:
        assert self._transport is not None, "the connection is closed"
        self._parser = httptools.HttpResponseParser(self)
        self._body = bytearray()
        self._done, self.first_byte = self._loop.create_future(), self._loop.create_future()
        self._transport.write(request)
        return self._done

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body += body
        if not self.first_byte.done():
            self.first_byte.set_result(None)

    def on_message_complete(self) -> None:
        self.idle_since = self._loop.time()
        body = bytes(self._body)
        if not self._done.done():
            self._done.set_result(Answer(self._parser.get_status_code(), body.count(b"\n\n"), body))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class Connections:
    """As many connections as are asked for, closed at the end."""

    def __init__(self, target: Target, count: int) -> None:
        self._target, self._count = target, count
        self._all: list[Connection] = []

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for _ in range(self._count):
            _, connection = await loop.create_connection(Connection, "127.0.0.1", self._target.port)
            self._all.append(connection)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        for connection in self._all:
            connection.close()
        await asyncio.sleep(0)

    async def fresh(self, connection: Connection) -> Connection:
        """Give the connection, or a new one when it was idle so long that the server may be closing it just now."""
        loop = asyncio.get_running_loop()
        if loop.time() - connection.idle_since < IDLE_SECONDS_MAX:
            return connection
        connection.close()
        _, new = await loop.create_connection(Connection, "127.0.0.1", self._target.port)
        self._all.append(new)
        return new

    def __iter__(self) -> Iterator[Connection]:
        return iter(self._all)


def _right(answer: Answer, target: Target) -> Answer:
    if answer.status != 200:
        raise WrongAnswerError(f"{target.name} answered {answer.status}: {answer.body[:400]!r}")
    return answer


async def ask_once(target: Target, *, stream: bool = False, key: str = "") -> Answer:
    async with Connections(target, 1) as connections:
        (connection,) = connections
        return await asyncio.wait_for(connection.ask(target.request(stream=stream, key=key)), 60)


def generator() -> str:
    return "wrk" if shutil.which("wrk") else "asyncio"


async def closed_loop(target: Target, connections: int, seconds: float) -> tuple[int, float]:
    """Keep every connection busy; give the calls that were answered and the seconds it took."""
    if shutil.which("wrk"):
        return await _wrk(target, connections, seconds)
    answered = 0
    request = target.request()
    start = time.perf_counter()

    async def loop(connection: Connection) -> None:
        nonlocal answered
        while time.perf_counter() - start < seconds:
            _right(await connection.ask(request), target)
            answered += 1

    async with Connections(target, connections) as opened:
        await asyncio.gather(*map(loop, opened))
    return answered, time.perf_counter() - start


async def _wrk(target: Target, connections: int, seconds: float) -> tuple[int, float]:
    script = "\n".join(
        [
            'wrk.method = "POST"',
            f"wrk.body = {json.dumps(target.body(stream=False).decode())}",
            'wrk.headers["content-type"] = "application/json"',
            f'wrk.headers["authorization"] = "Bearer {target.key}"',
        ]
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "call.lua"
        path.write_text(script, encoding="utf-8")
        options = ["-t1", f"-c{connections}", f"-d{seconds:.0f}s", "--timeout", "30s", "-s", str(path)]
        process = await asyncio.create_subprocess_exec(
            "wrk", *options, f"http://127.0.0.1:{target.port}{target.path}", stdout=asyncio.subprocess.PIPE
        )
        out = (await process.communicate())[0].decode()
    if process.returncode or "Non-2xx" in out or "Socket errors" in out:
        raise WrongAnswerError(f"{target.name}: {out}")
    answered, took = re.search(r"(\d+) requests in ([\d.]+)(ms|s|m)", out).group(1, 2)  # type: ignore[union-attr]
    return int(answered), float(took)


async def open_loop(target: Target, per_second: int, seconds: float) -> list[float]:
    """Send at a fixed pace whatever the answers do; give the milliseconds from when each call was due."""
    request = target.request()
    async with Connections(target, 32) as connections:
        idle = list(connections)
        pending: list[asyncio.Task[float]] = []
        start = time.perf_counter()

        async def call(due: float) -> float:
            while not idle:
                await asyncio.sleep(0.001)
            connection = await connections.fresh(idle.pop())
            _right(await connection.ask(request), target)
            idle.append(connection)
            return (time.perf_counter() - due) * 1000

        for number in range(int(per_second * seconds)):
            due = start + number / per_second
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            pending.append(asyncio.create_task(call(due)))
        return list(await asyncio.gather(*pending))


async def streams(target: Target, count: int, events: int, pause_ms: int) -> int:
    """Read this many streams to their end, all at once; give the events that came."""
    request = target.request(stream=True, note=f" @events={events} @slow={pause_ms}")
    async with Connections(target, count) as connections:
        answers = await asyncio.gather(*(connection.ask(request) for connection in connections))
    for answer in answers:
        if _right(answer, target).events < events or b"[DONE]" not in answer.body:
            raise WrongAnswerError(f"{target.name} gave {answer.events} events of {events}")
    return sum(answer.events for answer in answers)


class SlowStreams:
    """Streams that give one event a second, held open; `opened` says how many gave their first one in time."""

    def __init__(self, target: Target, count: int) -> None:
        self._target, self._connections = target, Connections(target, count)
        self.opened = 0

    async def __aenter__(self) -> Self:
        await self._connections.__aenter__()
        request = self._target.request(stream=True, note=" @events=100000 @slow=1000")
        for connection in self._connections:
            connection.ask(request)
        first = [connection.first_byte for connection in self._connections]
        done, _ = await asyncio.wait(first, timeout=OPENING_SECONDS_MAX)
        self.opened = sum(one.exception() is None for one in done)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        await self._connections.__aexit__(kind, error, trace)


def percentile(samples: list[float], percent: int) -> float:
    return statistics.quantiles(samples, n=100, method="inclusive")[percent - 1]
