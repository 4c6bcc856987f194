"""Reads the books from PostgreSQL for people and for the audit; every read is one instant of the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

from bursar.ledger.account import Account, HoldState
from bursar.ledger.books import Balance
from bursar.ledger.store import Entry, HoldRow, KeyRow, LedgerUnavailableError, QuarantineRow, RunRow, SpentRow
from bursar.stores.postgres_link import OUTAGES, SQL, Connection, Patience, close, connect, unreadable
from bursar.stores.rows import PAGE_ROWS, entry_row, hold_row, key_row, quarantine_row, run_row

T = TypeVar("T")

CONNECTIONS_MAX = 3
CONNECTIONS_KEPT = 2


class Reader:
    """A few read connections, opened when they are needed and anew after an error."""

    def __init__(self, url: str, patience: Patience) -> None:
        self._url = url
        self._patience = patience
        self._free: list[Connection] = []
        self._turns = asyncio.Semaphore(CONNECTIONS_MAX)
        self._is_closed = False

    async def run(self, read: Callable[[Connection], Awaitable[T]]) -> T:
        """Read in one transaction, all of it as of one instant; raises LedgerUnavailableError."""

        async def transact(connection: Connection) -> T:
            await connection.execute(SQL["begin_reading"])
            result = await read(connection)
            await connection.execute(SQL["commit"])
            return result

        return await self._with_connection(transact)

    async def change(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Change what is no money in a transaction of its own; raises LedgerUnavailableError."""

        async def transact(connection: Connection) -> T:
            await connection.execute(SQL["begin"])
            result = await work(connection)
            await connection.execute(SQL["commit"])
            return result

        return await self._with_connection(transact)

    async def fetch(self, query: str, *args: object) -> Sequence[Sequence[Any]]:
        """Read with one query; raises LedgerUnavailableError."""
        return await self._with_connection(lambda connection: connection.fetch(query, *args))

    async def _with_connection(self, read: Callable[[Connection], Awaitable[T]]) -> T:
        async with self._turns:
            try:
                connection = self._take() or await connect(self._url, self._patience)
            except OUTAGES as error:
                raise unreadable(error) from error
            try:
                result = await read(connection)
            except OUTAGES as error:
                connection.terminate()
                raise unreadable(error) from error
            except BaseException:
                connection.terminate()
                raise
            self._give_back(connection)
            return result

    def _take(self) -> Connection | None:
        while self._free:
            connection = self._free.pop()
            if not connection.is_closed():
                return connection
        return None

    def _give_back(self, connection: Connection) -> None:
        if self._is_closed or len(self._free) >= CONNECTIONS_KEPT:
            connection.terminate()
        else:
            self._free.append(connection)

    async def close(self) -> None:
        """Let go of the connections; a read that is under way ends first."""
        self._is_closed = True
        while self._free:
            connection = self._free.pop()
            await close(connection)


class Finder(Generic[T]):
    """Looks things up, many in one query: those that are asked for while a query is under way go into the next one."""

    def __init__(self, look: Callable[[list[str]], Awaitable[dict[str, T]]]) -> None:
        self._look = look
        self._waiting: dict[str, asyncio.Future[T | None]] = {}
        self._task: asyncio.Task[None] | None = None

    async def find(self, name: str) -> T | None:
        """Give the thing as it is in the database after this was called; raises LedgerUnavailableError."""
        future = self._waiting.get(name)
        if future is None:
            future = self._waiting[name] = asyncio.get_running_loop().create_future()
            if self._task is None:
                self._task = asyncio.get_running_loop().create_task(self._run())
        # One who leaves must not cancel it for the others who ask for the same.
        return await asyncio.shield(future)

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self._look_up()
        finally:
            self._task = None

    async def _look_up(self) -> None:
        waiting, self._waiting = self._waiting, {}
        found: dict[str, T] = {}
        trouble = "the ledger cannot be read: the look was broken off"
        try:
            found = await self._look(list(waiting))
            trouble = ""
        except LedgerUnavailableError as error:
            trouble = str(error)
        finally:
            for name, future in waiting.items():
                if future.done():
                    continue
                if trouble:
                    future.set_exception(LedgerUnavailableError(trouble))
                else:
                    future.set_result(found.get(name))


