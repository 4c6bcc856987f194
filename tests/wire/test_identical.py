"""What comes through the gateway is, byte for byte, what comes over a direct connection: every dialect, cut anyhow."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from bodies import CHAT, MESSAGES, RESPONSES
from conftest import KEY_ENV, Wire, wire_up
from frames import frame
from scripted import Answer, Served, exchange

from bursar.drill.answering import Config
from bursar.drill.fake_provider import FakeProvider
from bursar.ledger.account import HoldState

# Two, three and four bytes a character, one that is two characters, and what JSON and SSE could stumble over.
TEXT = 'Gr\u00fc\u00dfe \u4e16\u754c \U0001f30d e\u0301 \u2028 \\u00e9 data: [DONE] "usage":{'
CHAT_USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
GOOGLE_USAGE = {"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 15}
HEADERS = {
    "x-request-id": "req-1",
    "Openai-Processing-Ms": "12",
    "anthropic-ratelimit-tokens-remaining": "7",
    "set-cookie": "a=b; Path=/",
    "date": "Tue, 24 Nov 2026 00:00:00 GMT",
    "vary": "Origin, X-Origin",
}
FRAMING = frozenset({"content-length", "transfer-encoding", "connection"})
SSE = "text/event-stream; charset=utf-8"
JSON = "application/json; charset=UTF-8"


def packed(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def event(value: object, name: str = "") -> bytes:
    return b"%bdata: %b\n\n" % (f"event: {name}\n".encode() if name else b"", packed(value))


def chat_chunk(**more: Any) -> dict[str, Any]:
    return {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4.1-mini", **more}


def google(text: str, **more: Any) -> dict[str, Any]:
    candidate = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}
    return {"candidates": [candidate | more], "usageMetadata": GOOGLE_USAGE, "modelVersion": "gemini-2.5-pro"}


@dataclass(frozen=True)
class Case:
    """One request, and the pieces of its reply."""

    name: str
    path: str
    request: dict[str, Any]
    pieces: tuple[bytes, ...]
    unasked: frozenset[bytes] = field(default=frozenset())
    """Pieces that the provider sends when it is asked for usage, and not else."""
    content_type: str = JSON


GOOGLE = "/v1beta/models/gemini-2.5-pro"
ASK_GOOGLE = {"contents": [{"parts": [{"text": TEXT}]}]}
GOOGLE_CHUNKS = (google(TEXT), google(TEXT[5:]), google("", finishReason="STOP"))
BEDROCK = "/model/us.anthropic.claude-sonnet-4-5-20250929-v1%3A0"
ASK_BEDROCK = {"messages": [{"role": "user", "content": [{"text": TEXT}]}]}
BEDROCK_USAGE = {"inputTokens": 10, "outputTokens": 5, "totalTokens": 15}
BEDROCK_EVENTS = {
    "contentBlockDelta": {"contentBlockIndex": 0, "delta": {"text": TEXT}},
    "messageStop": {"stopReason": "end_turn"},
    "metadata": {"usage": BEDROCK_USAGE},
}
CHAT_PIECES = (
    event(chat_chunk(choices=[{"index": 0, "delta": {"role": "assistant", "content": TEXT}}])),
    event(chat_chunk(choices=[{"index": 0, "delta": {"content": TEXT}}])),
    event(chat_chunk(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])),
)
CHAT_LAST = event(chat_chunk(choices=[], usage=CHAT_USAGE))
COMPLETION_LAST = event({"id": "c", "object": "text_completion", "choices": [], "usage": CHAT_USAGE})
DONE = b"data: [DONE]\n\n"
COMPLETION = {"model": "gpt-3.5-turbo-instruct", "prompt": TEXT, "max_tokens": 16}
COMPLETED = {"id": "c", "object": "text_completion", "choices": [{"text": TEXT, "index": 0, "finish_reason": "stop"}]}
STREAMED = {"stream": True}
ASKED = STREAMED | {"stream_options": {"include_usage": True}}
RESPONSE = json.loads(RESPONSES.reply) | {"output": [{"type": "message", "content": [{"text": TEXT}]}]}
MESSAGE = json.loads(MESSAGES.reply) | {"content": [{"type": "text", "text": TEXT}]}
DELTA = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": TEXT}}
EMBEDDED = {"object": "list", "data": [{"embedding": [0.5, -1e-07, 1.0]}], "usage": CHAT_USAGE | {"total_tokens": 10}}

CASES = (
    Case("chat", CHAT.path, CHAT.request, (packed(json.loads(CHAT.reply) | {"said": TEXT}),)),
    Case("chat stream", CHAT.path, CHAT.request | STREAMED, (*CHAT_PIECES, CHAT_LAST, DONE), {CHAT_LAST}, SSE),
    Case("chat stream, usage", CHAT.path, CHAT.request | ASKED, (*CHAT_PIECES, CHAT_LAST, DONE), content_type=SSE),
    Case("responses", RESPONSES.path, RESPONSES.request, (packed(RESPONSE),)),
    Case(
        "responses stream",
        RESPONSES.path,
        RESPONSES.request | STREAMED,
        (
            event({"type": "response.output_text.delta", "delta": TEXT}, "response.output_text.delta"),
            event({"type": "response.completed", "response": RESPONSE}, "response.completed"),
        ),
        content_type=SSE,
    ),
    Case("messages", MESSAGES.path, MESSAGES.request, (packed(MESSAGE),)),
    Case(
        "messages stream",
        MESSAGES.path,
        MESSAGES.request | STREAMED,
        (*MESSAGES.stream[:2], event(DELTA, "content_block_delta"), *MESSAGES.stream[3:]),
        content_type=SSE,
    ),
    Case("completions", "/v1/completions", COMPLETION, (packed(COMPLETED | {"usage": CHAT_USAGE}),)),
    Case(
        "completions stream",
        "/v1/completions",
        COMPLETION | STREAMED,
        (event(COMPLETED), COMPLETION_LAST, DONE),
        {COMPLETION_LAST},
        SSE,
    ),
    Case("embeddings", "/v1/embeddings", {"model": "text-embedding-3-small", "input": TEXT}, (packed(EMBEDDED),)),
    Case("gemini", f"{GOOGLE}:generateContent", ASK_GOOGLE, (packed(google(TEXT, finishReason="STOP")),)),
    Case(
        "gemini stream of events",
        f"{GOOGLE}:streamGenerateContent?alt=sse",
        ASK_GOOGLE,
        tuple(map(event, GOOGLE_CHUNKS)),
        content_type=SSE,
    ),
    Case(
        "gemini stream of an array",
        f"{GOOGLE}:streamGenerateContent",
        ASK_GOOGLE,
        (
            b"[" + packed(GOOGLE_CHUNKS[0]),
            b"\n,\r\n" + packed(GOOGLE_CHUNKS[1]),
            b",\n" + packed(GOOGLE_CHUNKS[2]),
            b"\n]\n",
        ),
    ),
    Case(
        "converse",
        f"{BEDROCK}/converse",
        ASK_BEDROCK,
        (packed({"output": {"message": {"content": [{"text": TEXT}]}}, "usage": BEDROCK_USAGE}),),
    ),
    Case(
        "converse stream",
        f"{BEDROCK}/converse-stream",
        ASK_BEDROCK,
        tuple(
            frame({":event-type": kind, ":message-type": "event"}, packed(payload))
            for kind, payload in BEDROCK_EVENTS.items()
        ),
        content_type="application/vnd.amazon.eventstream",
    ),
    Case(
        "gemini embeddings",
        "/v1beta/models/gemini-embedding-001:embedContent",
        {"content": {"parts": [{"text": TEXT}]}},
        (packed({"embedding": {"values": [0.5, -1e-07]}, "usageMetadata": {"promptTokenCount": 6}}),),
    ),
)
ENDINGS = {"line feeds": b"\n", "CRLF": b"\r\n", "CR": b"\r"}


def shapes(pieces: list[bytes], is_sse: bool) -> Iterator[tuple[str, list[bytes]]]:
    """Give the ways in which the same reply may come, each with its chunks."""
    for name, end in ENDINGS.items() if is_sse else (("", b"\n"),):
        ended = [piece.replace(b"\n", end) for piece in pieces] if is_sse else pieces
        whole = b"".join(ended)
        yield f"{name}, as written", ended
        yield f"{name}, at once", [whole]
        yield f"{name}, in bytes", [whole[at : at + 1] for at in range(len(whole))]
        # Every character of several bytes, and every CRLF, is cut somewhere.
        yield f"{name}, in sevens", [whole[at : at + 7] for at in range(0, len(whole), 7)]
    if is_sse:
        comments = (b": \xe4\xb8\x96 ping\n\n", b':"usage":{"x":1}\n\n', b"retry: 10\nid: 1\n\n", b"\n\n")
        yield "with comments", [part for piece in pieces for part in (*comments, piece)]
        yield "with a byte order mark", [b"\xef\xbb\xbf", *pieces]
        yield "without the last empty line", [*pieces[:-1], pieces[-1].rstrip(b"\n")]


def reply_bytes(status: int, parts: list[bytes], content_type: str, has_length: bool) -> bytes:
    """Write a whole HTTP answer, chunked as the parts are or with its length."""
    lines = [f"HTTP/1.1 {status} X", f"content-type: {content_type}"]
    lines += [f"{name}: {value}" for name, value in HEADERS.items()]
    body = b"".join(parts) if has_length else b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    lines.append(f"content-length: {len(body)}" if has_length else "transfer-encoding: chunked")
    return "\r\n".join([*lines, "", ""]).encode() + body + (b"" if has_length else b"0\r\n\r\n")


def serve(wire: Wire, status: int, case: Case, parts: list[bytes], has_length: bool) -> None:
    """Let the provider answer with these parts; what only usage brings is left out where nobody asks for it."""

    async def script(served: Served, writer: asyncio.StreamWriter) -> None:
        is_asked = "stream_options" in served.json
        sent = [part for part in parts if is_asked or plain(part) not in case.unasked]
        writer.write(reply_bytes(status, sent, case.content_type, has_length))
        await writer.drain()

    wire.provider.script = script


def plain(part: bytes) -> bytes:
    return part.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


async def ensure_identical(wire: Wire, case: Case) -> Answer:
    """Send the same request to the provider and to the gateway, and compare all that a client can see."""
    raw = wire.raw(case.path, case.request, x_bursar_run="r1")
    direct = await exchange(wire.provider.port, raw)
    through = await exchange(wire.port, raw)
    assert (through.status, through.is_complete) == (direct.status, True)
    assert through.body == direct.body
    names = direct.headers.keys() - FRAMING
    assert {name: through.headers[name] for name in names} == {name: direct.headers[name] for name in names}
    assert all(name.startswith("x-bursar-") for name in through.headers.keys() - FRAMING - names)
    assert through.headers.get("content-length", str(len(direct.body))) == str(len(direct.body))
    return through


async def ensure_metered(wire: Wire, calls: int) -> None:
    await wire.settled(calls)
    ends = [(hold.state, hold.basis) for hold in await wire.holds()]
    assert ends == [(HoldState.CAPTURED, "metered")] * calls


@pytest.fixture
async def wire(tmp_path: Path) -> AsyncIterator[Wire]:
    keys = {"wire": {"key_env": KEY_ENV, "run": {"usd": "1000", "calls": 1000}}}
    upstreams: dict[str, Any] = {"gemini": {}, "bedrock": {"region": "us-east-1", "base_url": "PROVIDER"}}
    async with wire_up(tmp_path, secrets=dict.fromkeys(upstreams, "real"), upstreams=upstreams, keys=keys) as made:
        yield made


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_a_reply_comes_through_as_it_is_however_it_is_cut(wire: Wire, case: Case) -> None:
    is_sse = case.content_type == SSE
    tried = 0
    for how, parts in shapes(list(case.pieces), is_sse):
        cut_apart = case.unasked and ("in " in how or "at once" in how)
        if cut_apart:
            continue  # the provider would not know which bytes nobody asked for; the next test cuts those
        serve(wire, 200, case, parts, has_length=False)
        await ensure_identical(wire, case)
        tried += 1
    if not is_sse:
        serve(wire, 200, case, [b"".join(case.pieces)], has_length=True)
        await ensure_identical(wire, case)
        tried += 1
    await ensure_metered(wire, tried)


@pytest.mark.parametrize("case", [case for case in CASES if case.unasked], ids=lambda case: case.name)
async def test_only_the_usage_that_the_gateway_asks_for_is_left_out(wire: Wire, case: Case) -> None:
    (unasked,) = case.unasked
    for how, end in ENDINGS.items():
        whole = b"".join(case.pieces).replace(b"\n", end)
        for size in (1, 7, 64, len(whole)):
            parts = [whole[at : at + size] for at in range(0, len(whole), size)]
            serve(wire, 200, case, parts, has_length=False)
            got = await wire.post(case.path, case.request, x_bursar_run="r1")
            assert got.body == whole.replace(unasked.replace(b"\n", end), b""), (how, size)
    await ensure_metered(wire, 4 * len(ENDINGS))


@pytest.mark.parametrize("case", [CASES[0], CASES[6], CASES[11]], ids=lambda case: case.name)
async def test_an_error_of_the_provider_comes_through_as_it_is(wire: Wire, case: Case) -> None:
    error = Case(case.name, case.path, case.request, (packed({"error": {"message": TEXT}}),))
    for status in (400, 404, 429, 500, 529):
        serve(wire, status, error, list(error.pieces), has_length=True)
        assert (await ensure_identical(wire, error)).status == status


FAKE_PATHS = {
    "chat": (CHAT.path, CHAT.request, CHAT.request | ASKED),
    "responses": (RESPONSES.path, RESPONSES.request, RESPONSES.request | STREAMED),
    "messages": (MESSAGES.path, MESSAGES.request, MESSAGES.request | STREAMED),
    "gemini": (f"{GOOGLE}:generateContent", ASK_GOOGLE, None),
    "gemini stream": (f"{GOOGLE}:streamGenerateContent?alt=sse", None, ASK_GOOGLE),
}


@pytest.mark.parametrize("name", FAKE_PATHS)
async def test_what_the_fake_provider_of_the_drill_says_comes_through_as_it_is(wire: Wire, name: str) -> None:
    path, *requests = FAKE_PATHS[name]
    for request in filter(None, requests):
        async with FakeProvider(Config(reasoning_percent=20)) as fake:
            port = int(fake.base_url.rpartition(":")[2])
            said = await exchange(port, wire.raw(path, request))
        assert said.status == 200
        case = Case(name, path, request, (said.body,), content_type=said.headers["content-type"])
        # Each of its calls has a number and a time of its own, so what it has said once is what is said to both.
        for size in (50, len(said.body)):
            parts = [said.body[at : at + size] for at in range(0, len(said.body), size)]
            serve(wire, 200, case, parts, has_length=False)
            await ensure_identical(wire, case)
    await ensure_metered(wire, 2 * len(list(filter(None, requests))))
