"""Answers to writes that carry an idempotency key, in PostgreSQL."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from bursar.clock import Instant
from bursar.ledger.account import Operation
from bursar.ledger.store import ANSWER_KEPT, ANSWER_PENDING, Said
from bursar.stores.postgres_link import SQL, Connection
from bursar.stores.postgres_writer import Work


class PostgresAnswers(ABC):
    """The part of a store that remembers answers; see `bursar.ledger.store.Store` for the contract."""

    @abstractmethod
    async def _ticket(self, what: Operation | Work) -> Any: ...

    @abstractmethod
    async def _now(self, connection: Connection) -> Instant: ...

    async def recall(self, name: str, request: str) -> Said | None:
        """Give what was said under this name, or claim the name and give None."""

        async def work(connection: Connection) -> Said | None:
            now = await self._now(connection)
            await connection.execute(SQL["write_old_answers_gone"], now - ANSWER_KEPT, now - ANSWER_PENDING)
            if await connection.fetchval(SQL["write_answer_claimed"], name, request, now):
                return None
            rows = await connection.fetch(SQL["read_answer"], name)
            # None where somebody else has given up the claim between the two.
            return Said(*rows[0]) if rows else Said(request, 0, "")

        said: Said | None = await self._ticket(work)
        return said

    async def remember(self, name: str, status: int, body: str) -> None:
        """Keep the answer of a write that has claimed the name."""
        await self._ticket(lambda connection: connection.execute(SQL["write_answer"], name, status, body))

    async def forget(self, name: str) -> None:
        """Give up a claim: nothing was written."""
        await self._ticket(lambda connection: connection.execute(SQL["write_answer_gone"], name))
