"""The golden corpus: what clients send and providers answer, and what each dialect makes of it, as data."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from bursar.call import Call, Refused, Unmetered, Usage
from bursar.dialects.protocol import Meter, Quirks, Request
from bursar.dialects.table import DIALECTS, find

HERE = Path(__file__).parent
PATHS = {
    "openai_chat": "/v1/chat/completions",
    "openai_responses": "/v1/responses",
    "openai_completions": "/v1/completions",
    "openai_embeddings": "/v1/embeddings",
    "anthropic_messages": "/v1/messages",
    "gemini": "/v1beta/models/gemini-2.5-pro:generateContent",
    "gemini_embeddings": "/v1beta/models/gemini-embedding-001:embedContent",
    "bedrock_converse": "/model/us.anthropic.claude-sonnet-4-5-20250929-v1:0/converse",
}
UPSTREAMS = {"anthropic_messages": "anthropic", "gemini": "gemini", "gemini_embeddings": "gemini"}
# What the recorded clients are read as: model, bound, stream, cache write, messages, tools, session names.
CAPTURED = json.loads((HERE / "captured.json").read_text())


def cases(kind: str) -> list[Any]:
    found = []
    for name in PATHS:
        file = json.loads((HERE / name / f"{kind}.json").read_text())
        for case in file["cases"]:
            found.append(pytest.param(name, file.get("base", {}), case, id=f"{name}: {case['name']}"))
    return found


def parsed(dialect: str, base: dict[str, Any], case: dict[str, Any]) -> Call | Refused:
    body = case["body"] if "body" in case else {**base, **case.get("with", {})}
    raw = body.encode() if isinstance(body, str) else json.dumps(body, separators=(",", ":")).encode()
    headers = case.get("headers", {})
    return DIALECTS[dialect].parse(Request("up", case.get("path", PATHS[dialect]), headers, raw, quirks(case)))


def quirks(case: dict[str, Any]) -> Quirks:
    given = dict(case.get("quirks", {}))
    given["allow_fields"] = frozenset(given.get("allow_fields", ()))
    return Quirks(**given)


def accepted(dialect: str, base: dict[str, Any], case: dict[str, Any]) -> Call:
    call = parsed(dialect, base, case)
    assert isinstance(call, Call), call
    return call


def as_data(value: object) -> object:
    """Give dataclasses, tuples and enums as what JSON can say."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name.name: as_data(getattr(value, name.name)) for name in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [as_data(item) for item in value]
    return value


@pytest.mark.parametrize(("dialect", "base", "case"), cases("read"))
def test_what_a_request_is_read_as(dialect: str, base: dict[str, Any], case: dict[str, Any]) -> None:
    call = as_data(accepted(dialect, base, case))
    for path, expected in case["call"].items():
        found: Any = call
        for step in path.split("."):
            found = found[step]
        assert found == expected, path


@pytest.mark.parametrize(("dialect", "base", "case"), cases("refused"))
def test_what_is_refused_and_why(dialect: str, base: dict[str, Any], case: dict[str, Any]) -> None:
    refused = parsed(dialect, base, case)
    assert isinstance(refused, Refused), refused
    assert (refused.status, refused.code) == ({"unreadable": 400, "unbounded": 422}[case["code"]], case["code"])
    assert case["says"] in refused.message
    assert refused.message.isascii()
    assert len(refused.message) < 400


@pytest.mark.parametrize(("dialect", "base", "case"), cases("sent"))
def test_what_is_sent_to_the_provider(dialect: str, base: dict[str, Any], case: dict[str, Any]) -> None:
    call = accepted(dialect, base, case)
    assert DIALECTS[dialect].render(call, case["output_tokens"], quirks(case)).decode() == case["sent"]


