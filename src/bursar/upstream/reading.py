"""Reads a public list or a provider's report: a GET with no body, on behalf of a command, never of an agent.

No provider sells anything for a GET, so no hold pays for it; the gateway itself has no way to here.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from bursar.upstream.http import BrokenError, ConnectError, Connection, Origin, Pool, body_of

CONNECT_SECONDS_MAX = 10.0
IDLE_SECONDS_MAX = 60.0
_SHOWN_CHARACTERS_MAX = 300
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class ReadingError(Exception):
    """The text could not be had; the message says from where and why."""


async def read_url(url: str, headers: Mapping[str, str], *, bytes_max: int, seconds_max: float) -> bytes:
    """Give the body of a 200; raises ReadingError for everything else, and never follows a redirect."""
    parts = urlsplit(url)
    if not re.fullmatch(r"https?://[!-~]+", url) or not parts.hostname or parts.username is not None:
        raise ReadingError(f"{url!r} is not a URL such as https://example.com/list.json")
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise ReadingError(f"{url} is not https: what comes in the clear can be anybody's")
    if any(not re.fullmatch(r"[ -~]*", value) for value in headers.values()):
        raise ReadingError(f"{parts.hostname}: a header has a character that no header may have; is the key whole?")
    origin = Origin.of(f"{parts.scheme}://{parts.netloc}")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = [f"GET {target} HTTP/1.1", f"host: {origin.authority}", "accept-encoding: identity", "connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    request = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
    pool = Pool(origin, CONNECT_SECONDS_MAX, IDLE_SECONDS_MAX)
    place = f"{origin.authority}{parts.path}"
    try:
        async with asyncio.timeout(seconds_max):
            connection = await pool.take()
            try:
                return await _body(connection, request, place, bytes_max)
            finally:
                connection.abort()
    except (ConnectError, BrokenError) as error:
        raise ReadingError(f"{place}: {error}") from error
    except TimeoutError as error:
        raise ReadingError(f"{place}: no whole answer in {seconds_max:.0f} seconds") from error
    finally:
        pool.close()


async def _body(connection: Connection, request: bytes, place: str, bytes_max: int) -> bytes:
    await connection.exchange(request)
    body = await body_of(connection, bytes_max)
    if connection.status != 200:
        said = " ".join(body.decode("utf-8", "replace").split())[:_SHOWN_CHARACTERS_MAX]
        raise ReadingError(f"{place}: status {connection.status} {said}".rstrip())
    return body
