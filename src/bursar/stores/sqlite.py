"""The ledger in one SQLite file: durable, shared by all worker processes of a machine."""

from __future__ import annotations

import asyncio
import os
import secrets
import sqlite3
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from bursar.clock import Clock, Instant, SystemClock
from bursar.ledger.account import Account, Answer, HoldState, Operation
from bursar.ledger.books import Balance
from bursar.ledger.store import (
    KEEP_DAYS_MIN,
    Adopted,
    Archive,
    Compacted,
    Entry,
    Finding,
    HoldRow,
    KeyRow,
    LedgerUnavailableError,
    NotWrittenError,
    QuarantineRow,
    RunRow,
    SpentRow,
)
from bursar.money import ensure
from bursar.stores.liveness import FileLock, is_dead
from bursar.stores.rows import PAGE_ROWS, run_row
from bursar.stores.sqlite_answers import SqliteAnswers
from bursar.stores.sqlite_outbox import SqliteOutbox
from bursar.stores.sqlite_retention import compact, verify
from bursar.stores.sqlite_rows import SQL, entry_row, hold_row, key_row, quarantine_row
from bursar.stores.sqlite_runs import SqliteRuns
from bursar.stores.sqlite_writer import BUSY_SECONDS, ENDED, Files, Handle, Result, Work, Writer, adopt, connect, survey

T = TypeVar("T")

KEY_BUSY_SECONDS = 0.2
"""How long a key is looked for while another process recovers the log; nobody else is served meanwhile."""


