"""`bursar mcp`: an MCP server over stdio with one tool, which tells an agent its budget."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import click

from bursar.cli.common import FailedError
from bursar.money import Money

if TYPE_CHECKING:
    from mcp.server import MCPServer

_AMOUNTS = ("limit", "spent", "held", "left")
_PATH = "/bursar/v1/me"
_ABOUT = (
    "What you may still spend on model calls: `left` (usd, calls, tokens; null is without limit) is the least of all "
    "budgets that your next call meets, `budgets` has each of them with what is spent and held and when it comes anew, "
    "`advice` says what to do. Reading it costs nothing. When little is left, finish what matters most; when a call "
    "was refused, do not try again before this says otherwise."
)


@click.command()
def mcp() -> None:
    """Serve the tool `budget` to an agent, as an MCP server over stdio.

    It asks the gateway at BURSAR_URL with the key in BURSAR_KEY; `bursar run` sets both for the agent. It can read the
    budget of that key, and nothing else. Agents start it themselves: `claude mcp add bursar -- bursar mcp`.

    Example: bursar mcp
    """
    url, key = os.environ.get("BURSAR_URL", ""), os.environ.get("BURSAR_KEY", "")
    missing = [name for name, value in (("BURSAR_URL", url), ("BURSAR_KEY", key)) if not value]
    if missing:
        hint = "start the agent with `bursar run`, or set them to your gateway and your key"
        raise FailedError(f"{' and '.join(missing)} must be set; {hint}")
    server(url, key).run()


def server(url: str, key: str) -> MCPServer[Any]:
    """Make the server that tells the budget of this key at the gateway of this URL; raises FailedError."""
    from importlib.metadata import version

    try:
        from mcp.server import MCPServer
        from mcp.types import ToolAnnotations
    except ImportError:  # not there, or older than what has these names
        raise FailedError("the library for MCP is not installed; pip install 'bursar[mcp]'") from None

    made: MCPServer[Any] = MCPServer("bursar", version=version("bursar"), log_level="ERROR")
    annotations = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)

    @made.tool(title="Budget", description=_ABOUT, annotations=annotations)
    async def budget() -> dict[str, Any]:
        return in_dollars(await ask(url, key))

    return made


def in_dollars(said: dict[str, Any]) -> dict[str, Any]:
    """Give the budgets as a model reads them: amounts of money in USD, and no ids."""
    budgets = [{name: value for name, value in row.items() if name != "id"} for row in said.get("budgets", ())]
    for row in budgets:
        if row.get("unit") == "usd":
            row |= {name: str(Money(row[name])) for name in _AMOUNTS if isinstance(row.get(name), int)}
    return {**said, "budgets": budgets}


async def ask(url: str, key: str) -> dict[str, Any]:
    """Give what the gateway says of the key's budget; raises ValueError with what to do about it."""
    from bursar.upstream.fetch import FetchError, fetch

    try:
        got = await fetch("GET", url.rstrip("/") + _PATH, {"authorization": f"Bearer {key}"}, b"")
    except FetchError as error:
        raise ValueError(f"the gateway at BURSAR_URL does not answer: {error}") from None
    said = _read(got.data)
    if got.status != 200 or not isinstance(said, dict):
        raise ValueError(f"the gateway answered {got.status}: {_why(said)}")
    return said


def _read(data: bytes) -> object:
    try:
        return json.loads(data)
    except ValueError:
        return None


def _why(said: object) -> str:
    match said:
        case {"error": {"message": str(message)}}:
            return message
        case _:
            return "is BURSAR_URL a gateway of bursar, without a path behind its port?"
