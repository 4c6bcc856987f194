"""Which runs there are, who pays for them, and which of them nobody uses any more, in SQLite."""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

from bursar.clock import SECOND, Clock
from bursar.ledger.books import unpack
from bursar.ledger.store import IDLE_ROWS, IdleRun
from bursar.stores.queries import queries

T = TypeVar("T")
SQL = queries("sqlite")


class SqliteRuns(ABC):
    """The part of a store that knows how runs are used; see `bursar.ledger.store.Store` for the contract."""

    _clock: Clock

    @abstractmethod
    async def _work(self, work: Callable[[sqlite3.Connection], object]) -> Any: ...

    @abstractmethod
    async def _read(self, read: Callable[[sqlite3.Connection], T]) -> T: ...

    async def path_of(self, scope: str) -> tuple[str, ...] | None:
        """Give the further scopes that pay for a run's calls; None where it does not exist."""

        def read(connection: sqlite3.Connection) -> tuple[str, ...] | None:
            row = connection.execute(SQL["read_path"], (scope,)).fetchone()
            return None if row is None else unpack(row[0])

        return await self._read(read)

    async def use_run(self, scope: str) -> None:
        """Note that a run is in use."""
        row = (self._clock.now(), scope)
        await self._work(lambda connection: connection.execute(SQL["write_used"], row).rowcount)

    async def idle_runs(self, seconds: int, after: str = "") -> tuple[IdleRun, ...]:
        """Give the open runs that did nothing for so long, by name."""
        now = self._clock.now()

        def read(connection: sqlite3.Connection) -> tuple[IdleRun, ...]:
            rows = connection.execute(SQL["read_idle_runs"], (now, now - seconds * SECOND, after, IDLE_ROWS))
            return tuple(IdleRun(*row) for row in rows)

        return await self._read(read)
