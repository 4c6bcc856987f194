"""The only way to a provider: `send(hold) -> Reply`, where the hold is what pays; and `ask_free` for what is free."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from types import TracebackType

from bursar.call import Head
from bursar.dialects import bedrock_frames
from bursar.dialects.bedrock_frames import FrameError
from bursar.dialects.free import FreeRequest
from bursar.dialects.protocol import Dialect
from bursar.ledger.hold import OpenHold
from bursar.upstream.aws_events import AwsEvents
from bursar.upstream.free import SECONDS_MAX, FreeAnswer, read_whole
from bursar.upstream.http import BrokenError, ConnectError, Connection, Origin, Pool
from bursar.upstream.outgoing import NoWayError, quirks_for, request_bytes, target_of
from bursar.upstream.providers import Endpoint
from bursar.upstream.signing import SigningError


class NotSentError(Exception):
    """The connection was never made: no byte of the request left; the hold may be voided."""


class UnansweredError(Exception):
    """The request may have been sent and no answer, or only part of one, came: the hold is captured whole."""


class Reply:
    """The provider's answer: status and headers as received, and the body in the chunks in which it arrives."""

    __slots__ = ("_connection", "_events", "_pool", "content_type", "headers", "is_stream", "status")

    def __init__(self, connection: Connection, pool: Pool, was_streamed: bool, keeps_frames: bool) -> None:
        self._connection = connection
        self._events: AwsEvents | None = None
        self._pool = pool
        self.status = connection.status
        self.headers = connection.headers
        types = [value for name, value in self.headers if name.lower() == b"content-type"]
        self.content_type = types[-1].decode("latin-1").lower() if types else ""
        is_framed = self.content_type.startswith(bedrock_frames.CONTENT_TYPE)
        if is_framed and not keeps_frames:
            # Clients of the wire format know server-sent events only.
            self._events, self.content_type = AwsEvents(), "text/event-stream"
            others = [
                header for header in self.headers if header[0].lower() not in (b"content-type", b"content-length")
            ]
            self.headers = [*others, (b"content-type", b"text/event-stream")]
        # Google streams a JSON array where no events were asked for; what was finished before it is sent has a length.
        has_length = any(name.lower() == b"content-length" for name, _ in self.headers)
        is_array = was_streamed and not has_length and 200 <= self.status < 300
        self.is_stream = is_array or is_framed or self.content_type.startswith("text/event-stream")
        """Whether the body comes in pieces, to be passed on as they arrive."""

    async def chunks(self) -> AsyncIterator[bytes]:
        """Give the body as it arrives; raises UnansweredError when it ends before its end."""
        try:
            async for chunk in self._connection.chunks():
                if self._events is None:
                    yield chunk
                elif events := self._events.feed(chunk):
                    yield events
            if self._events is not None:
                self._events.finish()
        except (BrokenError, FrameError) as error:
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
        quirks = quirks_for(endpoint, hold.quote)
        body = self._dialects[call.dialect].render(call, hold.granted.output_tokens, quirks)
        request = await _request(endpoint, pool.origin, call.head, call.model, call.stream, body)
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
        return Reply(connection, pool, call.stream, call.dialect in bedrock_frames.DIALECTS)

    async def ask_free(self, free: FreeRequest, seconds_max: float = SECONDS_MAX) -> FreeAnswer:
        """Ask what costs nothing, and read the answer whole; raises NotSentError or UnansweredError."""
        endpoint, pool = self._endpoints[free.upstream], self._pools[free.upstream]
        request = await _request(endpoint, pool.origin, free.head, free.model, False, free.body)
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


async def _request(endpoint: Endpoint, origin: Origin, head: Head, model: str, stream: bool, body: bytes) -> bytes:
    """Give the request as it will be sent; raises NotSentError."""
    try:
        target = target_of(endpoint, head, model, stream)
        return await request_bytes(endpoint, origin, target, head.headers, body)
    except (NoWayError, SigningError) as error:
        raise NotSentError(str(error)) from error
