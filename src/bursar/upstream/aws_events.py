"""AWS event streams, in which Bedrock sends Claude's events: cut into frames, checked, and given on as SSE."""

from __future__ import annotations

import base64
import json
import struct
import zlib

CONTENT_TYPE = "application/vnd.amazon.eventstream"
FRAME_BYTES_MAX = 24 * 1024 * 1024
"""What AWS allows is 24 MB; a longer one is no frame."""
_PRELUDE = struct.Struct(">III")
_FRAME_BYTES_MIN = 16
_STRING = 7
# Bytes of the value of each type of header; strings and byte arrays carry their length.
_SIZES = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}


class FrameError(Exception):
    """What came is no event stream, or was damaged on the way."""


class AwsEvents:
    """Turns the bytes of an AWS event stream into server-sent events."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes; give the events that are whole with them; raises FrameError."""
        self._held += chunk
        events = []
        while (frame := self._next_frame()) is not None:
            events.append(_event(frame))
        return b"".join(events)

    def finish(self) -> None:
        """Say that nothing follows; raises FrameError when a frame is not whole."""
        if self._held:
            raise FrameError("the stream ended inside a frame")

    def _next_frame(self) -> bytes | None:
        held = self._held
        if len(held) < _PRELUDE.size:
            return None
        total, _headers, check = _PRELUDE.unpack_from(held)
        if zlib.crc32(held[:8]) != check:
            raise FrameError("the length of a frame is damaged")
        if not _FRAME_BYTES_MIN <= total <= FRAME_BYTES_MAX:
            raise FrameError(f"a frame of {total} bytes")
        if len(held) < total:
            return None
        frame = bytes(held[:total])
        del held[:total]
        if zlib.crc32(frame[:-4]) != int.from_bytes(frame[-4:]):
            raise FrameError("a frame is damaged")
        return frame


def _event(frame: bytes) -> bytes:
    headers_end = _PRELUDE.size + int.from_bytes(frame[4:8])
    if headers_end > len(frame) - 4:
        raise FrameError("the headers of a frame are longer than it")
    headers = _headers(frame[_PRELUDE.size : headers_end])
    payload = _object(frame[headers_end:-4])
    if headers.get(":message-type", "event") != "event":
        kind = headers.get(":exception-type") or headers.get(":error-code") or "api_error"
        message = payload.get("message") or headers.get(":error-message") or kind
        error = {"type": "error", "error": {"type": kind, "message": str(message)}}
        return _sse("error", json.dumps(error, separators=(",", ":")).encode())
    inside = payload.get("bytes")
    if headers.get(":event-type") != "chunk" or not isinstance(inside, str):
        return b""  # an event that Anthropic's wire format does not have
    try:
        data = base64.b64decode(inside, validate=True)
    except ValueError:
        raise FrameError("the bytes of an event are not base64") from None
    named = _object(data).get("type")
    return _sse(named if isinstance(named, str) and named.isidentifier() else "completion", data)


def _sse(kind: str, data: bytes) -> bytes:
    # JSON has no line breaks but those between its tokens.
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), b" ".join(data.split(b"\n")).replace(b"\r", b" "))


def _object(data: bytes) -> dict[str, object]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise FrameError("an event is not JSON") from None
    if not isinstance(value, dict):
        raise FrameError("an event is not a JSON object")
    return value


def _headers(data: bytes) -> dict[str, str]:
    """Read the headers that are strings; raises FrameError."""
    found: dict[str, str] = {}
    at = 0
    try:
        while at < len(data):
            name_end = at + 1 + data[at]
            name, kind = data[at + 1 : name_end].decode(), data[name_end]
            at = name_end + 1
            if kind in _SIZES:
                at += _SIZES[kind]
                continue
            length = int.from_bytes(data[at : at + 2])
            value = data[at + 2 : at + 2 + length]
            if len(value) != length or at + 2 > len(data) or kind not in (_STRING - 1, _STRING):
                raise FrameError("a header of a frame is damaged")
            if kind == _STRING:
                found[name] = value.decode()
            at += 2 + length
    except (IndexError, UnicodeDecodeError):
        raise FrameError("a header of a frame is damaged") from None
    return found