class SqliteStore(SqliteAnswers, SqliteRuns):
    """One ledger file as one worker process sees it; see `bursar.ledger.store.Store` for the contract."""

    def __init__(
        self,
        path: Path | str,
        clock: Clock | None = None,
        *,
        queue_max: int = 10_000,
        batch_max: int = 256,
        busy_seconds: float = BUSY_SECONDS,
    ) -> None:
        self.worker = ""
        """Empty until the store is started."""
        self.warnings: tuple[str, ...] = ()
        self._files = Files(Path(path))
        self._clock = clock or SystemClock()
        self._queue_max = queue_max
        self._batch_max = batch_max
        self._busy_seconds = busy_seconds
        self._pending = 0
        self._is_open = False
        self._life: FileLock | None = None
        self._reader: _Reader | None = None
        self._key_reader: sqlite3.Connection | None = None
        self._writer: Writer | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.outbox = SqliteOutbox(self._read, self._work, self._clock)

    # ---- life ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the database, run the migrations, take the liveness lock; raises LedgerLostError, SchemaError."""
        self._loop = asyncio.get_running_loop()
        self.worker, self._life = self._new_life()
        writer = Writer(self._files, self._clock, self._deliver, self._batch_max, self._busy_seconds)
        try:
            await asyncio.to_thread(writer.open_first, self.worker)
        except BaseException as error:
            self._end_life()
            if isinstance(error, (sqlite3.Error, OSError)):
                raise LedgerUnavailableError(f"the ledger {self._files.database} cannot be opened: {error}") from error
            raise
        writer.start()
        self._writer = writer
        self._reader = _Reader(self._files.database)
        self._is_open = True

    async def close(self) -> None:
        """Write what was submitted, then release the liveness lock; a second close does nothing."""
        if not self._is_open or self._writer is None or self._reader is None:
            return
        await self._note_progress()
        self._is_open = False
        self._writer.stop()
        await asyncio.to_thread(self._writer.join)
        await asyncio.to_thread(self._reader.close)
        self._drop_key_reader()
        self._end_life()

    async def renew(self, fenced: str) -> None:
        """Take a fresh identity after `fenced` was declared dead; raises LedgerUnavailableError."""
        if fenced != self.worker:
            return
        worker, life = self._new_life()
        try:
            await self._work(lambda connection: connection.execute(SQL["write_worker"], (worker, self._clock.now())))
        except BaseException:
            life.path.unlink(missing_ok=True)
            life.release()
            raise
        self._end_life()
        self.worker, self._life = worker, life

    def _new_life(self) -> tuple[str, FileLock]:
        # A fresh name each time: the holds of an earlier life are not this one's to settle unseen.
        worker = f"{os.getpid()}-{secrets.token_hex(8)}"
        life = FileLock(self._files.worker(worker))
        self._files.workers.mkdir(parents=True, exist_ok=True, mode=0o700)
        life.take()
        return worker, life

    def _end_life(self) -> None:
        if self._life is not None:
            self._life.path.unlink(missing_ok=True)
            self._life.release()

    async def survey(self) -> Adopted:
        """Compare the file with its marker and change nothing; see `Store.survey`."""
        return await self._apart(lambda: survey(self._files))

    async def adopt(self, who: str) -> Adopted:
        """Accept the file as it is, although it went back in time; see `Store.adopt`."""
        ensure(bool(who), "somebody accepts a ledger that went back in time")
        return await self._apart(lambda: adopt(self._files, self._clock.now(), who))

    async def _apart(self, work: Callable[[], Adopted]) -> Adopted:
        try:
            return await asyncio.to_thread(work)
        except (sqlite3.Error, OSError) as error:
            raise LedgerUnavailableError(f"the ledger {self._files.database} cannot be opened: {error}") from error

    async def _note_progress(self) -> None:
        try:
            await self._work(self._writer_or_raise().write_marker)
        except LedgerUnavailableError:
            # The marker only makes a rollback visible; the next start or reaping writes it.
            return

    # ---- writing -------------------------------------------------------------------------------------------------

    async def submit(self, operation: Operation) -> Answer:
        """Have the operation decided and durable; raises LedgerUnavailableError, BrokenInvariantError."""
        return await self._ticket(operation)  # type: ignore[no-any-return]

    async def put_key(
        self,
        name: str,
        digest: str,
        run: str,
        limits_json: str,
        terms_json: str = "{}",
        expires_at: Instant | None = None,
    ) -> None:
        """Remember a key; one that was revoked stays revoked."""
        row = (digest, name, run, limits_json, self._clock.now(), terms_json, expires_at)
        await self._work(lambda connection: connection.execute(SQL["write_key"], row).rowcount)

    async def declared(self, scope: str) -> str:
        """Give what the settings last said about a scope."""

        def read(connection: sqlite3.Connection) -> str:
            row = connection.execute(SQL["read_declared"], (scope,)).fetchone()
            return "" if row is None else str(row[0])

        return await self._read(read)

    async def declare(self, scope: str, text: str) -> None:
        """Remember what the settings say about a scope."""
        row = (scope, text, self._clock.now())
        await self._work(lambda connection: connection.execute(SQL["write_declared"], row).rowcount)

    async def revoke_key(self, name: str) -> int:
        """Revoke every key of this name; give how many there were."""
        return await self._revoke("revoke_keys", name)

    async def revoke_secret(self, digest: str) -> int:
        """Revoke the one key with this digest; give how many there were."""
        return await self._revoke("revoke_secret", digest)

    async def _revoke(self, query: str, whose: str) -> int:
        row = (self._clock.now(), whose)
        count = await self._work(lambda connection: connection.execute(SQL[query], row).rowcount)
        return int(count)

    async def _work(self, work: Work) -> Any:
        return await self._ticket(work)

    def _ticket(self, what: Operation | Work) -> asyncio.Future[Any]:
        writer = self._writer_or_raise()
        if self._pending >= self._queue_max:
            raise NotWrittenError(f"{self._pending} operations wait to be written")
        self._pending += 1
        future: asyncio.Future[Any] = self._loop.create_future()  # type: ignore[union-attr]
        writer.put((what, future))
        if writer.has_ended:
            self._resolve([(handle, NotWrittenError(ENDED)) for _, handle in writer.rest()])
        return future

    def _writer_or_raise(self) -> Writer:
        if not self._is_open or self._writer is None:
            raise NotWrittenError("the ledger is not open")
        return self._writer

    def _deliver(self, results: list[tuple[Handle, Result]]) -> None:
        """Hand results to the event loop, all in one go (called in the writer's thread)."""
        if results and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._resolve, results)

    def _resolve(self, results: list[tuple[Handle, Result]]) -> None:
        self._pending -= len(results)
        for future, result in results:
            if future.done():
                continue
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)

    # ---- reading -------------------------------------------------------------------------------------------------

    async def dead_workers(self) -> tuple[str, ...]:
        """Give the workers that have open holds and whose liveness lock nobody has."""
        await self._note_progress()
        return await self._read(self._read_dead_workers)

    def _read_dead_workers(self, connection: sqlite3.Connection) -> tuple[str, ...]:
        workers = [row[0] for row in connection.execute(SQL["read_workers_with_holds"])]
        return tuple(worker for worker in workers if worker != self.worker and is_dead(self._files.worker(worker)))

    async def accounts(self, scope: str | None = None) -> tuple[Account, ...]:
        """Give all accounts, or those of one scope."""
        return await self._read(lambda connection: _accounts(connection, scope))

    async def runs(self, limit_rows: int = 100, after: str = "") -> tuple[RunRow, ...]:
        """Give the newest runs, or those that come after one."""
        query, more = ("read_runs_after", (f"run:{after}",)) if after else ("read_runs", ())
        return await self._read(lambda connection: _runs(connection, query, (limit_rows, *more)))

    async def run(self, run: str) -> RunRow | None:
        """Give one run."""
        found = await self._read(lambda connection: _runs(connection, "read_run", (f"run:{run}",)))
        return found[0] if found else None

    async def holds(
        self, state: HoldState | None = None, limit_rows: int = 1000, after: str = ""
    ) -> tuple[HoldRow, ...]:
        """Give the newest holds, or the newest in one state, or those that come after one."""
        return await self._read(lambda connection: _holds(connection, state, limit_rows, after))

    async def hold(self, call_id: str) -> HoldRow | None:
        """Give one hold."""

        def read(connection: sqlite3.Connection) -> HoldRow | None:
            row = connection.execute(SQL["read_hold"], (call_id,)).fetchone()
            return None if row is None else hold_row(row)

        return await self._read(read)

    async def spent_by_day(self, first_day: int, last_day: int) -> tuple[SpentRow, ...]:
        """Give what was spent from one UTC day to another, both included, by day, upstream and model."""

        def read(connection: sqlite3.Connection) -> tuple[SpentRow, ...]:
            rows = connection.execute(SQL["read_spent_by_day"], (first_day, last_day))
            return tuple(SpentRow(*row) for row in rows)

        return await self._read(read)

    async def quarantined(self) -> tuple[QuarantineRow, ...]:
        """Give the models in quarantine, by name."""

        def read(connection: sqlite3.Connection) -> tuple[QuarantineRow, ...]:
            return tuple(map(quarantine_row, connection.execute(SQL["read_quarantined"])))

        return await self._read(read)

    async def entries(self, after_seq: int = 0) -> AsyncIterator[Entry]:
        """Give the entries after this one, ascending, in pages."""
        while True:
            page = await self._read(_page_after(after_seq))
            for entry in page:
                yield entry
            if len(page) < PAGE_ROWS:
                return
            after_seq = page[-1].seq

    async def audit(self) -> tuple[Finding, ...]:
        """Replay all entries and compare with all accounts and holds, as of one instant."""
        return await self._read(verify)

    async def compact(self, keep_days: int, entries_max: int, archive: Archive | None = None) -> Compacted:
        """Fold old entries into the base, one step; see `Store.compact`."""
        ensure(keep_days >= KEEP_DAYS_MIN, "what a call in flight may still need is kept", keep_days)
        answer: Compacted = await self._work(
            lambda connection: compact(connection, self.worker, self._clock.now(), keep_days, entries_max, archive)
        )
        return answer

    async def find_key(self, digest: str) -> KeyRow | None:
        """Give the key with this digest, revoked or not.

        Every call asks, so it is read right here on the event loop: a few microseconds for one row of an index, where
        a thread takes a hundred. A reader of a write-ahead log never waits for a writer.
        """
        rows = self._read_here("read_key", (digest,))
        return key_row(rows[0]) if rows else None

    async def patterns(self) -> tuple[str, ...]:
        """Give the scopes of budgets for all models that begin alike; read on the event loop, as the keys."""
        return tuple(row[0] for row in self._read_here("read_patterns", ()))

    def _read_here(self, query: str, arguments: tuple[str, ...]) -> list[Any]:
        if not self._is_open:
            raise NotWrittenError("the ledger is not open")
        try:
            if self._key_reader is None:
                self._key_reader = connect(self._files.database, KEY_BUSY_SECONDS)
            return self._key_reader.execute(SQL[query], arguments).fetchall()
        except (sqlite3.Error, OSError) as error:
            self._drop_key_reader()
            raise LedgerUnavailableError(f"the ledger cannot be read: {error}") from error

    def _drop_key_reader(self) -> None:
        if self._key_reader is not None:
            self._key_reader.close()
            self._key_reader = None

    async def keys(self) -> tuple[KeyRow, ...]:
        """Give all keys."""
        return await self._read(lambda connection: tuple(map(key_row, connection.execute(SQL["read_keys"]))))

    async def _read(self, read: Callable[[sqlite3.Connection], T]) -> T:
        if not self._is_open or self._reader is None:
            raise NotWrittenError("the ledger is not open")
        return await self._reader.run(read)


