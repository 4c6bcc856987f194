"""Where the books of a drill are: a SQLite file, or a PostgreSQL server of its own that can be struck."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from bursar.drill.cluster import Cluster, ClusterError, MissingError


class CannotRunError(Exception):
    """The drill could not take place; this says nothing about the cap."""


CUT = "cut_store"
RESTART = "restart_store"
CRASH = "kill_store"
FAIL_OVER = "fail_over_store"
STORE_FAULTS = (CUT, RESTART, CRASH, FAIL_OVER)
"""Connections cut by the server, a restart in good order, kill -9, and a synchronous standby that takes over."""


class Place(Protocol):
    """A ledger that lives as long as the block."""

    @property
    def url(self) -> str:
        """Give the ledger's URL; empty until it is made."""
        ...

    @property
    def faults(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        """Give what can be done to the store itself, by name; each returns when the store is there again."""
        ...

    async def cut_off(self, process: int) -> None:
        """Take the connections of one gateway process from it; a store without connections does nothing."""
        ...

    async def __aenter__(self) -> Self:
        """Make it, empty."""
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove it."""
        ...


class SqliteFile:
    """A ledger in one file. It has no server: what may befall it befalls the workers that write it."""

    def __init__(self) -> None:
        self.url = ""
        self.faults: dict[str, Callable[[], Awaitable[None]]] = {}
        self._folder = Path()

    async def cut_off(self, process: int) -> None:
        """Do nothing: a worker's lock on the file is its own until it ends."""

    async def __aenter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="bursar-drill-"))
        self.url = f"sqlite:///{self._folder / 'ledger.db'}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


class PostgresServer:
    """A durable server in a folder of its own; with a synchronous standby when that is to take over."""

    def __init__(self, has_standby: bool) -> None:
        self.url = ""
        self.faults = {CUT: self._cut, RESTART: self._restart, CRASH: self._crash, FAIL_OVER: self._fail_over}
        self._has_standby = has_standby
        self._primary: Cluster | None = None
        self._standby: Cluster | None = None
        self._database = ""

    async def __aenter__(self) -> Self:
        await _on_server(self._start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._primary is not None:
            # The standby ends with it, also when it is the primary by now.
            await asyncio.to_thread(self._primary.close)

    def _start(self) -> None:
        self._primary = primary = Cluster(durable=True)
        primary.start()
        self._database = primary.new_database()
        self.url = primary.url(self._database)
        if self._has_standby:
            self._standby = primary.standby()
            # Both hosts; whichever of them takes writes is the ledger.
            hosts = f"127.0.0.1:{primary.port},127.0.0.1:{self._standby.port}"
            self.url = f"{self.url.replace(f'127.0.0.1:{primary.port}', hosts)}?target_session_attrs=read-write"

    def _now(self) -> Cluster:
        if self._primary is None:
            raise CannotRunError("the server was not started")
        return self._primary if self._standby is None or self._primary.is_running else self._standby

    async def cut_off(self, process: int) -> None:
        """Cut the connections of one gateway process, as a network that loses one machine does."""
        await _on_server(lambda: self._now().cut_off(process))

    async def _cut(self) -> None:
        await _on_server(lambda: self._now().cut(self._database))

    async def _restart(self) -> None:
        await _on_server(lambda: self._now().restart("fast"))

    async def _crash(self) -> None:
        def crash() -> None:
            server = self._now()
            server.kill9()
            server.start()

        await _on_server(crash)

    async def _fail_over(self) -> None:
        def fail_over() -> None:
            if self._primary is None or self._standby is None or not self._primary.is_running:
                raise CannotRunError("there is no standby that could take over")
            self._primary.kill9()
            self._standby.promote()

        await _on_server(fail_over)


async def _on_server(step: Callable[[], object]) -> None:
    """Do what blocks in a thread; a server that cannot do it says nothing about the cap: CannotRunError."""
    try:
        await asyncio.to_thread(step)
    except (MissingError, ClusterError, TimeoutError, subprocess.TimeoutExpired) as error:
        raise CannotRunError(str(error)) from error


def place_for(store: str, faults: tuple[str, ...]) -> Place:
    """Give the place of a drill on this store, with a standby when one has to take over."""
    return SqliteFile() if store == "sqlite" else PostgresServer(has_standby=FAIL_OVER in faults)
