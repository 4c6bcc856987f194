"""A real gateway on a real socket with a real ledger, in front of a scripted provider."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from scripted import Answer, Provider, exchange, provider, request

from bursar.edge.app import Gateway, create_app
from bursar.edge.server import GatewayProtocol
from bursar.events import CallSettled, Event
from bursar.ledger.account import Account, Unit
from bursar.ledger.store import HoldRow, Store
from bursar.settings import parse
from bursar.stores import open_store

SECRET = "bursar-wire-test-secret"
KEY_ENV = "BURSAR_WIRE_TEST_KEY"
PROVIDER_KEYS = {"openai": "sk-real-openai", "anthropic": "sk-real-anthropic"}
MODEL = "gpt-4.1-mini"
CLAUDE = "claude-sonnet-4-5"


@dataclass
class Wire:
    """The gateway under test and what surrounds it."""

    port: int
    provider: Provider
    gateway: Gateway
    events: list[Event] = field(default_factory=list)

    @property
    def store(self) -> Store:
        return self.gateway.store

    async def post(self, path: str, body: object, **headers: str) -> Answer:
        return await exchange(self.port, self.raw(path, body, **headers))

    def raw(self, path: str, body: object, **headers: str) -> bytes:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {"authorization": f"Bearer {SECRET}", "content-type": "application/json"}
        named |= {name.replace("_", "-"): value for name, value in headers.items()}
        return request(path, raw, named)

    async def account(self, scope: str, unit: Unit = Unit.USD) -> Account:
        (found,) = [account for account in await self.store.accounts(scope) if account.unit is unit]
        return found

    async def holds(self) -> tuple[HoldRow, ...]:
        return await self.store.holds()

    async def settled(self, count: int) -> list[CallSettled]:
        """Wait until this many calls are settled in the books."""
        while len(found := [event for event in self.events if isinstance(event, CallSettled)]) < count:
            await asyncio.wait_for(self._tick.wait(), 20)
            self._tick.clear()
        return found

    _tick: asyncio.Event = field(default_factory=asyncio.Event)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def note(self, event: Event) -> None:
        self.events.append(event)
        self._tick.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let everybody else run until the condition holds."""
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.001)

    async def audit(self) -> list[Any]:
        return list(await self.store.audit())  # type: ignore[attr-defined]


def settings_for(base_url: str, **changes: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {
        "upstreams": {
            "openai": {"base_url": base_url, "key_env": "WIRE_OPENAI"},
            "anthropic": {"base_url": base_url, "key_env": "WIRE_ANTHROPIC"},
        },
        "keys": {"wire": {"key_env": KEY_ENV, "run": {"usd": "1.00", "calls": 20}}},
        "policy": {"wait_seconds_max": 0, "read_on_seconds_max": 5},
        # Tests ask the same again and again; those of loops take it out.
        "defaults": {"run": {"loops": "none"}},
    }
    for section, values in changes.items():
        made[section] = {**made.get(section, {}), **values}
    return made


@asynccontextmanager
async def wire_up(
    folder: Path,
    every_upstream: dict[str, Any] | None = None,
    secrets: dict[str, str] | None = None,
    **changes: dict[str, Any],
) -> AsyncIterator[Wire]:
    os.environ[KEY_ENV] = SECRET
    async with provider() as upstream:
        given = settings_for(upstream.url, **changes)
        for one in given["upstreams"].values():
            one.update(every_upstream or {})
            # Where a test does not know the provider's port yet, it writes PROVIDER.
            one["base_url"] = one.get("base_url", "PROVIDER").replace("PROVIDER", upstream.url)
        settings = parse(given, "test")
        store = open_store(f"sqlite:///{folder / 'ledger.db'}")
        gateway = create_app(settings, store, PROVIDER_KEYS | (secrets or {}))
        config = uvicorn.Config(
            gateway,
            host="127.0.0.1",
            port=0,
            log_level="critical",
            ws="none",
            http=GatewayProtocol,
            server_header=False,
            date_header=False,
            proxy_headers=False,
        )
        server = Server(config)
        server.capture_signals = _nothing  # type: ignore[method-assign]
        task = asyncio.create_task(server.serve())
        while not server.started:
            assert not task.done(), "the gateway did not start"
            # Not 0: a loop that spins keeps the thread that makes the ledger from running.
            await asyncio.sleep(0.001)
        wire = Wire(server.servers[0].sockets[0].getsockname()[1], upstream, gateway)
        gateway.events.subscribe(wire.note)
        try:
            yield wire
        finally:
            wire.stopping.set()
            server.ending.set()
            await task


class Server(uvicorn.Server):
    """Ends when it is told to; uvicorn's own looks ten times a second whether it has to."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ending = asyncio.Event()

    async def main_loop(self) -> None:
        await self.on_tick(0)
        await self.ending.wait()


class _nothing:  # noqa: N801
    def __enter__(self) -> None: ...
    def __exit__(self, *_exc: object) -> None: ...


@pytest.fixture
async def wire(tmp_path: Path) -> AsyncIterator[Wire]:
    async with wire_up(tmp_path) as made:
        yield made
