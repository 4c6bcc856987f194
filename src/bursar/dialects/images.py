"""Width and height of an image from its first bytes: PNG, JPEG, GIF and WebP, without an image library."""

from __future__ import annotations

import binascii

_HEAD_CHARS = 64
# A JPEG may carry a profile and a thumbnail before its size.
_JPEG_CHARS = 350_000
# Markers without a length: TEM, RST0-7, SOI.
_JPEG_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
# Start of frame: C0-CF without DHT (C4), JPG (C8) and DAC (CC).
_JPEG_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}

Size = tuple[int, int]


def size_of_base64(payload: str) -> Size | None:
    """Read (width, height) from the base64 text of an image, or None when it is not one that we can read."""
    head = _decoded(payload[:_HEAD_CHARS])
    if head.startswith(b"\xff\xd8\xff"):
        return _plausible(_jpeg(_decoded(payload[:_JPEG_CHARS])))
    return _plausible(_png(head) or _gif(head) or _webp(head))


def _decoded(payload: str) -> bytes:
    try:
        return binascii.a2b_base64(payload[: len(payload) - len(payload) % 4])
    except ValueError:  # binascii.Error, and text that is not ASCII
        return b""


def _plausible(size: Size | None) -> Size | None:
    return size if size and size[0] > 0 and size[1] > 0 else None


def _png(head: bytes) -> Size | None:
    if len(head) < 24 or not head.startswith(b"\x89PNG\r\n\x1a\n") or head[12:16] != b"IHDR":
        return None
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")


def _gif(head: bytes) -> Size | None:
    if len(head) < 10 or head[:6] not in (b"GIF87a", b"GIF89a"):
        return None
    return int.from_bytes(head[6:8], "little"), int.from_bytes(head[8:10], "little")


def _webp(head: bytes) -> Size | None:
    if len(head) < 30 or head[:4] != b"RIFF" or head[8:12] != b"WEBP":
        return None
    kind = head[12:16]
    if kind == b"VP8X":
        return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    if kind == b"VP8 ":
        return int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF
    if kind == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return None


def _jpeg(data: bytes) -> Size | None:
    at = 2
    while at + 9 <= len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
        elif marker in _JPEG_ALONE:
            at += 2
        elif marker in _JPEG_FRAME:
            return int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None
