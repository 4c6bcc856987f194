"""The only importer of the HTTP client: `send(hold) -> Reply`, where the hold is what pays."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from types import TracebackType

import aiohttp
from yarl import URL

from bursar.dialects.protocol import Dialect
from bursar.ledger.hold import OpenHold
from bursar.money import BrokenInvariantError
from bursar.upstream.providers import Endpoint

HEAD_LINE_BYTES_MAX = 65_536
READ_BUFFER_BYTES = 65_536
# Shorter than what servers commonly keep, so that a pooled connection is rarely one that the server just closed.
KEEPALIVE_SECONDS = 15.0
DNS_CACHE_SECONDS = 30


class NotSentError(Exception):
    """The connection was never made: no byte of the request left; the hold may be voided."""


class UnansweredError(Exception):
    """The request may have been sent and no answer, or only part of one, came: the hold is captured whole."""


class Reply:
    """The provider's answer: status and headers as received, and the body in the chunks in which it arrives."""

    __slots__ = ("_response", "content_type", "headers", "status")

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.headers: list[tuple[bytes, bytes]] = list(response.raw_headers)
        self.content_type = response.headers.get("content-type", "").lower()

    @property
    def is_stream(self) -> bool:
        """Whether the body is a stream of events, to be passed on as it arrives."""
        return self.content_type.startswith("text/event-stream")

    async def chunks(self) -> AsyncIterator[bytes]:
        """Give the body as it arrives; raises UnansweredError when it ends before its end."""
        try:
            async for chunk in self._response.content.iter_any():
                yield chunk
        except TimeoutError as error:
            raise UnansweredError("the provider went silent in the middle of its answer") from error
        except (aiohttp.ClientError, OSError) as error:
            raise UnansweredError("the connection broke in the middle of the provider's answer") from error

    async def __aenter__(self) -> Reply:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A body that was read to its end gives its connection back; any other closes it, which tells the provider.
        self._response.close()


class Upstream:
    """Sends held calls to the configured endpoints."""

    def __init__(self, endpoints: Mapping[str, Endpoint], dialects: Mapping[str, Dialect]) -> None:
        self._endpoints = dict(endpoints)
        self._dialects = dict(dialects)
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Open the connection pool; belongs in the running event loop."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, ttl_dns_cache=DNS_CACHE_SECONDS, keepalive_timeout=KEEPALIVE_SECONDS
            ),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            read_bufsize=READ_BUFFER_BYTES,
            max_line_size=HEAD_LINE_BYTES_MAX,
            max_field_size=HEAD_LINE_BYTES_MAX,
        )

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()

    async def send(self, hold: OpenHold) -> Reply:
        """Send what was quoted and held, once; raises NotSentError or UnansweredError."""
        call = hold.quote.call
        endpoint = self._endpoints[call.upstream]
        body = self._dialects[call.dialect].render(call, hold.granted.output_tokens, endpoint.quirks)
        pool = self._pool()
        hold.dispatch()
        try:
            response = await pool.request(
                "POST",
                URL(endpoint.base_url + call.head.target, encoded=True),
                data=body,
                headers=_head(call.head.headers, endpoint),
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(
                    total=endpoint.total_seconds_max,
                    sock_connect=endpoint.connect_seconds_max,
                    sock_read=endpoint.idle_seconds_max,
                ),
            )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise NotSentError(f"cannot connect to the upstream {endpoint.name}") from error
        except TimeoutError as error:
            raise UnansweredError(f"the upstream {endpoint.name} did not answer in time") from error
        except (aiohttp.ClientError, OSError) as error:
            raise UnansweredError(f"the upstream {endpoint.name} broke the connection before it answered") from error
        return Reply(response)

    def _pool(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise BrokenInvariantError("an upstream is started before it sends")
        return self._session


def _head(passed: tuple[tuple[str, str], ...], endpoint: Endpoint) -> list[tuple[str, str]]:
    # The meter reads the bytes, so they must not come compressed.
    head = [*passed, ("accept-encoding", "identity"), ("content-type", "application/json")]
    if endpoint.secret:
        head.append((endpoint.provider.key_header, endpoint.provider.key_prefix + endpoint.secret))
    return head
