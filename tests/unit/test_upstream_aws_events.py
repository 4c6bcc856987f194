"""AWS event streams become server-sent events, whole or not at all; botocore's own reader is the oracle."""

from __future__ import annotations

import base64
import json
import random
import struct
import zlib

import pytest

from bursar.dialects.bedrock_frames import FrameError
from bursar.upstream.aws_events import AwsEvents

EVENTS: list[dict[str, object]] = [
    {"type": "message_start", "message": {"usage": {"input_tokens": 10, "output_tokens": 1}}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "h\u00e9\u4f60\n\U0001f600"}},
    {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 5}},
    {"type": "message_stop", "amazon-bedrock-invocationMetrics": {"inputTokenCount": 10}},
]
CHUNK = {":event-type": "chunk", ":content-type": "application/json", ":message-type": "event"}


def header(name: str, value: str | int) -> bytes:
    start = bytes([len(name)]) + name.encode()
    if isinstance(value, int):
        return start + b"\x04" + value.to_bytes(4)
    return start + b"\x07" + len(value.encode()).to_bytes(2) + value.encode()


def frame(headers: dict[str, str], payload: bytes, more: bytes = b"") -> bytes:
    head = b"".join(header(name, value) for name, value in headers.items()) + more
    prelude = struct.pack(">II", 16 + len(head) + len(payload), len(head))
    body = prelude + zlib.crc32(prelude).to_bytes(4) + head + payload
    return body + zlib.crc32(body).to_bytes(4)


def chunk(event: object) -> bytes:
    inside = base64.b64encode(json.dumps(event, ensure_ascii=False).encode()).decode()
    return frame(CHUNK, json.dumps({"bytes": inside, "p": "abcdef"}).encode())


def read(*parts: bytes) -> bytes:
    events = AwsEvents()
    made = b"".join(events.feed(part) for part in parts)
    events.finish()
    return made


def parsed(sse: bytes) -> list[tuple[str, object]]:
    found = []
    for event in sse.decode().split("\n\n")[:-1]:
        kind, data = event.split("\n")
        found.append((kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def test_each_event_is_given_on_with_its_name_and_its_data() -> None:
    assert parsed(read(*map(chunk, EVENTS))) == [(event["type"], event) for event in EVENTS]


def test_the_frames_may_be_cut_anywhere() -> None:
    whole = b"".join(map(chunk, EVENTS))
    seed = 20261123
    print(f"seed {seed}")
    cuts = random.Random(seed)
    for _ in range(200):
        at = sorted(cuts.sample(range(1, len(whole)), 5))
        assert read(*(whole[a:b] for a, b in zip([0, *at], [*at, len(whole)], strict=True))) == read(whole)
    assert read(*(whole[i : i + 1] for i in range(len(whole)))) == read(whole)


def test_the_library_of_aws_reads_the_same() -> None:
    library = pytest.importorskip("botocore.eventstream").EventStreamBuffer()
    whole = b"".join(map(chunk, EVENTS))
    library.add_data(whole)
    theirs = [json.loads(base64.b64decode(json.loads(message.payload)["bytes"])) for message in library]
    assert [data for _kind, data in parsed(read(whole))] == theirs


def test_headers_of_every_type_are_stepped_over() -> None:
    more = (
        b"\x01b\x00"
        + b"\x01c\x02\x07"
        + b"\x01i"
        + b"\x04\x00\x00\x00\x01"
        + b"\x01x\x06\x00\x02hi"
        + b"\x01u\x09"
        + bytes(16)
    )
    payload = json.dumps({"bytes": base64.b64encode(b'{"type":"ping"}').decode()}).encode()
    assert parsed(read(frame(CHUNK, payload, more))) == [("ping", {"type": "ping"})]


@pytest.mark.parametrize(
    ("headers", "payload", "error"),
    [
        (
            {":message-type": "exception", ":exception-type": "throttlingException"},
            {"message": "slow"},
            ("throttlingException", "slow"),
        ),
        ({":message-type": "exception", ":exception-type": "x"}, {}, ("x", "x")),
        ({":message-type": "error", ":error-code": "500", ":error-message": "no"}, {}, ("500", "no")),
        ({":message-type": "error"}, {}, ("api_error", "api_error")),
    ],
)
def test_an_exception_becomes_an_error_event(
    headers: dict[str, str], payload: dict[str, str], error: tuple[str, str]
) -> None:
    ((kind, event),) = parsed(read(frame(headers, json.dumps(payload).encode())))
    assert (kind, event) == ("error", {"type": "error", "error": {"type": error[0], "message": error[1]}})


def test_an_event_of_another_kind_is_left_out() -> None:
    assert read(frame(CHUNK | {":event-type": "metadata"}, b"{}")) == b""
    assert read(frame(CHUNK, b'{"other":1}')) == b""


def test_data_with_line_breaks_stays_one_event_and_a_name_that_is_none_is_not_taken() -> None:
    inside = base64.b64encode(b'{"type":\r\n"a\\nb: c"}').decode()
    made = read(frame(CHUNK, json.dumps({"bytes": inside}).encode()))
    assert made == b'event: completion\ndata: {"type":  "a\\nb: c"}\n\n'


GOOD = chunk(EVENTS[0])


@pytest.mark.parametrize(
    "raw",
    [
        GOOD[:-1] + bytes([GOOD[-1] ^ 1]),
        GOOD[:20] + bytes([GOOD[20] ^ 1]) + GOOD[21:],
        b"\xff" * 12,
        b"HTTP/1.1 200 OK\r\n",
        GOOD[:-1],
        GOOD[:5],
        frame(CHUNK, b"not json"),
        frame(CHUNK, b"[1]"),
        frame(CHUNK, b'{"bytes":"!!"}'),
        frame(CHUNK, json.dumps({"bytes": base64.b64encode(b"[1]").decode()}).encode()),
        frame(CHUNK, json.dumps({"bytes": base64.b64encode(b"\xff").decode()}).encode()),
        frame({}, b"{}", b"\x09abc"),
        frame({}, b"{}", b"\x01a\x07\x00\x09hi"),
        frame({}, b"{}", b"\x01a\x0c\x00\x00"),
        frame({}, b"{}", b"\x01\xff\x00"),
    ],
)
def test_what_is_damaged_or_no_event_stream_is_never_given_on(raw: bytes) -> None:
    with pytest.raises(FrameError):
        read(raw)


@pytest.mark.parametrize("total", [12, 2**31])
def test_a_frame_of_impossible_length_is_refused_before_it_is_waited_for(total: int) -> None:
    prelude = struct.pack(">II", total, 0)
    with pytest.raises(FrameError, match="a frame of"):
        AwsEvents().feed(prelude + zlib.crc32(prelude).to_bytes(4))


def test_headers_that_are_longer_than_their_frame_are_refused() -> None:
    prelude = struct.pack(">II", 18, 9)
    body = prelude + zlib.crc32(prelude).to_bytes(4) + b"{}"
    with pytest.raises(FrameError, match="longer than it"):
        AwsEvents().feed(body + zlib.crc32(body).to_bytes(4))
