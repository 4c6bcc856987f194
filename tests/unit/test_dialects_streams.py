"""Streams pass as they came: cut into events only where usage can be, and bounded in what is kept."""

from __future__ import annotations

import json

import pytest

from bursar.call import Call, Unmetered, Usage
from bursar.dialects import meters, sse
from bursar.dialects.protocol import Meter, Request
from bursar.dialects.sse import Splitter, data_of
from bursar.dialects.table import DIALECTS

DELTA = b'data: {"choices":[{"delta":{"content":"hi"}}],"usage":null}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2}}\n\n'
DONE = b"data: [DONE]\n\n"


def chat_meter(asked: bool, stream: bool = True) -> Meter:
    dialect = DIALECTS["openai_chat"]
    options = {"stream_options": {"include_usage": asked}} if stream else {}
    body = json.dumps({"model": "m", "messages": [], "stream": stream, **options}).encode()
    call = dialect.parse(Request("up", "/v1/chat/completions", {}, body))
    assert isinstance(call, Call)
    return dialect.meter(call, 200, "Text/Event-Stream" if stream else "application/json")


@pytest.mark.parametrize("asked", [True, False])
def test_whole_events_without_usage_go_on_at_once_as_the_same_object(asked: bool) -> None:
    meter = chat_meter(asked)
    for chunk in (DELTA, DELTA * 3, b": ping\n\n"):
        assert meter.feed(chunk) is chunk


def test_a_client_that_asked_for_usage_gets_every_chunk_when_it_comes_however_it_is_cut() -> None:
    meter = chat_meter(asked=True)
    for chunk in (DELTA[:10], DELTA[10:] + USAGE[:30], USAGE[30:], b"data: [DO", b"NE]\n\n"):
        assert meter.feed(chunk) is chunk
    assert meter.finish() == (b"", Usage(5, 2))


def test_a_client_that_did_not_ask_waits_only_for_the_end_of_an_event() -> None:
    meter = chat_meter(asked=False)
    assert meter.feed(DELTA + DELTA[:10]) == DELTA
    assert meter.feed(DELTA[10:] + USAGE[:30]) == DELTA
    assert meter.feed(USAGE[30:] + DONE[:4]) == b""
    assert meter.feed(DONE[4:]) == DONE
    assert meter.finish() == (b"", Usage(5, 2))


def test_what_is_kept_back_at_the_end_is_given_at_the_end() -> None:
    meter = chat_meter(asked=False)
    assert meter.feed(DELTA + b"data: {") == DELTA
    assert meter.finish() == (b"data: {", Unmetered("the stream carried no usage"))


@pytest.mark.parametrize("asked", [True, False])
def test_an_event_without_end_is_passed_on_and_not_kept(asked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "EVENT_BYTES_MAX", 1_000)
    meter = chat_meter(asked)
    long = b"data: " + b"x" * 900
    received = b"".join([meter.feed(long), meter.feed(b"y" * 200), meter.feed(USAGE), meter.feed(DELTA + DELTA[:9])])
    rest, usage = meter.finish()
    assert received + rest == long + b"y" * 200 + USAGE + DELTA + DELTA[:9]
    assert usage == Unmetered("an event of the stream is too long to be read")


def test_a_json_reply_that_is_too_long_is_passed_on_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meters, "BODY_BYTES_MAX", 100)
    meter = chat_meter(asked=False, stream=False)
    for chunk in (b'{"x":"', b"x" * 200, b'"}'):
        assert meter.feed(chunk) is chunk
    assert meter.finish() == (b"", Unmetered("the reply is too long to be read"))


def test_an_error_reply_passes() -> None:
    meter = DIALECTS["openai_chat"].meter(chat_call(), 500, "application/json")
    assert meter.feed(b"oops") == b"oops"
    assert meter.finish() == (b"", Unmetered("error status"))


def chat_call() -> Call:
    call = DIALECTS["openai_chat"].parse(Request("up", "/v1/chat/completions", {}, b'{"model":"m","messages":[]}'))
    assert isinstance(call, Call)
    return call


@pytest.mark.parametrize("eol", [b"\n", b"\r\n", b"\r"])
def test_events_are_cut_at_empty_lines_of_every_kind(eol: bytes) -> None:
    events = [b"event: a" + eol + b"data: 1" + eol * 2, b"data: 2" + eol + b"data: 3" + eol * 2, b": x" + eol * 2]
    stream = b"".join(events)
    for size in range(1, len(stream)):
        splitter = Splitter()
        found = [event for at in range(0, len(stream), size) for event in splitter.push(stream[at : at + size])]
        found.append(splitter.rest())
        assert b"".join(found) == stream
        # Half of a CRLF may end an event; then the other half begins the next one, and is no data.
        assert [data for event in found if (data := data_of(event))] == [b"1", b"2\n3"]


def test_a_line_feed_in_the_next_chunk_does_not_end_an_event() -> None:
    splitter = Splitter()
    assert splitter.push(b"data: 1\r") == []
    assert splitter.push(b"\ndata: 2\r\n\r\n") == [b"data: 1\r\ndata: 2\r\n\r\n"]
    assert splitter.is_empty


def test_the_data_of_an_event() -> None:
    assert data_of(b"\xef\xbb\xbfdata: a\n\n") == b"a"
    assert data_of(b"data:a\ndata:  b\nevent: x\ndatas: c\n: data: d\n\n") == b"a\n b"
    assert data_of(b"\n") == b""


def test_a_long_event_in_small_chunks_is_searched_once() -> None:
    """Were every chunk a search from the start, 2,000 chunks would be 2,000 times the event."""
    splitter = Splitter()
    piece = b"x" * 1_000
    for _ in range(2_000):
        assert splitter.push(piece) == []
    assert splitter.push(b"\n\n") == [piece * 2_000 + b"\n\n"]
