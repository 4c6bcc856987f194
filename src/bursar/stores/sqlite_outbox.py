"""What people want to hear of, in SQLite; implements `bursar.ledger.store.Outbox`."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

from bursar.clock import Clock, Instant
from bursar.ledger.books import encode
from bursar.ledger.store import DAY, NEVER, NEWEST, DeliveryState, HappeningRow
from bursar.stores.queries import queries
from bursar.stores.rows import delivery_row, happening_row

T = TypeVar("T")
SQL = queries("sqlite")
Read = Callable[[Callable[[sqlite3.Connection], tuple[HappeningRow, ...]]], Awaitable[tuple[HappeningRow, ...]]]
Write = Callable[[Callable[[sqlite3.Connection], object]], Awaitable[Any]]


class SqliteOutbox:
    """Reads beside the writer, and goes through it only where there is something to write."""

    def __init__(self, read: Read, write: Write, clock: Clock) -> None:
        self._read = read
        self._write = write
        self._clock = clock

    async def take(
        self, webhook: str, kinds: tuple[str, ...], since: Instant, window: int, lease: int, rows_max: int
    ) -> tuple[HappeningRow, ...]:
        """Give what this webhook has to be told now, under a lease; see `Outbox.take`."""
        now = self._clock.now()
        oldest = max(since, now - window)

        def find(connection: sqlite3.Connection) -> tuple[HappeningRow, ...]:
            again = connection.execute(SQL["read_again"], (webhook, now, rows_max)).fetchall()
            rest = rows_max - len(again)
            untold = connection.execute(SQL["read_untold"], (webhook, oldest, encode(list(kinds)), rest))
            return tuple(map(happening_row, (*again, *untold)))

        found = await self._read(find)
        if not found:
            return ()
        ids = encode([row.id for row in found])
        leases = (webhook, now, now + lease, ids)
        taken = dict(await self._write(lambda connection: connection.execute(SQL["write_leases"], leases).fetchall()))
        return tuple(replace(row, attempts=taken[row.id]) for row in found if row.id in taken)

    async def note(self, webhook: str, taken: HappeningRow, state: DeliveryState, said: str, after: int = 0) -> None:
        """Remember how telling went; see `Outbox.note`."""
        row = (taken.id, webhook, taken.attempts, str(state), self._clock.now() + after, said)
        await self._write(lambda connection: connection.execute(SQL["write_delivery"], row).rowcount)

    async def tell(self, kind: str, key: str, subject: str, detail: dict[str, object]) -> None:
        """Write down what people want to hear of, once for a kind and key."""
        row = (kind, key, self._clock.now(), subject, encode(detail))
        await self._write(lambda connection: connection.execute(SQL["write_happenings"], row).rowcount)

    async def newest(
        self, kinds: tuple[str, ...] = (), since: Instant = NEVER, before: int = NEWEST, rows_max: int = 100
    ) -> tuple[HappeningRow, ...]:
        """Give the newest happenings before a number, and who was told."""

        def find(connection: sqlite3.Connection) -> tuple[HappeningRow, ...]:
            rows = connection.execute(SQL["read_happenings"], (before, since, encode(list(kinds)), rows_max)).fetchall()
            told = connection.execute(SQL["read_deliveries"], (encode([row[0] for row in rows]),)).fetchall()
            return tuple(
                replace(happening_row(row), deliveries=tuple(delivery_row(one) for one in told if one[0] == row[0]))
                for row in rows
            )

        return await self._read(find)

    async def prune(self, keep_days: int, rows_max: int) -> int:
        """Forget happenings that are older; give how many there were."""
        old = (self._clock.now() - keep_days * DAY, rows_max)
        return int(await self._write(lambda connection: connection.execute(SQL["write_pruned"], old).rowcount))
