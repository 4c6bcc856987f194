"""Credentials that expire or sign: Claude on Bedrock and on Vertex, with the libraries that know how."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import importlib
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from bodies import MESSAGES
from conftest import Wire, wire_up
from frames import bedrock_stream
from scripted import Served, answer, chunked, play

from bursar.ledger.account import HoldState
from bursar.settings import SettingsError, parse

SONNET = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
SECRET_KEY = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"


async def the_end(wire: Wire) -> tuple[HoldState, str, int]:
    await wire.settled(1)
    (hold,) = await wire.holds()
    return hold.state, hold.basis, hold.captured.usd


# ---- AWS ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_PROFILE", "AWS_BEARER_TOKEN_BEDROCK", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_ROLE_ARN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "a-session")


def bedrock(folder: Path) -> Any:
    return wire_up(folder, upstreams={"bedrock": {"region": "eu-west-3"}})


async def claude(wire: Wire, name: str, model: str, **more: Any) -> Any:
    return await wire.post(f"/{name}/v1/messages", MESSAGES.request | {"model": model} | more, x_bursar_run="r1")


def signature_of(served: Served) -> str:
    """Compute the signature from what arrived, by the words of the standard."""
    said = served.header("authorization")
    signed = re.search(r"SignedHeaders=([^,]+)", said)
    assert signed is not None
    names = signed[1].split(";")
    # A path that is escaped already is escaped once more.
    path = served.path.replace("%", "%25")
    lines = [*(f"{name}:{served.header(name)}" for name in names), "", signed[1]]
    canonical = "\n".join(["POST", path, "", *lines, hashlib.sha256(served.body).hexdigest()])
    moment = served.header("x-amz-date")
    scope = f"{moment[:8]}/eu-west-3/bedrock/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", moment, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{SECRET_KEY}".encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), "sha256").digest()
    return hmac.new(key, text.encode(), "sha256").hexdigest()


async def test_a_request_to_bedrock_is_signed_as_it_is_sent(tmp_path: Path, aws: None) -> None:
    pytest.importorskip("botocore")
    async with bedrock(tmp_path) as wire:
        wire.provider.script = play(answer(MESSAGES.reply))
        got = await claude(wire, "bedrock", SONNET)
        assert (got.status, got.body) == (200, MESSAGES.reply)
        (served,) = wire.provider.served
        assert served.path == f"/model/{SONNET.replace(':', '%3A')}/invoke"
        assert served.header("x-amz-security-token") == "a-session"
        assert served.header("authorization").endswith(f"Signature={signature_of(served)}")
        assert {"host", "x-amz-date", "x-amz-security-token"} <= set(
            served.header("authorization").partition("SignedHeaders=")[2].partition(",")[0].split(";")
        )
        assert SECRET_KEY not in served.head
        assert await the_end(wire) == (HoldState.CAPTURED, "metered", MESSAGES.cost_nanodollars * 11 // 10)


async def test_a_stream_of_bedrock_reaches_the_client_as_server_sent_events(tmp_path: Path, aws: None) -> None:
    pytest.importorskip("botocore")
    async with bedrock(tmp_path) as wire:
        frames = bedrock_stream(MESSAGES.stream)
        raw = chunked(
            *(frames[i : i + 50] for i in range(0, len(frames), 50)), content_type="application/vnd.amazon.eventstream"
        )
        wire.provider.script = play(raw)
        got = await claude(wire, "bedrock", SONNET, stream=True)
        assert (got.status, got.headers["content-type"]) == (200, "text/event-stream")
        assert got.is_complete
        assert got.body == b"".join(MESSAGES.stream)
        assert wire.provider.served[0].path.endswith("/invoke-with-response-stream")
        assert await the_end(wire) == (HoldState.CAPTURED, "metered", MESSAGES.cost_nanodollars * 11 // 10)


@pytest.mark.parametrize("damage", [b"", b"\x00" * 20], ids=["cut", "garbage"])
async def test_a_damaged_stream_of_bedrock_is_presumed_and_never_looks_complete(
    tmp_path: Path, aws: None, damage: bytes
) -> None:
    pytest.importorskip("botocore")
    async with bedrock(tmp_path) as wire:
        frames = bedrock_stream(MESSAGES.stream)
        wire.provider.script = play(chunked(frames[:-5] + damage, content_type="application/vnd.amazon.eventstream"))
        got = await claude(wire, "bedrock", SONNET, stream=True)
        assert not got.is_complete
        state, basis, _captured = await the_end(wire)
        assert (state, basis) == (HoldState.CAPTURED, "presumed")


async def test_without_credentials_nothing_is_sent_and_nothing_is_charged(
    tmp_path: Path, aws: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("botocore")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    async with bedrock(tmp_path) as wire:
        got = await claude(wire, "bedrock", SONNET)
        assert (got.status, "no AWS credentials" in got.body.decode()) == (502, True)
        assert wire.provider.served == []
        assert (await the_end(wire))[0] is HoldState.VOID


async def test_a_gateway_without_the_library_starts_and_says_which_one_to_install(
    tmp_path: Path, aws: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = importlib.import_module

    def missing(name: str, package: str | None = None) -> Any:
        if name.startswith("botocore"):
            raise ImportError(name)
        return there(name, package)

    monkeypatch.setattr(importlib, "import_module", missing)
    async with bedrock(tmp_path) as wire:
        got = await claude(wire, "bedrock", SONNET)
        assert (got.status, "pip install 'bursar[bedrock]'" in got.body.decode()) == (400, True)
        assert await wire.holds() == ()


# ---- Google ---------------------------------------------------------------------------------------------------------


TOKEN = "ya29.an-access-token"


@asynccontextmanager
async def vertex(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    token: bytes,
    status: int = 200,
    name: str = "vertex-anthropic",
    reply: bytes = MESSAGES.reply,
    **settings: Any,
) -> AsyncIterator[Wire]:
    """Give a gateway whose Google credentials are a service account, and whose token server is the provider."""
    pytest.importorskip("google.auth")
    base = {"project": "my-project", "region": "europe-west1", "base_url": "PROVIDER"} | settings
    async with wire_up(folder, upstreams={name: base}) as wire:

        async def script(served: Served, writer: asyncio.StreamWriter) -> None:
            is_token = served.path == "/token"
            writer.write(answer(token, status=status) if is_token else answer(reply))
            await writer.drain()

        wire.provider.script = script
        account = folder / "account.json"
        account.write_text(json.dumps(service_account(wire.provider.url)), encoding="utf-8")
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(account))
        yield wire


def service_account(url: str) -> dict[str, str]:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return {
        "type": "service_account",
        "project_id": "my-project",
        "private_key_id": "1",
        "private_key": key.decode(),
        "client_email": "a@my-project.iam.gserviceaccount.com",
        "client_id": "1",
        "token_uri": f"{url}/token",
    }


def a_token(seconds: int) -> bytes:
    return json.dumps({"access_token": TOKEN, "expires_in": seconds, "token_type": "Bearer"}).encode()


async def test_a_token_of_google_is_asked_for_once_and_sent_with_every_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with vertex(tmp_path, monkeypatch, a_token(3600)) as wire:
        for number in (1, 2):
            got = await claude(wire, "vertex-anthropic", "claude-sonnet-4-5@20250929", stream=number == 2)
            assert got.status == 200, got.body
        asked, *calls = wire.provider.served
        assert asked.path == "/token"
        assert b"grant_type=urn" in asked.body
        model = "/v1/projects/my-project/locations/europe-west1/publishers/anthropic/models/claude-sonnet-4-5@20250929"
        assert [call.path for call in calls] == [f"{model}:rawPredict", f"{model}:streamRawPredict"]
        for call in calls:
            assert call.header("authorization") == f"Bearer {TOKEN}"
            assert call.json["anthropic_version"] == "vertex-2023-10-16"
            assert not {"model", "service_tier"} & call.json.keys()
        await wire.settled(2)
        # The second one was a stream, which the provider answered with what is none.
        assert MESSAGES.cost_nanodollars * 11 // 10 in [hold.captured.usd for hold in await wire.holds()]


async def test_a_token_that_has_ended_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with vertex(tmp_path, monkeypatch, a_token(1), region="global") as wire:
        for _ in range(2):
            await claude(wire, "vertex-anthropic", "claude-sonnet-4-5")
        assert [served.path.partition("/models")[0] for served in wire.provider.served] == [
            "/token",
            "/v1/projects/my-project/locations/global/publishers/anthropic",
        ] * 2
        await wire.settled(2)
        assert [hold.captured.usd for hold in await wire.holds()] == [MESSAGES.cost_nanodollars] * 2


@pytest.mark.parametrize(("token", "status"), [(b'{"error":"invalid_grant"}', 400), (b"not json", 200), (b"", 500)])
async def test_where_google_gives_no_token_nothing_is_sent_and_nothing_said_of_the_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: bytes, status: int
) -> None:
    async with vertex(tmp_path, monkeypatch, token, status) as wire:
        got = await claude(wire, "vertex-anthropic", "claude-sonnet-4-5")
        assert (got.status, "Google gave no access token" in got.body.decode()) == (502, True)
        assert "iam.gserviceaccount" not in got.body.decode()
        assert {served.path for served in wire.provider.served} == {"/token"}
        assert (await the_end(wire))[0] is HoldState.VOID


async def test_where_the_token_server_is_not_there_nothing_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with vertex(tmp_path, monkeypatch, b"") as wire:
        account = service_account("http://127.0.0.1:1")
        (tmp_path / "account.json").write_text(json.dumps(account), encoding="utf-8")
        got = await claude(wire, "vertex-anthropic", "claude-sonnet-4-5")
        assert (got.status, "TransportError" in got.body.decode()) == (502, True)
        assert (await the_end(wire))[0] is HoldState.VOID


@pytest.mark.parametrize("name", ["bedrock", "vertex", "vertex-anthropic"])
def test_a_region_is_asked_for_at_start(name: str) -> None:
    with pytest.raises(SettingsError, match="region"):
        parse({"upstreams": {name: {}}}, "bursar.toml")
