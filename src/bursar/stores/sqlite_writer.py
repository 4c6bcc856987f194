"""The one thread that writes: takes what is queued, decides it in one transaction, commits, hands the answers back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import secrets
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bursar.clock import Clock, Instant
from bursar.ledger.account import Operation
from bursar.ledger.batch import Outcome, decide, needs
from bursar.ledger.store import Adopted, LedgerLostError, LedgerUnavailableError, NotWrittenError, batches
from bursar.money import BrokenInvariantError
from bursar.stores import marker as markers
from bursar.stores.liveness import Turnstile, is_dead
from bursar.stores.marker import Marker
from bursar.stores.migrate import has_ledger, migrate_sqlite
from bursar.stores.sqlite_rows import SQL, load, write

Handle = asyncio.Future[Any]
Work = Callable[[sqlite3.Connection], object]
"""A change of something else than money (keys, workers), in a transaction of its own."""
Ticket = tuple[Operation | Work, Handle]
"""What to do, and the handle with which the answer is given back."""
Result = object | BaseException
Deliver = Callable[[list[tuple[Handle, Result]]], None]

BUSY_SECONDS = 5.0
"""How long SQLite waits for a lock of somebody who does not use the turnstile (a backup, a shell)."""
CHECKPOINT_PAGES = 4000
ENDED = "the ledger's writer has ended"


class Files:
    """The database and the side files that belong to it."""

    def __init__(self, path: Path) -> None:
        self.database = path
        self.turn = path.with_name(path.name + ".lock")
        self.marker = path.with_name(path.name + ".marker")
        self.workers = path.with_name(path.name + ".workers")

    def worker(self, worker: str) -> Path:
        """Give the file whose lock proves that this worker lives."""
        return self.workers / worker


def connect(path: Path, busy_seconds: float = BUSY_SECONDS) -> sqlite3.Connection:
    """Open an existing database with the settings that make a commit durable; never makes a new one."""
    uri = f"{path.absolute().as_uri()}?mode=rw"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=busy_seconds, cached_statements=256)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    except BaseException:
        connection.close()
        raise
    return connection


def connect_to_look(path: Path) -> sqlite3.Connection:
    """Open an existing database so that nothing in it can be changed."""
    uri = f"{path.absolute().as_uri()}?mode=ro"
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_SECONDS)


class Writer:
    """Owns the write connection; every method but `put` and `stop` runs in its thread."""

    def __init__(self, files: Files, clock: Clock, deliver: Deliver, batch_max: int, busy_seconds: float) -> None:
        self._files = files
        self._clock = clock
        self._deliver = deliver
        self._batch_max = batch_max
        self._busy_seconds = busy_seconds
        self._queue: queue.SimpleQueue[Ticket | None] = queue.SimpleQueue()
        self._turnstile = Turnstile(files.turn)
        self._connection: sqlite3.Connection | None = None
        self._ledger_id = ""
        self._epoch = 0
        self._inode = (0, 0)
        self._seq_seen = 0
        self._noted: Marker | None = None
        self._is_stopping = False
        self.has_ended = False
        """Set before the last look into the queue: who queues a ticket and then finds this set takes it back."""
        self._thread = threading.Thread(target=self._run, name="bursar-ledger", daemon=True)

    def start(self) -> None:
        """Begin to serve; the first ticket should be `open_first`."""
        self._thread.start()

    def put(self, ticket: Ticket) -> None:
        """Queue a ticket (any thread)."""
        self._queue.put(ticket)

    def stop(self) -> None:
        """Serve what is queued, then end the thread (any thread)."""
        self._queue.put(None)

    def join(self) -> None:
        """Wait for the end of the thread."""
        self._thread.join()

    def rest(self) -> list[Ticket]:
        """Take what is queued and will not be served (any thread, after the end)."""
        rest: list[Ticket] = []
        while True:
            try:
                ticket = self._queue.get_nowait()
            except queue.Empty:
                return rest
            if ticket is not None:
                rest.append(ticket)

    # ---- the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        tickets: list[Ticket] = []
        try:
            while not self._is_stopping:
                tickets = self._take()
                self._serve(tickets)
                tickets = []
        finally:
            # Also when a bug ends the thread: nobody may wait for an answer for ever.
            self._close()
            self._turnstile.close()
            self.has_ended = True
            self._deliver([(handle, LedgerUnavailableError(ENDED)) for _, handle in (*tickets, *self.rest())])

    def _take(self) -> list[Ticket]:
        """Wait for one ticket, then take all that are there by now, up to the size of a batch."""
        taken = [self._queue.get()]
        for _ in range(min(self._queue.qsize(), self._batch_max - 1)):
            taken.append(self._queue.get_nowait())
        self._is_stopping = None in taken
        return [ticket for ticket in taken if ticket is not None]

    def _serve(self, tickets: list[Ticket]) -> None:
        operations: list[Operation] = []
        handles: list[Handle] = []
        for what, handle in tickets:
            if callable(what):
                self._deliver([(handle, self._work(what))])
            else:
                operations.append(what)
                handles.append(handle)
        done = 0
        for batch in batches(operations, self._batch_max):
            results = self._decide(batch)
            self._deliver(list(zip(handles[done : done + len(batch)], results, strict=True)))
            done += len(batch)

    def _work(self, work: Work) -> Result:
        try:
            with self._turnstile.turn():
                connection = self._connected()
                connection.execute("BEGIN IMMEDIATE")
                result = work(connection)
                connection.execute("COMMIT")
                return result
        except (sqlite3.Error, OSError, ValueError) as error:
            self._close()
            return LedgerUnavailableError(f"the ledger cannot be written: {error}")
        except (LookupError, TypeError, AttributeError) as error:
            # Rows that do not fit together, or a bug: what is no call must not take the writer of all calls with it.
            self._close()
            return BrokenInvariantError(repr(error))

    def _decide(self, batch: list[Operation]) -> Sequence[Result]:
        """Commit a batch; when the database itself refuses a row, find whose it is by committing one by one."""
        is_committing = False
        try:
            with self._turnstile.turn():
                connection = self._connected()
                connection.execute("BEGIN IMMEDIATE")
                outcomes, seq = self._transact(connection, batch)
                is_committing = True
                connection.execute("COMMIT")
                self._seq_seen = seq
                return outcomes
        except (sqlite3.IntegrityError, ValueError, OverflowError) as error:
            self._close()
            if len(batch) == 1:
                return [BrokenInvariantError(f"the database refuses what the rules allowed: {error}")]
            return [self._decide([operation])[0] for operation in batch]
        except (sqlite3.Error, OSError) as error:
            self._close()
            kind = LedgerUnavailableError if is_committing else NotWrittenError
            return [kind(f"the ledger cannot be written: {error}") for _ in batch]

    def _transact(self, connection: sqlite3.Connection, batch: list[Operation]) -> tuple[list[Outcome], int]:
        # The clock and the liveness of workers are read inside the transaction: one order of events for all processes.
        now = self._clock.now()
        need = needs(batch)
        books = load(connection, need, now)
        for worker in need.expires:
            if is_dead(self._files.worker(worker)):
                books.dead.add(worker)
        outcomes, changes = decide(books, batch, now)
        seq = write(connection, changes, now) if changes else self._seq_seen
        if changes.lines and seq <= self._seq_seen:
            # An older copy was put in the place of the file, under our feet.
            raise OSError(_went_back(self._files, f"is older than before: it had {self._seq_seen} entries"))
        return outcomes, max(seq, self._seq_seen)

    # ---- the connection ------------------------------------------------------------------------------------------

    def _connected(self) -> sqlite3.Connection:
        """Give the connection, opened anew after an error; raises OSError when the file is not the one we know."""
        stat = os.stat(self._files.database)
        if self._connection is not None and self._inode == (stat.st_dev, stat.st_ino):
            return self._connection
        self._close()
        connection = connect(self._files.database, self._busy_seconds)
        try:
            self._recognise(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        self._inode = (stat.st_dev, stat.st_ino)
        return connection

    def _recognise(self, connection: sqlite3.Connection) -> Marker:
        """Raise OSError when the file was exchanged for another ledger, or for an older copy of this one."""
        found = _identify(connection)
        # What this process has seen, and what any process of this machine has noted.
        for known in (self._seen(), self._marker()):
            trouble = markers.check(known, found.ledger, found.epoch, found.entries)
            if trouble:
                raise OSError(_went_back(self._files, f"was exchanged while it was open: it {trouble}"))
        self._seq_seen, self._epoch = found.entries, found.epoch
        return found

    def _marker(self) -> Marker | None:
        try:
            return markers.read(self._files.marker)
        except LedgerLostError as error:
            raise OSError(f"{error}. {_ADVICE.format(files=self._files)}") from error

    def _seen(self) -> Marker:
        return Marker(self._ledger_id, self._seq_seen, self._epoch)

    def _close(self) -> None:
        """Let go of the connection; an open transaction is rolled back."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def open_first(self, worker: str) -> None:
        """Make or check the database and its marker, migrate, register the worker; raises LedgerLostError."""
        files = self._files
        files.database.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._turnstile.turn():
            known = _known(files)
            _make(files.database)
            connection = connect(files.database, self._busy_seconds)
            try:
                migrate_sqlite(connection, self._clock.now(), secrets.token_hex(16))
                found = _identify(connection)
                trouble = markers.check(known, found.ledger, found.epoch, found.entries)
                if trouble:
                    raise LedgerLostError(_went_back(files, trouble))
                self._ledger_id, self._epoch, self._seq_seen = found.ledger, found.epoch, found.entries
                connection.execute(SQL["write_worker"], (worker, self._clock.now()))
                markers.write(files.marker, found)
            finally:
                connection.close()

    def write_marker(self, connection: sqlite3.Connection) -> None:
        """Note how far the ledger has come, so that an older copy of it is recognised; raises OSError for one."""
        found = self._recognise(connection)
        if found != self._noted:
            markers.write(self._files.marker, found)
            self._noted = found