@pytest.mark.parametrize(("dialect", "base", "case"), cases("metered"))
def test_what_a_reply_used_and_what_the_client_gets(dialect: str, base: dict[str, Any], case: dict[str, Any]) -> None:
    call = accepted(dialect, base, case)
    reply = reply_bytes(case)
    expected = reply if "received" not in case else case["received"].encode()
    for size in (len(reply) + 1, 1, 7, 64):
        meter = DIALECTS[dialect].meter(call, case.get("status", 200), case.get("content_type", "application/json"))
        received, usage = through(meter, reply, size)
        assert received == expected, size
        if "unmetered" in case:
            assert usage == Unmetered(case["unmetered"]), size
        else:
            assert usage == Usage(**case["usage"]), size


def reply_bytes(case: dict[str, Any]) -> bytes:
    if "events" in case:
        return "".join(f"data: {json.dumps(event)}\n\n" for event in case["events"]).encode()
    reply = case["reply"]
    return (reply if isinstance(reply, str) else json.dumps(reply)).encode()


def through(meter: Meter, reply: bytes, size: int) -> tuple[bytes, Usage | Unmetered]:
    received = b"".join(meter.feed(reply[at : at + size]) for at in range(0, len(reply), size))
    rest, usage = meter.finish()
    return received + rest, usage


def test_every_capture_is_expected() -> None:
    assert sorted(CAPTURED) == sorted(path.name for path in (HERE / "captures").glob("*.json"))


@pytest.mark.parametrize("name", sorted(CAPTURED))
def test_what_real_clients_send_passes(name: str) -> None:
    capture = json.loads((HERE / "captures" / name).read_text())
    route = find(capture["path"].partition("?")[0])
    assert route is not None
    raw = json.dumps(capture["body"], separators=(",", ":"), ensure_ascii=False).encode()
    call = route.dialect.parse(Request(route.upstream, route.path, capture["headers"], raw))
    assert isinstance(call, Call), call
    assert {
        "model": call.model,
        "tokens_asked": call.output.tokens_asked,
        "tokens_min": call.output.tokens_min,
        "stream": call.stream,
        "wants_usage": call.wants_usage,
        "cache_write": call.cache_write,
        "messages": call.input.messages,
        "tools": call.input.tools,
        "opaque": call.input.opaque,
        "client_names": list(call.client_names),
    } == CAPTURED[name]
    assert call.input.text_bytes == len(raw)
    sent = json.loads(route.dialect.render(call, 500, Quirks()))
    if route.dialect.name == "gemini":
        assert sent.pop("generationConfig") == {**capture["body"]["generationConfig"], "maxOutputTokens": 500}
        assert sent == {name: value for name, value in capture["body"].items() if name != "generationConfig"}
        return
    changed = {field for field in sent if sent[field] != capture["body"].get(field)}
    bounds = {"max_tokens", "max_completion_tokens", "max_output_tokens"}
    # opencode's thinking budget is above this bound, so it must come down with it.
    assert changed <= bounds | {"service_tier", "stream_options", "thinking"}
    assert [sent[field] for field in bounds & changed] == [500]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions/",
        "//v1/chat/completions",
        "/v1//chat/completions",
        "/v1/Chat/Completions",
        "/v1/chat%2fcompletions",
        "/v1/./chat/completions",
        "/v1/x/../chat/completions",
        "/v1/chat/completions?x=1",
        "/v1/chat/completions;x",
        "/v1/v1/v1/messages",
        "/v2/messages",
        "/x/v1/messages",
        "/v1/messages/batches",
        "/v1/responses/compact",
        "/v1/embeddings/x",
        "/v1/moderations",
        "/v1/images/generations",
        "/v1/batches",
        "/v1/realtime",
        "/v1beta/models/gemini-2.5-pro",
        "/v1beta/models/gemini-2.5-pro:generateContent/",
        "/v1beta/models/gemini-2.5-pro:generatecontent",
        "/v1beta/models/gemini-2.5-pro%3AgenerateContent",
        "/v1beta/models/gemini-2.5-pro:generateContent?alt=sse",
        "/v1beta/models/gemini-2.5-pro.:generateContent",
        "/v1beta/models/.gemini:generateContent",
        "/v1beta/models//gemini-2.5-pro:generateContent",
        "/v1beta//models/gemini-2.5-pro:generateContent",
        "/v1beta/models/../models/gemini-2.5-pro:generateContent",
        "/v1beta/models/a/b:generateContent",
        "/v1beta/models/a:countTokens:generateContent",
        "/v1beta/models/a :generateContent",
        "/v1beta/models/a\n:generateContent",
        "/v1beta/models/a:generateContent\n",
        "/v1beta/models/:generateContent",
        "/v1beta/models/gemini-2.5-pro:batchGenerateContent",
        "/v1beta/models/gemini-2.5-pro:predict",
        "/v1beta/models/gemini-2.5-pro:predictLongRunning",
        "/v1beta/models/gemini-2.5-pro:asyncBatchEmbedContent",
        "/v1beta/models/gemini-2.5-pro:bidiGenerateContent",
        "/v1beta/tunedModels/x:generateContent",
        "/v1alpha/models/gemini-2.5-pro:generateContent",
        "/v1beta/cachedContents",
        "/v1beta/interactions",
        "/model/a/invoke",
        "/model/a/counttokens",
        "/model/a/converse/",
        "/model//converse",
        "/model/a/b/converse",
        "/model/..%2F..%2Fguardrail/converse",
        "/model/a%2e/converse",
        "/model/a%2520/converse",
        "/v1/model/a/converse",
        f"/model/{'a' * 201}/converse",
        "/models/gemini-2.5-pro:generateContent",
        "v1/messages",
        "/",
        "",
    ],
)
def test_a_path_that_is_not_in_the_table_is_no_route(path: str) -> None:
    assert find(path) is None


