"""The size of an image comes from its first bytes, or is not known."""

from __future__ import annotations

import base64
import struct

import pytest

from bursar.dialects.images import size_of_base64

PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + struct.pack(">II", 6000, 5000) + b"\x08\x06"
FRAME = b"\xff\xc0\x00\x11\x08" + struct.pack(">HH", 480, 640) + b"\x03\x01\x22\x00"


def riff(kind: bytes, data: bytes) -> bytes:
    return b"RIFF\x00\x00\x00\x00WEBP" + kind + struct.pack("<I", len(data)) + data


def segment(marker: int, size: int) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", size + 2) + b"\xaa" * size


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (PNG, (6000, 5000)),
        (b"GIF89a" + struct.pack("<HH", 32, 16) + b"\x00\x00", (32, 16)),
        (b"GIF87a" + struct.pack("<HH", 1, 2), (1, 2)),
        (riff(b"VP8X", b"\x00" * 4 + (1023).to_bytes(3, "little") + (767).to_bytes(3, "little")), (1024, 768)),
        (riff(b"VP8 ", b"\x00" * 3 + b"\x9d\x01\x2a" + struct.pack("<HH", 300 | 0x4000, 200)), (300, 200)),
        (riff(b"VP8L", b"\x2f" + (99 | (49 << 14)).to_bytes(4, "little") + b"\x00" * 5), (100, 50)),
        (b"\xff\xd8" + FRAME, (640, 480)),
        (b"\xff\xd8" + segment(0xE0, 14) + segment(0xE2, 60_000) + segment(0xC4, 30) + FRAME, (640, 480)),
        (b"\xff\xd8" + segment(0xE0, 14) + b"\xff\xff\xff" + FRAME[1:], (640, 480)),
        (b"\xff\xd8\xff\x01" + FRAME.replace(b"\xc0", b"\xc2", 1), (640, 480)),
    ],
    ids=["png", "gif89", "gif87", "webp extended", "webp lossy", "webp lossless", "jpeg", "far", "fill", "alone"],
)
def test_the_size_is_in_the_head(data: bytes, size: tuple[int, int]) -> None:
    assert size_of_base64(base64.b64encode(data + b"\x00" * 100).decode()) == size


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"%PDF-1.7 and a lot of text behind it, long enough to be an image",
        PNG[:20],
        PNG.replace(b"IHDR", b"IDAT"),
        PNG.replace(struct.pack(">I", 6000), struct.pack(">I", 0)),
        b"GIF89a\x01",
        b"GIF88a" + b"\x01" * 20,
        b"GIF89a" + b"\x00" * 20,
        riff(b"VP8X", b""),
        riff(b"ALPH", b"\x01" * 30),
        b"RIFF\x00\x00\x00\x00WAVE" + b"\x01" * 30,
        b"\xff\xd8\xff",
        b"\xff\xd8" + segment(0xE0, 14) + b"\x00" * 30,
        b"\xff\xd8" + segment(0xE0, 14),
        b"\xff\xd8" + segment(0xE2, 60_000) * 6 + FRAME,
    ],
)
def test_what_has_no_size_that_can_be_read_is_not_guessed(data: bytes) -> None:
    assert size_of_base64(base64.b64encode(data).decode()) is None


@pytest.mark.parametrize("payload", ["", "=", "====", "\N{SNOWMAN}" * 80, "!!!!", "A", "iVBORw0KGgo" * 3])
def test_what_is_no_base64_has_no_size(payload: str) -> None:
    assert size_of_base64(payload) is None
