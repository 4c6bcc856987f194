"""AWS event streams, in which Bedrock sends Claude's events: given on as server-sent events."""

from __future__ import annotations

import base64
import json

from bursar.dialects.bedrock_frames import Frame, FrameError, Frames


class AwsEvents:
    """Turns the bytes of an AWS event stream into server-sent events."""

    def __init__(self) -> None:
        self._frames = Frames()

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes; give the events that are whole with them; raises FrameError."""
        return b"".join([_event(frame) for frame in self._frames.feed(chunk)])

    def finish(self) -> None:
        """Say that nothing follows; raises FrameError when a frame is not whole."""
        if not self._frames.is_empty:
            raise FrameError("the stream ended inside a frame")


def _event(frame: Frame) -> bytes:
    headers, payload = frame.headers, _object(frame.payload)
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
