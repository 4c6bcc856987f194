"""Replies that are too long to be kept: embeddings have their usage at the end; a long array of Google's has none."""

from __future__ import annotations

import json

import pytest

from bursar.call import Call, Unmetered, Usage
from bursar.dialects import gemini_usage
from bursar.dialects.openai_embeddings import WHOLE_BYTES_MAX
from bursar.dialects.protocol import Meter, Request
from bursar.dialects.table import DIALECTS


def meter(name: str, path: str, body: bytes) -> Meter:
    call = DIALECTS[name].parse(Request("up", path, {}, body))
    assert isinstance(call, Call), call
    return DIALECTS[name].meter(call, 200, "application/json")


def of_embeddings() -> Meter:
    return meter("openai_embeddings", "/v1/embeddings", b'{"model":"m","input":"x"}')


def through(made: Meter, reply: bytes, size: int) -> Usage | Unmetered:
    for at in range(0, len(reply), size):
        assert made.feed(reply[at : at + size]) == reply[at : at + size]
    rest, usage = made.finish()
    assert rest == b""
    return usage


@pytest.mark.parametrize("size", [1_000, WHOLE_BYTES_MAX, WHOLE_BYTES_MAX + 1, 10**7])
@pytest.mark.parametrize("values", [60_000, 65_300, 65_400, 65_500, 65_600, 200_000])
def test_the_usage_behind_a_long_reply_is_read(size: int, values: int) -> None:
    reply = {"data": [{"embedding": "A" * values}], "model": "m", "usage": {"prompt_tokens": 9, "total_tokens": 9}}
    raw = json.dumps(reply).encode()
    is_whole = len(raw) <= WHOLE_BYTES_MAX
    assert through(of_embeddings(), raw, size) == Usage(9, 0, model="m" if is_whole else "")


def test_members_behind_the_usage_do_not_matter() -> None:
    raw = b'{"data":"' + b"A" * 10**5 + b'","usage" : {"prompt_tokens": 9}, "model": "m" }\n'
    assert through(of_embeddings(), raw, 4_096) == Usage(9, 0, model="m")


@pytest.mark.parametrize(
    ("end", "why"),
    [
        (b'"}', "the reply has no usage at its end"),
        (b'","usage":{"prompt_tokens":9}', "the reply is not JSON"),
        (b'","usage":{}}', "the usage has no `prompt_tokens`"),
    ],
)
def test_a_long_reply_without_a_whole_usage_at_its_end_is_not_metered(end: bytes, why: str) -> None:
    assert through(of_embeddings(), b'{"usage":{"prompt_tokens":1},"data":"' + b"A" * 10**5 + end, 5_000) == Unmetered(
        why
    )


def test_a_stream_as_an_array_that_is_too_long_is_not_metered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gemini_usage, "BODY_BYTES_MAX", 100)
    path, body = "/v1beta/models/m:streamGenerateContent", b'{"contents":[{}]}'
    end = b'[{"candidates":[{"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":1}}]'
    assert through(meter("gemini", path, body), end, 7) == Usage(1, 0)
    assert through(meter("gemini", path, body), end + b" " * 20, 7) == Unmetered("the reply is too long to be read")
