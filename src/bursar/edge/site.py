"""The gateway that serves now: a reload puts another in its place, and the one before ends its calls in peace."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bursar.edge.app import Gateway, create_app, live
from bursar.edge.asgi import Receive, Scope, Send
from bursar.edge.canary import Canary
from bursar.ledger.store import LedgerUnavailableError
from bursar.pricing.newer import WrongBookError
from bursar.settings import Settings, SettingsError, load
from bursar.stores import open_store

_log = logging.getLogger("bursar")


@dataclass(slots=True)
class _Serving:
    """A gateway and how many requests it answers at the moment."""

    gateway: Gateway
    requests: int = 0
    is_quiet: asyncio.Event = field(default_factory=asyncio.Event)


class Site:
    """An ASGI application whose settings can be read anew without a connection or a stream being cut."""

    def __init__(self, gateway: Gateway, read: Callable[[], Settings], make: Callable[[Settings], Gateway]) -> None:
        """Serve with a gateway; `read` gives the settings as they are now, `make` a gateway on the same ledger."""
        self._now = _Serving(gateway)
        self._read = read
        self._make = make
        self._turn = asyncio.Lock()
        self._leaving: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event of the server with the gateway of this moment."""
        if scope["type"] == "lifespan":
            await live(receive, send, self._start, self._stop)
            return
        serving = self._now
        serving.requests += 1
        try:
            await serving.gateway(scope, receive, send)
        finally:
            serving.requests -= 1
            if not serving.requests and serving is not self._now:
                serving.is_quiet.set()

    @property
    def gateway(self) -> Gateway:
        """Give the gateway of this moment."""
        return self._now.gateway

    @property
    def canary(self) -> Canary:
        """Give what proves that the cap holds; the same for every gateway of the process."""
        return self.gateway.canary

    async def _start(self) -> None:
        await self._now.gateway.start()

    async def _stop(self) -> None:
        if self._leaving:
            await asyncio.wait(self._leaving)
        await self._now.gateway.stop()

    async def reload(self) -> bool:
        """Read the settings anew and serve with them from the next request on; give whether that was possible.

        Settings that are wrong change nothing. Ledger and listening address stay as they are until a restart.
        """
        async with self._turn:
            try:
                gateway = await self._begun()
            except (SettingsError, WrongBookError, LedgerUnavailableError, OSError, ValueError) as error:
                _log.error("the settings were not read anew, those from before hold: %s", error)
                return False
            before, self._now = self._now, _Serving(gateway)
            if not before.requests:
                before.is_quiet.set()
            leaving = asyncio.create_task(_leave(before))
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)
            _log.warning("the settings were read anew")
            self.canary.hurry()
            return True

    async def _begun(self) -> Gateway:
        old, new = self._now.gateway.settings, self._read()
        for part in ("ledger", "server"):
            if getattr(old, part) != getattr(new, part):
                _log.warning("[%s] has changed; that takes a restart, until then it is as before", part)
        gateway = self._make(new.model_copy(update={"ledger": old.ledger, "server": old.server}))
        await gateway.begin()
        return gateway


async def _leave(serving: _Serving) -> None:
    await serving.is_quiet.wait()
    await serving.gateway.end()


def create_site(read: Callable[[], Settings]) -> Site:
    """Make the application of a gateway that reads its settings with `read`, now and at each reload."""
    settings = read()
    store = open_store(settings.ledger.url, settings.ledger.marker)
    gateway = create_app(settings, store, settings.provider_keys(os.environ))

    def make(settings: Settings) -> Gateway:
        return Gateway(settings, store, settings.provider_keys(os.environ), gateway.metrics, gateway.canary)

    return Site(gateway, read, make)


def read_environment() -> Settings:
    """Read the settings of a worker process from BURSAR_CONFIG and BURSAR_LEDGER; raises SettingsError."""
    config = os.environ.get("BURSAR_CONFIG", "")
    settings = load(Path(config) if config else None)
    # What is kept beside the ledger, such as a newer price book, has to be found there as well.
    return settings.with_ledger(os.environ.get("BURSAR_LEDGER", "") or settings.ledger.url)


def from_environment() -> Site:
    """Make the application of a worker process."""
    return create_site(read_environment)
