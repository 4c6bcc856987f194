"""Fuzz the parsers and meters: `python -m tests.fuzz.fuzz_parsers --seconds 60 --seed 1`.

It breaks what real clients and providers send, byte by byte and value by value, and looks for anything but a call, a
refusal, usage or the reason why there is none. A finding is printed with its seed, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from bursar.call import Call, Refused, Unmetered, Usage
from bursar.dialects.body import read
from bursar.dialects.protocol import Quirks, Request
from bursar.dialects.table import find

GOLDEN = Path(__file__).parent.parent / "golden"
FOLDERS = {
    "openai_chat": "/v1/chat/completions",
    "openai_responses": "/v1/responses",
    "openai_completions": "/v1/completions",
    "openai_embeddings": "/v1/embeddings",
    "anthropic_messages": "/v1/messages",
    "gemini": "/v1beta/models/gemini-2.5-pro:generateContent",
    "gemini_embeddings": "/v1beta/models/gemini-embedding-001:embedContent",
    "bedrock_converse": "/model/anthropic.claude-sonnet-4-5-20250929-v1%3A0/converse-stream",
}
SMALLEST: dict[str, dict[str, Any]] = {
    "openai_chat": {"model": "m", "stream": True, "messages": []},
    "openai_responses": {"model": "m", "stream": True, "input": "x"},
    "openai_completions": {"model": "m", "stream": True},
    "openai_embeddings": {"model": "m", "input": "x"},
    "anthropic_messages": {"model": "m", "stream": True, "max_tokens": 5, "messages": []},
    "gemini": {"contents": [{}]},
    "gemini_embeddings": {"content": {}},
    "bedrock_converse": {"messages": [{}]},
}
CONFIGS = {"generationConfig", "generation_config", "inferenceConfig"}
ASKS_FOR_USAGE = {"openai_chat", "openai_completions"}
BITS = [b'"', b"\\", b"\\u0000", b"\\ud800", b"{", b"[", b"}", b",", b":", b"\n\n", b"\r", b"\xff", b"\xef\xbb\xbf"]
BITS += [b"null", b"true", b"-1", b"1e999", b"99999999999", b'"usage":{', b"data: ", b"[DONE]", b"message_stop"]
VALUES: list[Any] = [None, True, -1, 0, 1.5, 2**63, "", "x", "1h", "\ud800", [], {}, [[]], [{}], {"type": "x"}]


def seeds() -> tuple[list[tuple[str, bytes]], list[bytes]]:
    """Give what is known to be real: requests with their paths, and replies."""
    found, replies = [], []
    for file in sorted((GOLDEN / "captures").glob("*.json")):
        capture = json.loads(file.read_text())
        found.append((capture["path"].partition("?")[0], json.dumps(capture["body"]).encode()))
    for name, usual_path in FOLDERS.items():
        for file in sorted((GOLDEN / name).glob("*.json")):
            content = json.loads(file.read_text())
            for case in content["cases"]:
                body = case.get("body", {**content.get("base", {}), **case.get("with", {})})
                path = case.get("path", usual_path)
                found.append((path, body.encode() if isinstance(body, str) else json.dumps(body).encode()))
                replies.append(_reply(case))
    return found, [reply for reply in replies if reply]


def _reply(case: dict[str, Any]) -> bytes:
    if "events" in case:
        return "".join(f"data: {json.dumps(event)}\n\n" for event in case["events"]).encode()
    reply = case.get("reply", "")
    return reply.encode() if isinstance(reply, str) else json.dumps(reply).encode()


REQUESTS, REPLIES = seeds()


def broken(chance: random.Random, raw: bytes) -> bytes:
    """Give the bytes with a few things wrong."""
    data = bytearray(raw[: chance.choice([200, 2_000, len(raw)])] if chance.random() < 0.3 else raw)
    for _ in range(chance.choice([0, 1, 1, 2, 5])):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(4):
            case 0:
                data[at:at] = chance.choice(BITS)
            case 1:
                del data[at : at + chance.choice([1, 2, 10, 100])]
            case 2:
                data[at : at + 1] = chance.randbytes(1)
            case _:
                end = min(len(data), at + chance.randrange(1, 200))
                data[at:at] = data[at:end]
    return bytes(data)


def changed(chance: random.Random, raw: bytes) -> bytes:
    """Give the JSON with one value somewhere in it replaced by another, or the bytes when they are no JSON."""
    try:
        root = json.loads(raw)
    except ValueError:
        return raw
    node = root
    while isinstance(node, dict | list) and node:
        key = chance.choice(list(node) if isinstance(node, dict) else range(len(node)))
        if chance.random() < 0.4:
            node[key] = chance.choice(VALUES)
            break
        node = node[key]
    return json.dumps(root, ensure_ascii=chance.random() < 0.5).encode("utf-8", "replace")


def mutated(chance: random.Random, raw: bytes) -> bytes:
    """Give the bytes changed in no, one or both ways."""
    for mutate in chance.sample([broken, changed], k=chance.randrange(3)):
        raw = mutate(chance, raw)
    return raw


def check(chance: random.Random) -> None:
    """Try one input on the request side and on the reply side; raises AssertionError, or what the parser raised."""
    path, raw = chance.choice(REQUESTS)
    route = find(path)
    assert route is not None, path
    raw = mutated(chance, raw)
    call = route.dialect.parse(Request(route.upstream, route.path, {}, raw))
    assert isinstance(call, Call | Refused), call
    if isinstance(call, Call):
        sent = route.dialect.render(call, chance.randrange(1, 10_000_000), Quirks())
        before, after = read(raw).values, read(sent).values
        for name in before.keys() - {"service_tier", "stream_options", "thinking", *CONFIGS}:
            assert name.startswith("max_") or before[name] == after[name], name
    else:
        assert call.message.isprintable(), call.message
        call = plain_call(path, asked=chance.random() < 0.5)
    _check_reply(chance, path, mutated(chance, chance.choice(REPLIES)), call)


def plain_call(path: str, asked: bool) -> Call:
    """Give the smallest streamed call of a path."""
    route = find(path)
    assert route is not None
    name = route.dialect.name
    if path.endswith(":batchEmbedContents"):
        path = path.replace(":batchEmbedContents", ":embedContent")
        return plain_call(path, asked)
    body = SMALLEST[name] | ({"stream_options": {"include_usage": asked}} if name in ASKS_FOR_USAGE else {})
    call = route.dialect.parse(Request(route.upstream, route.path, {}, json.dumps(body).encode()))
    assert isinstance(call, Call), call
    return call


def _check_reply(chance: random.Random, path: str, raw: bytes, call: Call) -> None:
    route = find(path)
    assert route is not None
    kind = chance.choice(["application/json", "text/event-stream", "application/vnd.amazon.eventstream"])
    seen = set()
    for _ in range(2):
        meter = route.dialect.meter(call, 200, kind)
        received, at = b"", 0
        while at < len(raw):
            step = chance.choice([1, 3, 50, 10_000])
            received += meter.feed(raw[at : at + step])
            at += step
        rest, usage = meter.finish()
        assert isinstance(usage, Usage | Unmetered), usage
        is_whole = kind != "text/event-stream" or call.wants_usage
        seen.add((repr(usage), received + rest if is_whole else b""))
        if is_whole:
            assert received + rest == raw
    assert len(seen) == 1, seen


def main(arguments: list[str]) -> int:
    """Run for so many seconds."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.fuzz_parsers", description=__doc__)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    options = parser.parse_args(arguments)
    print(f"seed {options.seed}", flush=True)
    end = time.monotonic() + options.seconds
    tried = 0
    while time.monotonic() < end:
        try:
            check(random.Random(f"{options.seed}:{tried}"))
        except Exception:  # noqa: BLE001 - whatever it is, it is a finding
            traceback.print_exc()
            print(f"found with seed {options.seed} at input {tried}", flush=True)
            return 1
        tried += 1
    print(f"{tried} inputs, nothing found", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
