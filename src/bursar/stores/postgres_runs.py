"""Which runs there are, who pays for them, and which of them nobody uses any more, in PostgreSQL."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from bursar.clock import SECOND, Instant
from bursar.ledger.account import Operation
from bursar.ledger.books import unpack
from bursar.ledger.store import IDLE_ROWS, IdleRun
from bursar.stores.postgres_link import SQL, Connection
from bursar.stores.postgres_writer import Work

T = TypeVar("T")


class PostgresRuns(ABC):
    """The part of a store that knows how runs are used; see `bursar.ledger.store.Store` for the contract."""

    @abstractmethod
    async def _ticket(self, what: Operation | Work) -> Any: ...

    @abstractmethod
    async def _read(self, read: Callable[[Connection], Awaitable[T]]) -> T: ...

    @abstractmethod
    async def _now(self, connection: Connection) -> Instant: ...

    async def path_of(self, scope: str) -> tuple[str, ...] | None:
        """Give the further scopes that pay for a run's calls; None where it does not exist."""
        path = await self._read(lambda connection: connection.fetchval(SQL["read_path"], scope))
        return None if path is None else unpack(path)

    async def use_run(self, scope: str) -> None:
        """Note that a run is in use."""

        async def work(connection: Connection) -> None:
            await connection.execute(SQL["write_used"], await self._now(connection), scope)

        await self._ticket(work)

    async def idle_runs(self, seconds: int, after: str = "") -> tuple[IdleRun, ...]:
        """Give the open runs that did nothing for so long, by name."""

        async def read(connection: Connection) -> tuple[IdleRun, ...]:
            now = await self._now(connection)
            rows = await connection.fetch(SQL["read_idle_runs"], now, now - seconds * SECOND, after, IDLE_ROWS)
            return tuple(IdleRun(*row) for row in rows)

        return await self._read(read)