def _make(path: Path) -> None:
    """Make an empty file that only its owner reads; one that is there is not even opened.

    Closing a file takes away all the locks that a process has on it: of another store of this process, on the same
    ledger, as `bursar run` has one. Whoever came and went then would believe to be the last, and take the log away.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def survey(files: Files) -> Adopted:
    """Compare the database with its marker and change nothing; raises LedgerLostError, SchemaError, OSError."""

    def look(connection: sqlite3.Connection) -> Adopted:
        # What was emptied has no identity at all, and is another ledger than the one that was here.
        found = _identify(connection) if has_ledger(connection) else Marker("", 0)
        return markers.accepted(str(files.database), *_compare(files, found))

    return _apart(files, connect_to_look, look)


def adopt(files: Files, now: Instant, who: str) -> Adopted:
    """Accept the database as it is; raises LedgerLostError, SchemaError, OSError."""

    def accept(connection: sqlite3.Connection) -> Adopted:
        migrate_sqlite(connection, now, secrets.token_hex(16))
        found = _identify(connection)
        adopted = markers.accepted(str(files.database), *_compare(files, found))
        epoch = str(adopted.epoch)
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(SQL["write_meta_over"], ("epoch", epoch))
        connection.execute(SQL["write_meta_over"], (f"adopted {epoch}", markers.record(adopted, now, who)))
        connection.execute("COMMIT")
        markers.write(files.marker, replace(found, epoch=adopted.epoch))
        return adopted

    return _apart(files, connect, accept)


def _apart(
    files: Files, opened: Callable[[Path], sqlite3.Connection], work: Callable[[sqlite3.Connection], Adopted]
) -> Adopted:
    """Do something on a connection of its own, in a turn of its own."""
    turnstile = Turnstile(files.turn)
    try:
        with turnstile.turn():
            if not files.database.exists():
                raise LedgerLostError(_went_back(files, "is gone, so there is nothing to accept"))
            with contextlib.closing(opened(files.database)) as connection:
                return work(connection)
    finally:
        turnstile.close()


def _compare(files: Files, found: Marker) -> tuple[Marker | None, Marker, str]:
    try:
        known = markers.read(files.marker)
    except LedgerLostError as error:
        # Whoever accepts the ledger accepts that nothing outside of it is known.
        return None, found, str(error)
    return known, found, markers.check(known, found.ledger, found.epoch, found.entries)


def _identify(connection: sqlite3.Connection) -> Marker:
    """Say which ledger this is, and how far it has come."""
    ledger, epoch, entries, at = connection.execute(SQL["read_identity"]).fetchone()
    return Marker(ledger or "", entries, epoch, Instant(at))


def _known(files: Files) -> Marker | None:
    """Give what is known of the ledger; raises LedgerLostError when it is gone, or when that cannot be read."""
    try:
        known = markers.read(files.marker)
    except LedgerLostError as error:
        raise LedgerLostError(f"{error}. {_ADVICE.format(files=files)}") from error
    if known is not None and (not files.database.exists() or not files.database.stat().st_size):
        raise LedgerLostError(_went_back(files, "is gone, but it was here"))
    return known


def _went_back(files: Files, trouble: str) -> str:
    return f"the ledger {files.database} {trouble}. {_ADVICE.format(files=files)}"


_ADVICE = (
    "What was spent is not known any more. Restore {files.database} from its newest backup; "
    "or accept what is there and count from it: bursar ledger adopt. "
    "(Where nothing is left of it, remove {files.marker} to begin a new one.)"
)
