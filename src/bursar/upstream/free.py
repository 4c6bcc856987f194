"""What comes back from a request that costs nothing: the whole answer, bounded in bytes and in time."""

from __future__ import annotations

from dataclasses import dataclass

from bursar.upstream.http import Connection, body_of

BYTES_MAX = 1_048_576
"""No count is longer; an answer that is gets cut off, and is none."""
SECONDS_MAX = 30.0


@dataclass(frozen=True, slots=True)
class FreeAnswer:
    """The provider's whole answer."""

    status: int
    content_type: str
    body: bytes


async def read_whole(connection: Connection) -> FreeAnswer:
    """Read the answer to its end; raises BrokenError when it has none, or none within the bound."""
    types = [value for name, value in connection.headers if name.lower() == b"content-type"]
    body = await body_of(connection, BYTES_MAX)
    return FreeAnswer(connection.status, types[-1].decode("latin-1") if types else "", body)
