"""AWS event streams: cut into frames, each of which is checked, and the headers of a frame."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

CONTENT_TYPE = "application/vnd.amazon.eventstream"
DIALECTS = frozenset({"bedrock_converse"})
"""Those whose clients read such streams themselves; for all others they are turned into server-sent events."""
FRAME_BYTES_MAX = 24 * 1024 * 1024
"""What AWS allows is 24 MB; a longer one is no frame."""
_PRELUDE = struct.Struct(">III")
_FRAME_BYTES_MIN = 16
_STRING = 7
# Bytes of the value of each type of header; strings and byte arrays carry their length.
_SIZES = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}


class FrameError(Exception):
    """What came is no event stream, or was damaged on the way."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One message of an event stream."""

    headers: dict[str, str]
    """Those that are strings."""
    payload: bytes


class Frames:
    """Cuts the bytes of an AWS event stream into frames."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = bytearray()

    @property
    def is_empty(self) -> bool:
        """Whether the last byte seen was the end of a frame."""
        return not self._held

    def feed(self, chunk: bytes) -> list[Frame]:
        """Take the next bytes; give the frames that are whole with them; raises FrameError."""
        self._held += chunk
        frames = []
        while (frame := self._next_frame()) is not None:
            frames.append(_read(frame))
        return frames

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


def _read(frame: bytes) -> Frame:
    headers_end = _PRELUDE.size + int.from_bytes(frame[4:8])
    if headers_end > len(frame) - 4:
        raise FrameError("the headers of a frame are longer than it")
    return Frame(_headers(frame[_PRELUDE.size : headers_end]), frame[headers_end:-4])


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
