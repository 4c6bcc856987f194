"""The only way to a provider: `send(hold) -> Reply`, where the hold is what pays; and `ask_free` for what is free."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from types import TracebackType

from bursar.dialects.free import FreeRequest
from bursar.dialects.protocol import Dialect
from bursar.ledger.hold import OpenHold
from bursar.upstream.free import SECONDS_MAX, FreeAnswer, read_whole
from bursar.upstream.http import BrokenError, ConnectError, Connection, Origin, Pool
from bursar.upstream.providers import Endpoint


class NotSentError(Exception):
    """The connection was never made: no byte of the request left; the hold may be voided."""


class UnansweredError(Exception):
    """The request may have been sent and no answer, or only part of one, came: the hold is captured whole."""


class Reply:
    """The provider's answer: status and headers as received, and the body in the chunks in which it arrives."""

    __slots__ = ("_connection", "_pool", "content_type", "headers", "is_stream", "status")

    def __init__(self, connection: Connection, pool: Pool) -> None:
        self._connection = connection
        self._pool = pool
        self.status = connection.status
        self.headers = connection.headers
        types = [value for name, value in self.headers if name.lower() == b"content-type"]
        self.content_type = types[-1].decode("latin-1").lower() if types else ""
        self.is_stream = self.content_type.startswith("text/event-stream")
        """Whether the body is a stream of events, to be passed on as it arrives."""

    async def chunks(self) -> AsyncIterator[bytes]:
        """Give the body as it arrives; raises UnansweredError when it ends before its end."""
        try:
            async for chunk in self._connection.chunks():
                yield chunk
        except BrokenError as error:
            raise UnansweredError(f"{error} in the middle of its answer") from error

    async def __aenter__(self) -> Reply:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A body that was not read to its end closes the connection, which tells the provider that nobody reads on.
        self._pool.give_back(self._connection)


class Upstream:
    """Sends held calls to the configured endpoints."""

    def __init__(self, endpoints: Mapping[str, Endpoint], dialects: Mapping[str, Dialect]) -> None:
        self._endpoints = dict(endpoints)
        self._dialects = dict(dialects)
        self._pools = {
            name: Pool(Origin.of(endpoint.base_url), endpoint.connect_seconds_max, endpoint.idle_seconds_max)
            for name, endpoint in endpoints.items()
        }

    async def close(self) -> None:
        """Close every connection."""
        for pool in self._pools.values():
            pool.close()

    async def send(self, hold: OpenHold) -> Reply:
        """Send what was quoted and held, once; raises NotSentError, UnansweredError or LedgerUnavailableError."""
        call = hold.quote.call
        endpoint, pool = self._endpoints[call.upstream], self._pools[call.upstream]
        body = self._dialects[call.dialect].render(call, hold.granted.output_tokens, endpoint.quirks)
        request = _head(call.head.target, call.head.headers, len(body), endpoint, pool.origin) + body
        try:
            connection = await pool.take()
        except ConnectError as error:
            raise NotSentError(f"the upstream {endpoint.name} is not reached: {error}") from error
        try:
            await hold.confirm()
            hold.dispatch()
            await connection.exchange(request)
        except BrokenError as error:
            raise UnansweredError(f"the upstream {endpoint.name} gave no answer: {error}") from error
        except BaseException:
            connection.abort()
            raise
        return Reply(connection, pool)

    async def ask_free(self, free: FreeRequest, seconds_max: float = SECONDS_MAX) -> FreeAnswer:
        """Ask what costs nothing, and read the answer whole; raises NotSentError or UnansweredError."""
        endpoint, pool = self._endpoints[free.upstream], self._pools[free.upstream]
        request = _head(free.head.target, free.head.headers, len(free.body), endpoint, pool.origin) + free.body
        try:
            async with asyncio.timeout(seconds_max):
                connection = await pool.take()
                try:
                    await connection.exchange(request)
                    return await read_whole(connection)
                finally:
                    pool.give_back(connection)  # closes one that was not read to its end
        except ConnectError as error:
            raise NotSentError(f"the upstream {endpoint.name} is not reached: {error}") from error
        except BrokenError as error:
            raise UnansweredError(f"the upstream {endpoint.name} gave no answer: {error}") from error
        except TimeoutError:
            raise UnansweredError(f"the upstream {endpoint.name} gave no answer in {seconds_max:g} seconds") from None


def _head(target: str, passed: tuple[tuple[str, str], ...], length: int, endpoint: Endpoint, origin: Origin) -> bytes:
    # The meter reads the bytes of the answer, so they must not come compressed.
    lines = [
        f"POST {origin.prefix}{target} HTTP/1.1\r\nhost: {origin.authority}\r\ncontent-length: {length}\r\n"
        "content-type: application/json\r\naccept-encoding: identity\r\n"
    ]
    lines += [f"{name}: {value}\r\n" for name, value in passed]
    if endpoint.secret:
        lines.append(f"{endpoint.provider.key_header}: {endpoint.provider.key_prefix}{endpoint.secret}\r\n")
    lines.append("\r\n")
    return "".join(lines).encode("latin-1")
