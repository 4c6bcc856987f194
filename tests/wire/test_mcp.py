"""The tool that tells an agent its budget, asked by the official client over stdio."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from bodies import CHAT
from click.testing import CliRunner
from conftest import SECRET, Wire
from mcp import Client, StdioServerParameters, stdio_client
from scripted import answer, play

from bursar.cli.main import cli
from bursar.cli.mcp import ask


@asynccontextmanager
async def agent(**environ: str) -> AsyncIterator[Client]:
    server = StdioServerParameters(command=sys.executable, args=["-m", "bursar", "mcp"], env={**os.environ, **environ})
    async with Client(stdio_client(server)) as client:
        yield client


async def test_an_agent_reads_its_budget_and_can_do_nothing_else(wire: Wire) -> None:
    wire.provider.script = play(answer(CHAT.reply))
    await wire.post(CHAT.path, CHAT.request, x_bursar_run="r1")
    await wire.settled(1)
    async with agent(BURSAR_URL=f"http://127.0.0.1:{wire.port}", BURSAR_KEY=SECRET) as client:
        (tool,) = (await client.list_tools()).tools
        assert (tool.name, tool.input_schema.get("properties", {})) == ("budget", {})
        assert tool.annotations is not None
        assert tool.annotations.read_only_hint is True
        got = await client.call_tool("budget", {})
        assert not got.is_error
        assert got.structured_content is not None
        said: dict[str, Any] = got.structured_content
        assert (said["key"], said["state"]) == ("wire", "open")
        assert {"left", "budgets", "resets_at", "advice"} <= said.keys()
        (row,) = [row for row in said["budgets"] if (row["scope"], row["unit"]) == ("key:wire", "usd")]
        assert (row["spent"], row["held"], row["limit"], row["left"]) == ("0.000012", "0.00", None, None)
        (row,) = [row for row in said["budgets"] if (row["scope"], row["unit"]) == ("key:wire", "calls")]
        assert row["spent"] == 1


async def test_it_says_what_is_wrong(wire: Wire) -> None:
    url = f"http://127.0.0.1:{wire.port}"
    with pytest.raises(ValueError, match=r"401: .*unknown or revoked"):
        await ask(url, "bursar-of-nobody")
    with pytest.raises(ValueError, match=r"404: .*not metered here"):
        await ask(f"{url}/v1", SECRET)
    with pytest.raises(ValueError, match="does not answer"):
        await ask("http://127.0.0.1:1", SECRET)
    wire.provider.script = play(answer(b"<html>", content_type="text/html"))
    with pytest.raises(ValueError, match="is BURSAR_URL a gateway of bursar"):
        await ask(wire.provider.url, SECRET)


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({}, "BURSAR_URL and BURSAR_KEY must be set; start the agent with `bursar run`"),
        ({"BURSAR_URL": "http://127.0.0.1:1"}, "BURSAR_KEY must be set"),
    ],
)
def test_it_needs_to_know_whom_to_ask(environ: dict[str, str], said: str) -> None:
    unset: dict[str, str | None] = {"BURSAR_URL": None, "BURSAR_KEY": None}
    got = CliRunner().invoke(cli, ["mcp"], env={**unset, **environ})
    assert (got.exit_code, said in got.output) == (1, True), got.output


def test_without_its_library_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mcp.server", None)
    got = CliRunner().invoke(cli, ["mcp"], env={"BURSAR_URL": "http://127.0.0.1:1", "BURSAR_KEY": "x"})
    assert "pip install 'bursar[mcp]'" in got.output