@pytest.mark.parametrize("prefix", ["/v1", "", "/v1/v1"])
def test_clients_may_leave_out_or_double_the_version(prefix: str) -> None:
    for name, path in PATHS.items():
        if path.startswith("/v1/"):
            route = find(path.replace("/v1", prefix, 1))
            assert route is not None
            assert (route.dialect.name, route.path) == (name, path)
            assert route.upstream == UPSTREAMS.get(name, "openai")


@pytest.mark.parametrize("version", ["v1", "v1beta"])
@pytest.mark.parametrize(
    ("method", "dialect", "is_free"),
    [
        ("generateContent", "gemini", False),
        ("streamGenerateContent", "gemini", False),
        ("countTokens", "gemini", True),
        ("embedContent", "gemini_embeddings", False),
        ("batchEmbedContents", "gemini_embeddings", False),
    ],
)
def test_both_versions_of_google_are_sent_on_as_one(version: str, method: str, dialect: str, is_free: bool) -> None:
    route = find(f"/{version}/models/gemini-3.5-flash-lite:{method}")
    assert route is not None
    assert (route.dialect.name, route.upstream, route.is_free) == (dialect, "gemini", is_free)
    assert route.path == f"/v1beta/models/gemini-3.5-flash-lite:{method}"


@pytest.mark.parametrize("method", ["converse", "converse-stream", "count-tokens"])
def test_a_model_in_a_path_of_aws_has_one_spelling_inside(method: str) -> None:
    for sent in ("a:b/c.d-1", "a%3Ab%2Fc.d-1", "a%3ab%2fc.d-1"):
        route = find(f"/model/{sent}/{method}")
        if "/" in sent:
            assert route is None  # a slash of its own would be another path
        else:
            assert route is not None
            assert (route.dialect.name, route.upstream, route.is_free) == (
                "bedrock_converse",
                "bedrock",
                method == "count-tokens",
            )
            assert route.path == f"/model/a:b/c.d-1/{method}"


@pytest.mark.parametrize("name", ["openai_completions", "gemini", "gemini_embeddings", "bedrock_converse"])
def test_a_path_of_another_dialect_is_no_call_of_one_that_reads_it(name: str) -> None:
    answer = DIALECTS[name].parse(Request("up", "/v1/x", {}, b'{"model":"m","prompt":"x"}'))
    assert isinstance(answer, Call if name == "openai_completions" else Refused)
