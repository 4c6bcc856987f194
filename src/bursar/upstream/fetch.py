"""One request to a server that makes credentials or takes news, over our own connections; never a model call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from bursar.upstream.http import BrokenError, ConnectError, Origin, Pool, body_of

ANSWER_BYTES_MAX = 1_048_576
SECONDS_MAX = 30.0
CONNECT_SECONDS_MAX = 10.0


class FetchError(Exception):
    """No answer, or none within the bounds."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """An answer read whole; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    data: bytes


Fetch = Callable[[str, str, Mapping[str, str], bytes], Coroutine[Any, Any, Fetched]]


async def fetch(method: str, url: str, headers: Mapping[str, str], body: bytes) -> Fetched:
    """Send one request on a connection of its own and read the answer; raises FetchError."""
    origin = Origin.of(url)
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    # What the connection itself decides is not the caller's.
    own = {"host": origin.authority, "content-length": str(len(body)), "accept-encoding": "identity"}
    lines = {**{name.lower(): value for name, value in headers.items()}, **own}
    head = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    pool = Pool(origin, CONNECT_SECONDS_MAX, SECONDS_MAX)
    try:
        async with asyncio.timeout(SECONDS_MAX):
            connection = await pool.take()
            try:
                await connection.exchange(f"{head}\r\n".encode("latin-1") + body)
                data = await body_of(connection, ANSWER_BYTES_MAX)
            finally:
                connection.abort()
    except (ConnectError, BrokenError, TimeoutError) as error:
        raise FetchError(f"{origin.authority} gave no answer: {str(error) or 'it took too long'}") from error
    answered = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in connection.headers}
    return Fetched(connection.status, answered, data)
