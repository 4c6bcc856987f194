"""AWS event-stream frames, made by the words of the standard."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Iterable

CHUNK = {":event-type": "chunk", ":content-type": "application/json", ":message-type": "event"}


def frame(headers: dict[str, str], payload: bytes) -> bytes:
    head = b"".join(
        bytes([len(name)]) + name.encode() + b"\x07" + len(value).to_bytes(2) + value.encode()
        for name, value in headers.items()
    )
    prelude = struct.pack(">II", 16 + len(head) + len(payload), len(head))
    body = prelude + zlib.crc32(prelude).to_bytes(4) + head + payload
    return body + zlib.crc32(body).to_bytes(4)


def bedrock_stream(events: Iterable[bytes]) -> bytes:
    """Give server-sent events as Bedrock sends them."""
    made = b""
    for event in events:
        data = event.partition(b"data: ")[2].strip()
        inside = {"bytes": base64.b64encode(data).decode(), "p": "abcdefgh"}
        made += frame(CHUNK, json.dumps(inside).encode())
    return made