class _Reader:
    """A read connection in a thread of its own; opened anew after an error."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="bursar-ledger-read")
        self._connection: sqlite3.Connection | None = None

    async def run(self, read: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._run, read)

    def _run(self, read: Callable[[sqlite3.Connection], T]) -> T:
        try:
            if self._connection is None:
                self._connection = connect(self._path)
                self._connection.execute("PRAGMA query_only = ON")
            # One transaction: everything that is read belongs to the same instant.
            self._connection.execute("BEGIN")
            result = read(self._connection)
            self._connection.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            self._drop()
            raise LedgerUnavailableError(f"the ledger cannot be read: {error}") from error
        except BaseException:
            self._drop()
            raise
        return result

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def close(self) -> None:
        self._pool.submit(self._drop).result()
        self._pool.shutdown()


def _accounts(connection: sqlite3.Connection, scope: str | None) -> tuple[Account, ...]:
    if scope is None:
        rows = connection.execute(SQL["read_accounts"])
    else:
        rows = connection.execute(SQL["read_accounts_of"], (scope,))
    return tuple(Balance(*row).account() for row in rows)


def _runs(connection: sqlite3.Connection, query: str, arguments: tuple[object, ...]) -> tuple[RunRow, ...]:
    rows = connection.execute(SQL[query], arguments).fetchall()
    return tuple(run_row(row, _accounts(connection, row[0])) for row in rows)


def _holds(connection: sqlite3.Connection, state: HoldState | None, limit_rows: int, after: str) -> tuple[HoldRow, ...]:
    if after:
        rows = connection.execute(SQL["read_holds_before"], (limit_rows, after, state.value if state else ""))
    elif state is None:
        rows = connection.execute(SQL["read_holds"], (limit_rows,))
    elif state is HoldState.OPEN:
        rows = connection.execute(SQL["read_open_holds"], (limit_rows,))
    else:
        rows = connection.execute(SQL["read_holds_in_state"], (limit_rows, state.value))
    return tuple(map(hold_row, rows))


def _page_after(after_seq: int) -> Callable[[sqlite3.Connection], list[Entry]]:
    return lambda connection: list(map(entry_row, connection.execute(SQL["read_entries"], (after_seq, PAGE_ROWS))))
