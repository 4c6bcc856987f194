"""A provider that costs next to nothing: raw asyncio, OpenAI chat shape, told by the prompt how to answer.

    python bench/stub.py PORT

A prompt with `@slow=MS` in it sets the pause between the events of a stream, `@events=N` their number.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
from typing import cast

import uvloop

EVENTS = re.compile(rb"@events=(\d+)")
PAUSE = re.compile(rb"@slow=(\d+)")
WORDS = "The ledger was balanced before the first byte left the house. "
HEAD = {"id": "chatcmpl-bench", "created": 1764000000, "model": "gpt-4o-mini-2024-07-18"}


def _usage(output_tokens: int) -> dict[str, object]:
    return {
        "prompt_tokens": 900,
        "completion_tokens": output_tokens,
        "total_tokens": 900 + output_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }


def _whole() -> bytes:
    message = {"role": "assistant", "content": WORDS * 8, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    answer = {**HEAD, "object": "chat.completion", "choices": [choice], "usage": _usage(120), "service_tier": "default"}
    body = json.dumps(answer).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


def _event(data: bytes) -> bytes:
    event = b"data: " + data + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(event), event)


def _delta(**chunk: object) -> bytes:
    return _event(json.dumps({**HEAD, "object": "chat.completion.chunk", "service_tier": "default", **chunk}).encode())


WHOLE = _whole()
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
# Not one word over and over: LiteLLM ends a stream that repeats itself a hundred times.
EACH = [
    _delta(choices=[{"index": 0, "delta": {"content": f" {word}"}, "finish_reason": None}]) for word in WORDS.split()
]
STOP = _delta(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
USAGE = _delta(choices=[], usage=_usage(200))
DONE = _event(b"[DONE]") + b"0\r\n\r\n"


class Stub(asyncio.Protocol):
    """One connection; requests come one after the other, with a content-length or in chunks."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._seen = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its base class

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._seen += data
        while (end := self._seen.find(b"\r\n\r\n")) >= 0:
            head = self._seen[:end].lower()
            if b"\r\ntransfer-encoding: chunked" in head:
                size = self._seen.find(b"\r\n0\r\n\r\n", end) + 7 - (end + 4)
                if size < 0 or len(self._seen) < end + 4 + size:
                    return
            else:
                at = head.find(b"content-length:")
                size = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
                if len(self._seen) < end + 4 + size:
                    return
            body = self._seen[end + 4 : end + 4 + size]
            self._seen = self._seen[end + 4 + size :]
            self._answer(body)

    def _answer(self, body: bytes) -> None:
        assert self._transport is not None
        if b'"stream":true' not in body and b'"stream": true' not in body:
            self._transport.write(WHOLE)
            return
        events, pause = EVENTS.search(body), PAUSE.search(body)
        self._transport.write(STREAM_HEAD)
        self._next(int(events[1]) if events else 200, int(pause[1]) / 1000 if pause else 0.0, b"include_usage" in body)

    def _next(self, left: int, pause: float, tells_usage: bool) -> None:
        if self._transport is None:
            return
        if left == 0:
            self._transport.write(STOP + (USAGE if tells_usage else b"") + DONE)
            return
        self._transport.write(EACH[left % len(EACH)])
        self._loop.call_later(pause, self._next, left - 1, pause, tells_usage)


async def serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Stub, "127.0.0.1", port, backlog=4096)
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    await stopped.wait()
    server.close()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
