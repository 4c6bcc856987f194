"""What most gateways with a hard cap do: one durable transaction of its own for every hold and every settlement.

The tables are as narrow as this can be (no audit, no queue, no identities), so that the comparison favours it.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SCHEMA = (
    "CREATE TABLE accounts (id INTEGER PRIMARY KEY, cap BIGINT, held BIGINT NOT NULL, captured BIGINT NOT NULL)",
    "CREATE TABLE holds (call_id TEXT PRIMARY KEY, amount BIGINT NOT NULL, captured BIGINT)",
    "CREATE TABLE entries (call_id TEXT NOT NULL, kind TEXT NOT NULL, amount BIGINT NOT NULL)",
)
HELD, ACTUAL, CAP = 3_000_000, 1_500_000, 10**15


class NaivePostgres:
    """A connection per call in flight; the accounts of a call are locked in the order of their numbers."""

    def __init__(self, url: str, connections: int) -> None:
        self._url = url
        self._connections = connections

    async def start(self, accounts: int) -> None:
        import asyncpg

        self._pool = await asyncpg.create_pool(self._url, min_size=self._connections, max_size=self._connections)
        for statement in SCHEMA:
            await self._pool.execute(statement)
        rows = [(number, CAP, 0, 0) for number in range(accounts)]
        await self._pool.executemany("INSERT INTO accounts VALUES ($1, $2, $3, $4)", rows)

    async def pair(self, call_id: str, accounts: list[int]) -> float:
        """Hold and settle; give the seconds that the hold took."""
        begin = time.perf_counter()
        async with self._pool.acquire() as connection, connection.transaction():
            rows = await connection.fetch(
                "SELECT cap, held, captured FROM accounts WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE", accounts
            )
            if any(row["held"] + row["captured"] + HELD > row["cap"] for row in rows):
                raise SystemExit("the cap of the bench is too small")
            await connection.execute("UPDATE accounts SET held = held + $1 WHERE id = ANY($2)", HELD, accounts)
            await connection.execute("INSERT INTO holds VALUES ($1, $2, NULL)", call_id, HELD)
            await connection.execute("INSERT INTO entries VALUES ($1, 'authorize', $2)", call_id, HELD)
        seconds = time.perf_counter() - begin
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(
                "SELECT 1 FROM accounts WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE", accounts
            )
            await connection.execute("UPDATE holds SET captured = $1 WHERE call_id = $2", ACTUAL, call_id)
            await connection.execute(
                "UPDATE accounts SET held = held - $1, captured = captured + $2 WHERE id = ANY($3)",
                *(HELD, ACTUAL, accounts),
            )
            await connection.execute("INSERT INTO entries VALUES ($1, 'capture', $2)", call_id, ACTUAL)
        return seconds

    async def close(self) -> None:
        await self._pool.close()


class NaiveSqlite:
    """One connection in one thread, WAL, synchronous=FULL; a commit per hold and per settlement."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1)

    async def start(self, accounts: int) -> None:
        await self._in_thread(self._open, accounts)

    async def pair(self, call_id: str, accounts: list[int]) -> float:
        begin = time.perf_counter()
        await self._in_thread(self._hold, call_id, accounts)
        seconds = time.perf_counter() - begin
        await self._in_thread(self._settle, call_id, accounts)
        return seconds

    async def close(self) -> None:
        await self._in_thread(self._connection.close)
        self._thread.shutdown()

    async def _in_thread(self, work, *given):  # type: ignore[no-untyped-def]
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *given)

    def _open(self, accounts: int) -> None:
        self._connection = sqlite3.connect(self._path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        for statement in SCHEMA:
            self._connection.execute(statement)
        self._connection.executemany("INSERT INTO accounts VALUES (?, ?, 0, 0)", [(n, CAP) for n in range(accounts)])

    def _hold(self, call_id: str, accounts: list[int]) -> None:
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        for number in accounts:
            held, captured, cap = execute("SELECT held, captured, cap FROM accounts WHERE id = ?", (number,)).fetchone()
            if held + captured + HELD > cap:
                raise SystemExit("the cap of the bench is too small")
            execute("UPDATE accounts SET held = held + ? WHERE id = ?", (HELD, number))
        execute("INSERT INTO holds VALUES (?, ?, NULL)", (call_id, HELD))
        execute("INSERT INTO entries VALUES (?, 'authorize', ?)", (call_id, HELD))
        execute("COMMIT")

    def _settle(self, call_id: str, accounts: list[int]) -> None:
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        execute("UPDATE holds SET captured = ? WHERE call_id = ?", (ACTUAL, call_id))
        for number in accounts:
            execute("UPDATE accounts SET held = held - ?, captured = captured + ? WHERE id = ?", (HELD, ACTUAL, number))
        execute("INSERT INTO entries VALUES (?, 'capture', ?)", (call_id, ACTUAL))
        execute("COMMIT")


async def naive_storm(store: NaivePostgres | NaiveSqlite, in_flight: int, shared: int, seconds: float) -> list[float]:
    """Keep so many pairs in flight for so long; every call takes one of the shared accounts and two of its own."""
    latencies: list[float] = []
    until = time.perf_counter() + seconds
    rng = random.Random(1)

    async def agent(number: int) -> None:
        own = shared + 2 * number
        call = 0
        while time.perf_counter() < until:
            call += 1
            accounts = sorted({rng.randrange(shared), own, own + 1})
            latencies.append(await store.pair(f"c{number}-{call}", accounts))

    await asyncio.gather(*(agent(number) for number in range(in_flight)))
    return sorted(latencies)
