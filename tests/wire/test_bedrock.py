"""Bedrock's Converse API with the client of AWS itself (`botocore`, which is what `boto3.client` gives), unmodified."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import KEY_ENV, SECRET, Wire, wire_up
from frames import frame
from scripted import Answer, Served, answer, chunked, exchange, play, request

from bursar.cli.agents import environment
from bursar.dialects import bedrock_frames
from bursar.events import CallDenied
from bursar.ledger.account import HoldState, Unit
from bursar.upstream.counting import is_providers_own

botocore = pytest.importorskip("botocore")

MODEL = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
SENT_MODEL = MODEL.replace(":", "%3A")
PATH = f"/model/{SENT_MODEL}"
HELLO: list[dict[str, Any]] = [{"role": "user", "content": [{"text": "hello"}]}]
USAGE = {"inputTokens": 10, "outputTokens": 5, "totalTokens": 15}
# $3 and $15 per million tokens, and a tenth more outside the global profile.
COST = 10 * 3_300 + 5 * 16_500
SAID = {"role": "assistant", "content": [{"text": "hi \u4e16\u754c"}]}
REPLY = {"output": {"message": SAID}, "stopReason": "end_turn", "usage": USAGE, "metrics": {"latencyMs": 7}}
TOOLS = {"tools": [{"toolSpec": {"name": "look", "description": "d", "inputSchema": {"json": {"type": "object"}}}}]}


def event(kind: str, payload: dict[str, Any]) -> bytes:
    headers = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    return frame(headers, json.dumps(payload, ensure_ascii=False).encode())


EVENTS = (
    event("messageStart", {"role": "assistant", "p": "abcd"}),
    event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "hi \u4e16\u754c"}, "p": "ab"}),
    event("contentBlockStop", {"contentBlockIndex": 0}),
    event("messageStop", {"stopReason": "end_turn"}),
    event("metadata", {"usage": USAGE, "metrics": {"latencyMs": 7}}),
)
STREAM = chunked(*EVENTS, content_type=bedrock_frames.CONTENT_TYPE)


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    # As `bursar run` has it, but for the endpoint, whose port is not known yet.
    monkeypatch.delenv("AWS_BEARER_TOKEN_BEDROCK", raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", SECRET)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)


def with_bedrock(**more: Any) -> dict[str, Any]:
    upstream = {"region": "us-east-1", "base_url": "PROVIDER"}
    return {"secrets": {"bedrock": "real-bedrock-key"}, "upstreams": {"bedrock": upstream}, **more}


@pytest.fixture
async def wire(tmp_path: Path, aws: None) -> AsyncIterator[Wire]:
    async with wire_up(tmp_path, **with_bedrock()) as made:
        made.provider.script = play(answer(json.dumps(REPLY).encode()))
        yield made


def client(wire: Wire, **config: Any) -> Any:
    from botocore.config import Config
    from botocore.session import get_session

    return get_session().create_client(
        "bedrock-runtime", endpoint_url=f"http://127.0.0.1:{wire.port}/r/r1", config=Config(**config)
    )


async def asked(call: Callable[..., Any], **fields: Any) -> Any:
    """Ask in a thread: the client of AWS knows no other way."""
    return await asyncio.to_thread(lambda: call(modelId=MODEL, **({"messages": HELLO} | fields)))


async def booked(wire: Wire, calls: int = 1) -> int:
    await wire.settled(calls)
    assert [(hold.state, hold.basis) for hold in await wire.holds()] == [(HoldState.CAPTURED, "metered")] * calls
    assert (await wire.account("run:r1", Unit.CALLS)).captured == calls
    return (await wire.account("run:r1")).captured


async def post(wire: Wire, path: str, body: object, **headers: str) -> Answer:
    return await wire.post(path, body, x_bursar_run="r1", **headers)


async def test_the_client_of_aws_converses(wire: Wire) -> None:
    got = await asked(
        client(wire).converse,
        system=[{"text": "be kind"}, {"cachePoint": {"type": "default"}}],
        inferenceConfig={"maxTokens": 50, "temperature": 0.5, "stopSequences": ["x"]},
        toolConfig=TOOLS | {"toolChoice": {"auto": {}}},
        additionalModelRequestFields={"top_k": 5},
        requestMetadata={"team": "a"},
    )
    assert got["output"]["message"] == SAID
    assert got["usage"] == USAGE
    assert await booked(wire) == COST
    (served,) = wire.provider.served
    assert served.path == f"{PATH}/converse"
    assert served.header("authorization") == "Bearer real-bedrock-key"
    assert SECRET not in served.head
    assert served.json["inferenceConfig"] == {"maxTokens": 50, "temperature": 0.5, "stopSequences": ["x"]}
    assert served.json["toolConfig"] == TOOLS | {"toolChoice": {"auto": {}}}


async def test_under_bursar_run_the_client_of_aws_needs_no_setting(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    from botocore.session import get_session

    url, upstreams = f"http://127.0.0.1:{wire.port}", {"bedrock": "AWS_BEARER_TOKEN_BEDROCK"}
    child = environment(dict(os.environ), ["agent"], url, SECRET, "r1", upstreams)
    for name in {name for name in (*os.environ, *child) if name.startswith("AWS_")}:
        if name in child:
            monkeypatch.setenv(name, child[name])
        else:
            monkeypatch.delenv(name)
    got = await asked(get_session().create_client("bedrock-runtime").converse)
    assert got["usage"] == USAGE
    assert len(wire.provider.served) == 1


async def test_the_client_of_aws_streams(wire: Wire) -> None:
    wire.provider.script = play(STREAM)

    def stream() -> list[dict[str, Any]]:
        return list(client(wire).converse_stream(modelId=MODEL, messages=HELLO)["stream"])

    events = await asyncio.to_thread(stream)
    assert [next(iter(one)) for one in events] == [
        "messageStart",
        "contentBlockDelta",
        "contentBlockStop",
        "messageStop",
        "metadata",
    ]
    assert events[1]["contentBlockDelta"]["delta"]["text"] == "hi \u4e16\u754c"
    assert events[-1]["metadata"]["usage"] == USAGE
    assert await booked(wire) == COST
    (served,) = wire.provider.served
    assert served.path == f"{PATH}/converse-stream"
    assert served.json["inferenceConfig"] == {"maxTokens": 32_768}


@pytest.mark.parametrize("mode", ["legacy", "standard", "adaptive"])
@pytest.mark.parametrize("stream", [False, True])
async def test_at_the_cap_the_client_of_aws_raises_its_typed_error_after_one_attempt(
    tmp_path: Path, aws: None, mode: str, stream: bool
) -> None:
    from botocore.exceptions import ClientError

    keys = {"wire": {"key_env": KEY_ENV, "run": {"calls": 1, "usd": "1"}}}
    async with wire_up(tmp_path, **with_bedrock(keys=keys)) as wire:
        wire.provider.script = play(STREAM if stream else answer(json.dumps(REPLY).encode()))
        one = client(wire, retries={"mode": mode, "max_attempts": 3})
        await asked(one.converse_stream if stream else one.converse)
        with pytest.raises(ClientError) as raised:
            await asked(one.converse_stream if stream else one.converse)
        assert type(raised.value).__name__ == "ServiceQuotaExceededException"
        assert "the cap of 1 calls on run:r1 is spent" in str(raised.value)
        assert len(wire.provider.served) == 1
        assert len([event for event in wire.events if isinstance(event, CallDenied)]) == 1


async def test_the_client_of_aws_counts_for_free(wire: Wire) -> None:
    wire.provider.script = play(answer(b'{"inputTokens":17}'))
    model = MODEL.removeprefix("us.")
    got = await asked(
        lambda **fields: client(wire).count_tokens(modelId=model, input={"converse": {"messages": fields["messages"]}})
    )
    assert got["inputTokens"] == 17
    assert wire.provider.served[0].path == f"/model/{model.replace(':', '%3A')}/count-tokens"
    assert await wire.holds() == ()


async def test_a_long_prompt_near_the_cap_is_counted_and_fits(tmp_path: Path, aws: None) -> None:
    keys = {"wire": {"key_env": KEY_ENV, "run": {"usd": "0.20"}}}
    upstreams = with_bedrock()["upstreams"]
    upstreams["bedrock"] |= {"counts_input": True}
    body = {
        "messages": [{"role": "user", "content": [{"text": "word " * 10_000}]}],
        "inferenceConfig": {"maxTokens": 500},
    }
    async with wire_up(tmp_path, **with_bedrock(keys=keys, upstreams=upstreams)) as wire:

        async def script(served: Served, writer: asyncio.StreamWriter) -> None:
            is_count = served.path.endswith("/count-tokens")
            writer.write(answer(b'{"inputTokens":10006}' if is_count else json.dumps(REPLY).encode()))
            await writer.drain()

        wire.provider.script = script
        got = await post(wire, f"{PATH}/converse", body)
        assert got.status == 200, got.body
        counted, sent = wire.provider.served
        assert counted.path == f"/model/{SENT_MODEL.removeprefix('us.')}/count-tokens"
        assert counted.json == {"input": {"converse": {"messages": body["messages"]}}}
        assert sent.json == body
        assert await booked(wire) == COST


async def test_a_guardrail_is_refused_with_a_reason(wire: Wire) -> None:
    from botocore.exceptions import ClientError

    with pytest.raises(ClientError, match="`guardrailConfig` is refused") as raised:
        await asked(client(wire).converse, guardrailConfig={"guardrailIdentifier": "g", "guardrailVersion": "1"})
    assert raised.value.response["Error"]["Code"] == "ValidationException"
    assert wire.provider.served == []


async def test_an_arn_is_refused_until_it_has_a_price(tmp_path: Path, aws: None) -> None:
    arn = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc123"
    own = {"input": "3", "output": "15", "context_tokens": 200_000, "output_tokens_max": 64_000}
    for models, status in (({}, 422), ({arn: own}, 200)):
        folder = tmp_path / str(status)
        folder.mkdir()
        async with wire_up(folder, **with_bedrock(models=models)) as wire:
            wire.provider.script = play(answer(json.dumps(REPLY).encode()))
            sent = arn.replace(":", "%3A").replace("/", "%2F")
            got = await post(wire, f"/model/{sent}/converse", {"messages": HELLO})
            assert got.status == status, got.body
            assert [served.path for served in wire.provider.served] == [f"/model/{sent}/converse"] * (status == 200)
            assert status == 200 or f'[models."{arn}"]' in str(got.json["message"])


async def test_a_damaged_stream_comes_through_as_it_is_and_is_presumed(wire: Wire) -> None:
    whole = b"".join(EVENTS)
    for number, damage in enumerate((whole[:-1], whole[:-1] + b"\0", b"".join(EVENTS[:-1])), start=1):
        wire.provider.script = play(chunked(damage, content_type=bedrock_frames.CONTENT_TYPE))
        got = await post(wire, f"{PATH}/converse-stream", {"messages": HELLO})
        assert (got.status, got.body) == (200, damage)
        await wire.settled(number)
    assert {hold.basis for hold in await wire.holds()} == {"presumed"}


async def test_what_bedrock_answers_with_is_passed_on_and_billed_by_its_words(wire: Wire) -> None:
    for status, state in ((400, HoldState.VOID), (424, HoldState.CAPTURED), (429, HoldState.VOID)):
        error = json.dumps({"message": "no"}).encode()
        wire.provider.script = play(answer(error, status, extra="x-amzn-ErrorType: SomeException:http://x/\r\n"))
        got = await post(wire, f"{PATH}/converse", {"messages": HELLO})
        assert (got.status, got.body) == (status, error)
        assert got.headers["x-amzn-errortype"] == "SomeException:http://x/"
        assert (await wire.settled(1))[-1].state == str(state)
        wire.events.clear()


async def test_without_the_upstream_the_refusal_says_what_to_set(tmp_path: Path) -> None:
    async with wire_up(tmp_path) as wire:
        got = await post(wire, f"{PATH}/converse", {"messages": HELLO})
        assert got.status == 404
        assert got.json["__type"] == "ResourceNotFoundException"
        assert "[upstreams.bedrock]" in str(got.json["message"])
        raw = request(f"/openai{PATH}/converse", b"{}", {"authorization": f"Bearer {SECRET}"})
        assert "does not speak this dialect" in str((await exchange(wire.port, raw)).json["message"])
        assert wire.provider.served == []


async def test_another_model_takes_over_where_the_first_one_fails(tmp_path: Path, aws: None) -> None:
    spare = "global.anthropic.claude-sonnet-4-5-20250929-v1:0"
    # The one between speaks the other format of Bedrock only.
    fallback = {MODEL: ["bedrock", "anthropic/claude-sonnet-4-5", f"other/{spare}"]}
    other = {"provider": "bedrock", "region": "eu-west-3", "base_url": "PROVIDER"}
    upstreams = with_bedrock()["upstreams"] | {"other": other}
    secrets = {"bedrock": "real-bedrock-key", "other": "real-other-key"}
    async with wire_up(tmp_path, secrets=secrets, upstreams=upstreams, fallback=fallback) as wire:

        async def script(served: Served, writer: asyncio.StreamWriter) -> None:
            is_first = MODEL in served.path.replace("%3A", ":")
            writer.write(answer(b"{}", 429) if is_first else answer(json.dumps(REPLY).encode()))
            await writer.drain()

        wire.provider.script = script
        got = await post(wire, f"{PATH}/converse", {"messages": HELLO})
        assert (got.status, got.json["usage"]) == (200, USAGE)
        assert [served.path for served in wire.provider.served] == [
            f"{PATH}/converse",
            f"/model/{spare.replace(':', '%3A')}/converse",
        ]
        await wire.settled(3)
        assert (await wire.account("run:r1")).captured == COST * 10 // 11


def signed_with(key: str) -> str:
    return f"AWS4-HMAC-SHA256 Credential={key}/20261124/us-east-1/bedrock/aws4_request, SignedHeaders=host, Signature=0"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"authorization": signed_with(SECRET)}, 200),
        ({"authorization": signed_with("AKIDEXAMPLE")}, 401),
        ({"authorization": signed_with("")}, 401),
        ({"authorization": "AWS4-HMAC-SHA256 Credential=" + SECRET}, 401),
        ({"authorization": signed_with(SECRET), "x-api-key": "another"}, 401),
    ],
)
async def test_the_id_of_the_key_that_signs_is_the_key(wire: Wire, headers: dict[str, str], status: int) -> None:
    raw = request(f"{PATH}/converse", json.dumps({"messages": HELLO}).encode(), headers)
    got = await exchange(wire.port, raw)
    assert got.status == status
    assert len(wire.provider.served) == (status == 200)
    assert status == 200 or got.json["__type"] == "AccessDeniedException"


@pytest.mark.parametrize(
    ("url", "is_own"),
    [
        ("https://bedrock-runtime.eu-west-3.amazonaws.com", True),
        ("https://bedrock-runtime.eu-west-3.amazonaws.com/", True),
        ("http://bedrock-runtime.eu-west-3.amazonaws.com", False),
        ("https://bedrock-runtime.eu-west-3.amazonaws.com.example.com", False),
        ("https://bedrock-runtime.a.b.amazonaws.com", False),
        ("https://proxy.example.com", False),
    ],
)
def test_only_the_count_of_aws_itself_is_believed_unasked(url: str, is_own: bool) -> None:
    assert is_providers_own(url) == is_own
