"""Answers to writes that carry an idempotency key, in SQLite."""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from typing import Any

from bursar.clock import Clock
from bursar.ledger.store import ANSWER_KEPT, ANSWER_PENDING, Said
from bursar.stores.sqlite_rows import SQL
from bursar.stores.sqlite_writer import Work


class SqliteAnswers(ABC):
    """The part of a store that remembers answers; see `bursar.ledger.store.Store` for the contract."""

    _clock: Clock

    @abstractmethod
    async def _work(self, work: Work) -> Any: ...

    async def recall(self, name: str, request: str) -> Said | None:
        """Give what was said under this name, or claim the name and give None."""

        def work(connection: sqlite3.Connection) -> Said | None:
            now = self._clock.now()
            connection.execute(SQL["write_old_answers_gone"], (now - ANSWER_KEPT, now - ANSWER_PENDING))
            if connection.execute(SQL["write_answer_claimed"], (name, request, now)).rowcount:
                return None
            return Said(*connection.execute(SQL["read_answer"], (name,)).fetchone())

        said: Said | None = await self._work(work)
        return said

    async def remember(self, name: str, status: int, body: str) -> None:
        """Keep the answer of a write that has claimed the name."""
        await self._work(lambda connection: connection.execute(SQL["write_answer"], (name, status, body)).rowcount)

    async def forget(self, name: str) -> None:
        """Give up a claim: nothing was written."""
        await self._work(lambda connection: connection.execute(SQL["write_answer_gone"], (name,)).rowcount)