def keys_by_digest(reader: Reader) -> Finder[KeyRow]:
    """Find keys by their digests."""

    async def look(digests: list[str]) -> dict[str, KeyRow]:
        rows: Any = await reader.fetch(SQL["read_found_keys"], digests)
        return {key.digest: key for key in map(key_row, rows)}

    return Finder(look)


def model_patterns(reader: Reader) -> Finder[tuple[str, ...]]:
    """Find the budgets for all models that begin alike; there is one answer, whatever it is asked for by."""

    async def look(names: list[str]) -> dict[str, tuple[str, ...]]:
        rows: Any = await reader.fetch(SQL["read_patterns"])
        return dict.fromkeys(names, tuple(row[0] for row in rows))

    return Finder(look)


async def accounts(connection: Connection, scopes: list[str] | None) -> tuple[Account, ...]:
    """Give the accounts that count, of some scopes or of all."""
    if scopes is None:
        rows = await connection.fetch(SQL["read_accounts"])
    else:
        rows = await connection.fetch(SQL["read_accounts_of"], scopes)
    return tuple(Balance(*row).account() for row in rows)


async def runs(connection: Connection, limit_rows: int, after: str) -> tuple[RunRow, ...]:
    """Give the newest runs with their accounts, or those that come after one."""
    if after:
        return await _runs(connection, await connection.fetch(SQL["read_runs_after"], limit_rows, f"run:{after}"))
    return await _runs(connection, await connection.fetch(SQL["read_runs"], limit_rows))


async def run(connection: Connection, name: str) -> RunRow | None:
    """Give one run with its accounts."""
    found = await _runs(connection, await connection.fetch(SQL["read_run"], f"run:{name}"))
    return found[0] if found else None


async def _runs(connection: Connection, found: Any) -> tuple[RunRow, ...]:
    of: dict[str, list[Account]] = {row[0]: [] for row in found}
    for account in await accounts(connection, list(of)):
        of[account.scope].append(account)
    return tuple(run_row(row, tuple(of[row[0]])) for row in found)


async def holds(connection: Connection, state: HoldState | None, limit_rows: int, after: str) -> tuple[HoldRow, ...]:
    """Give the newest holds, or the newest in one state, or those that come after one."""
    if after:
        of = state.value if state else ""
        rows = await connection.fetch(SQL["read_holds_before"], limit_rows, after, of)
    elif state is None:
        rows = await connection.fetch(SQL["read_holds"], limit_rows)
    elif state is HoldState.OPEN:
        rows = await connection.fetch(SQL["read_open_holds"], limit_rows)
    else:
        rows = await connection.fetch(SQL["read_holds_in_state"], limit_rows, state.value)
    return tuple(map(hold_row, rows))


async def hold(connection: Connection, call_id: str) -> HoldRow | None:
    """Give one hold."""
    rows = await connection.fetch(SQL["read_hold"], call_id)
    return hold_row(rows[0]) if rows else None


async def spent_by_day(connection: Connection, first_day: int, last_day: int) -> tuple[SpentRow, ...]:
    """Give what was spent from one UTC day to another, both included."""
    return tuple(SpentRow(*row) for row in await connection.fetch(SQL["read_spent_by_day"], first_day, last_day))


async def quarantined(connection: Connection) -> tuple[QuarantineRow, ...]:
    """Give the models in quarantine, and the calls that put them there."""
    rows: Any = await connection.fetch(SQL["read_quarantined"])
    return tuple(map(quarantine_row, rows))


async def keys(connection: Connection) -> tuple[KeyRow, ...]:
    """Give all keys."""
    rows: Any = await connection.fetch(SQL["read_keys"])
    return tuple(map(key_row, rows))


def page_after(after_seq: int) -> Callable[[Connection], Awaitable[list[Entry]]]:
    """Give what reads one page of entries."""

    async def read(connection: Connection) -> list[Entry]:
        rows: Any = await connection.fetch(SQL["read_entries"], after_seq, PAGE_ROWS)
        return list(map(entry_row, rows))

    return read


async def lives(connection: Connection) -> tuple[list[tuple[str, bool]], set[int]]:
    """Give the workers that have open holds, with whether they have left, and all locks that are held."""
    suspects = [(row[0], bool(row[1])) for row in await connection.fetch(SQL["read_suspects"])]
    return suspects, {row[0] for row in await connection.fetch(SQL["read_lives"])}
