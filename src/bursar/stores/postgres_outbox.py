"""What people want to hear of, in PostgreSQL; implements `bursar.ledger.store.Outbox`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from bursar.clock import Instant
from bursar.ledger.books import encode
from bursar.ledger.store import DAY, NEVER, NEWEST, DeliveryState, HappeningRow
from bursar.stores.postgres_link import SQL, Connection
from bursar.stores.postgres_reads import Reader
from bursar.stores.rows import delivery_row, happening_row


class PostgresOutbox:
    """Reads and writes beside the writer of the ledger, so that no call waits for it."""

    def __init__(self, reader: Reader, now: Callable[[Connection], Awaitable[Instant]]) -> None:
        self._reader = reader
        self._now = now

    async def take(
        self, webhook: str, kinds: tuple[str, ...], since: Instant, window: int, lease: int, rows_max: int
    ) -> tuple[HappeningRow, ...]:
        """Give what this webhook has to be told now, under a lease; see `Outbox.take`."""

        async def find(connection: Connection) -> tuple[Instant, tuple[HappeningRow, ...]]:
            now = await self._now(connection)
            again: Sequence[Any] = await connection.fetch(SQL["read_again"], webhook, now, rows_max)
            oldest, rest = max(since, now - window), rows_max - len(again)
            untold: Sequence[Any] = await connection.fetch(SQL["read_untold"], webhook, oldest, list(kinds), rest)
            return now, tuple(map(happening_row, (*again, *untold)))

        now, found = await self._reader.run(find)
        if not found:
            return ()

        async def lease_them(connection: Connection) -> dict[int, int]:
            ids = [row.id for row in found]
            rows = await connection.fetch(SQL["write_leases"], webhook, now, now + lease, ids)
            return {row[0]: row[1] for row in rows}

        taken = await self._reader.change(lease_them)
        return tuple(replace(row, attempts=taken[row.id]) for row in found if row.id in taken)

    async def note(self, webhook: str, taken: HappeningRow, state: DeliveryState, said: str, after: int = 0) -> None:
        """Remember how telling went; see `Outbox.note`."""

        async def write(connection: Connection) -> None:
            next_at = await self._now(connection) + after
            await connection.execute(
                SQL["write_delivery"], taken.id, webhook, taken.attempts, str(state), next_at, said
            )

        await self._reader.change(write)

    async def tell(self, kind: str, key: str, subject: str, detail: dict[str, object]) -> None:
        """Write down what people want to hear of, once for a kind and key."""

        async def write(connection: Connection) -> None:
            row = (kind, key, await self._now(connection), subject, encode(detail))
            await connection.execute(SQL["write_happenings"], *([value] for value in row))

        await self._reader.change(write)

    async def newest(
        self, kinds: tuple[str, ...] = (), since: Instant = NEVER, before: int = NEWEST, rows_max: int = 100
    ) -> tuple[HappeningRow, ...]:
        """Give the newest happenings before a number, and who was told."""

        async def find(connection: Connection) -> tuple[HappeningRow, ...]:
            rows: Sequence[Any] = await connection.fetch(SQL["read_happenings"], before, since, list(kinds), rows_max)
            told: Sequence[Any] = await connection.fetch(SQL["read_deliveries"], [row[0] for row in rows])
            return tuple(
                replace(happening_row(row), deliveries=tuple(delivery_row(one) for one in told if one[0] == row[0]))
                for row in rows
            )

        return await self._reader.run(find)

    async def prune(self, keep_days: int, rows_max: int) -> int:
        """Forget happenings that are older; give how many there were."""

        async def forget(connection: Connection) -> int:
            oldest = await self._now(connection) - keep_days * DAY
            return len(await connection.fetch(SQL["write_pruned"], oldest, rows_max))

        return await self._reader.change(forget)
