"""A real LiteLLM proxy behind bursar, and before it: one call is one purchase, and both tell the same of it.

Runs where `BURSAR_AGENTS` is set and `make bench` has installed the proxy.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from bodies import CHAT
from conftest import SECRET, Wire, wire_up
from scripted import Answer, Served, answer, chunked, exchange, play, request

from bursar.ledger.account import HoldState

PROXY = Path(__file__).parents[2] / "bench" / ".venv-litellm" / "bin" / "litellm"
MASTER = "sk-litellm-master"
pytestmark = pytest.mark.skipif(
    not (os.environ.get("BURSAR_AGENTS") and PROXY.exists()), reason="BURSAR_AGENTS is not set, or there is no LiteLLM"
)
STARTED_SECONDS_MAX = 120


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@asynccontextmanager
async def proxy(folder: Path, port: int, api_base: str, api_key: str) -> AsyncIterator[None]:
    """Run LiteLLM's proxy with its usual retries, before an OpenAI-compatible server."""
    model = {"model": "openai/gpt-4.1-mini", "api_base": api_base, "api_key": api_key}
    config = {
        "model_list": [{"model_name": "fast", "litellm_params": model}],
        "router_settings": {"num_retries": 2},
        "general_settings": {"master_key": MASTER},
    }
    (folder / "litellm.yaml").write_text(json.dumps(config), encoding="utf-8")
    command = [str(PROXY), "--config", str(folder / "litellm.yaml"), "--host", "127.0.0.1", "--port", str(port)]
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False", "DISABLE_ADMIN_UI": "True"}
    plain = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env=plain | quiet,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    drained = None
    try:
        async with asyncio.timeout(STARTED_SECONDS_MAX):
            async for line in process.stdout:
                if b"Uvicorn running" in line:
                    break
        drained = asyncio.create_task(process.stdout.read())
        yield
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        if drained is not None:
            await drained


async def ask_proxy(port: int, **more: Any) -> Answer:
    body = json.dumps(CHAT.request | {"model": "fast"} | more).encode()
    named = {"authorization": f"Bearer {MASTER}", "content-type": "application/json"}
    return await exchange(port, request("/v1/chat/completions", body, named))


def purchases(wire: Wire) -> list[Served]:
    """Give what the provider was asked to generate; the proxy also asks it for its models."""
    return [served for served in wire.provider.served if served.head.startswith("POST ")]


async def the_ends(wire: Wire, count: int) -> list[tuple[HoldState, str, int]]:
    await wire.settled(count)
    assert await wire.audit() == []
    return [(hold.state, hold.basis, hold.captured.usd) for hold in await wire.holds()]


async def test_bursar_before_litellm_buys_once_and_meters_streams_and_replies(tmp_path: Path) -> None:
    port = free_port()
    litellm = {"base_url": f"http://127.0.0.1:{port}", "deployments": {"fast": "gpt-4.1-mini"}}
    async with (
        wire_up(tmp_path, secrets={"litellm": MASTER}, upstreams={"litellm": litellm}) as wire,
        proxy(tmp_path, port, f"{wire.provider.url}/v1", "sk-upstream"),
    ):
        wire.provider.script = play(answer(CHAT.reply))
        plain = {name: value for name, value in CHAT.request.items() if name != "max_tokens"}
        got = await wire.post("/litellm/v1/chat/completions", plain | {"model": "fast"}, x_bursar_run="r1")
        assert got.status == 200, got.body
        wire.provider.script = play(chunked(*CHAT.stream))
        asked = CHAT.request | {"model": "fast", "stream": True}
        got = await wire.post("/litellm/v1/chat/completions", asked, x_bursar_run="r1")
        assert (got.status, got.is_complete) == (200, True)
        served = purchases(wire)
        assert [call.header("authorization") for call in served] == ["Bearer sk-upstream"] * 2
        assert isinstance(served[0].json["max_completion_tokens"], int)
        assert served[1].json["max_tokens"] == 100
        assert served[1].json["stream_options"] == {"include_usage": True}
        assert await the_ends(wire, 2) == [(HoldState.CAPTURED, "metered", CHAT.cost_nanodollars)] * 2


async def test_litellm_behind_bursar_does_not_buy_again_after_an_error(tmp_path: Path) -> None:
    port = free_port()
    litellm = {"base_url": f"http://127.0.0.1:{port}", "deployments": {"fast": "gpt-4.1-mini"}}
    async with (
        wire_up(tmp_path, secrets={"litellm": MASTER}, upstreams={"litellm": litellm}) as wire,
        proxy(tmp_path, port, f"{wire.provider.url}/v1", "sk-upstream"),
    ):
        wire.provider.script = play(answer(b'{"error":{"message":"no","type":"server_error"}}', status=500))
        asked = CHAT.request | {"model": "fast"}
        got = await wire.post("/litellm/v1/chat/completions", asked, x_bursar_run="r1")
        assert got.status == 500
        assert len(purchases(wire)) == 1
        ((state, basis, _usd),) = await the_ends(wire, 1)
        assert (state, basis) == (HoldState.CAPTURED, "presumed")


async def test_bursar_behind_litellm_meters_and_its_cap_ends_the_calls(tmp_path: Path) -> None:
    port = free_port()
    caps = {"wire": {"run": {"usd": "1.00", "calls": 2}}}
    async with (
        wire_up(tmp_path, keys={"wire": {"key_env": "BURSAR_WIRE_TEST_KEY", **caps["wire"]}}) as wire,
        proxy(tmp_path, port, f"http://127.0.0.1:{wire.port}/r/r1/v1", SECRET),
    ):
        wire.provider.script = play(answer(CHAT.reply))
        assert (await ask_proxy(port)).status == 200
        wire.provider.script = play(chunked(*CHAT.stream))
        got = await ask_proxy(port, stream=True)
        assert (got.status, got.is_complete) == (200, True)
        refused = await ask_proxy(port)
        assert refused.status == 429
        assert "cap" in refused.body.decode()
        assert len(purchases(wire)) == 2
        assert await the_ends(wire, 2) == [(HoldState.CAPTURED, "metered", CHAT.cost_nanodollars)] * 2
