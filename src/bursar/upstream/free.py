"""What comes back from a request that costs nothing: the whole answer, bounded in bytes and in time."""

from __future__ import annotations

from dataclasses import dataclass

from bursar.upstream.http import BrokenError, Connection

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
    body = bytearray()
    async for chunk in connection.chunks():
        body += chunk
        if len(body) > BYTES_MAX:
            raise BrokenError(f"the answer is longer than {BYTES_MAX} bytes")
    return FreeAnswer(connection.status, types[-1].decode("latin-1") if types else "", bytes(body))
