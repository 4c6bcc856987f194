"""The one task that writes: takes what is queued, decides it in one transaction, commits, hands the answers back."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from bursar.clock import Clock
from bursar.ledger.account import Operation
from bursar.ledger.batch import Outcome, decide
from bursar.ledger.store import LedgerUnavailableError, NotWrittenError, batches
from bursar.money import BrokenInvariantError
from bursar.stores.postgres_link import (
    AGAIN,
    OUTAGES,
    POOLED,
    REFUSALS,
    SQL,
    Connection,
    explain,
    not_written,
    sqlstate,
)
from bursar.stores.postgres_rows import load, write

_LOG = logging.getLogger("bursar.ledger")

Work = Callable[[Connection], Awaitable[object]]
"""A change of something else than money (keys, workers), which is one statement or can be done again."""
Handle = asyncio.Future[Any]
Ticket = tuple[Operation | Work, Handle]
Result = object | BaseException

ATTEMPTS_MAX = 6
"""How often a batch is tried that ran into another gateway's: a cycle of locks, or the same new row."""
JITTER_SECONDS = 0.02
BACKOFF_SECONDS_MIN = 0.05
BACKOFF_SECONDS_MAX = 1.0
ENDED = "the ledger's writer has ended"
_LUCK = secrets.SystemRandom()


class Opened:
    """A connection that is ready to write, and the server's process at its other end."""

    def __init__(self, connection: Connection, backend: int) -> None:
        self.connection = connection
        self.backend = backend
        self.has_warned = False
        """Set when the server warned of something since this was last looked at."""
        connection.add_log_listener(self._hear)

    def _hear(self, _: object, message: Any) -> None:
        # Such as: the wait for the standby was ended, and what was committed may be lost with this server.
        if getattr(message, "severity_en", "") == "WARNING":
            self.has_warned = True


class Writer:
    """Owns the write connection; opens it anew, again and again, when it is lost."""

    def __init__(self, reopen: Callable[[], Awaitable[Opened]], clock: Clock | None, batch_max: int) -> None:
        self.worker = ""
        self.seq_seen = 0
        """The number of the last entry that was ever acknowledged here."""
        self.reopened_at = 0.0
        """The loop's time when the connection was last opened anew; 0 where it never was."""
        self._reopen = reopen
        self._clock = clock
        self._batch_max = batch_max
        self._tickets: deque[Ticket] = deque()
        self._wake = asyncio.Event()
        self._opened: Opened | None = None
        self._trouble: LedgerUnavailableError | None = None
        self._retry_at = 0.0
        self._delay = BACKOFF_SECONDS_MIN
        self._is_stopping = False
        self._is_committing = False
        self.has_ended = False
        self._task: asyncio.Task[None] | None = None

    def start(self, opened: Opened) -> None:
        """Begin to serve on a connection."""
        self._adopt(opened)
        self._task = asyncio.get_running_loop().create_task(self._run(), name="bursar-ledger")

    def put(self, what: Operation | Work) -> Handle:
        """Queue an operation; the handle gives its answer."""
        handle: Handle = asyncio.get_running_loop().create_future()
        if self.has_ended:
            handle.set_exception(NotWrittenError(ENDED))
            return handle
        self._tickets.append((what, handle))
        self._wake.set()
        return handle

    @property
    def waiting(self) -> int:
        """Give how many operations wait to be written."""
        return len(self._tickets)

    async def stop(self) -> None:
        """Serve what is queued, then end."""
        self._is_stopping = True
        self._wake.set()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    # ---- the task ------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        taken: list[Ticket] = []
        try:
            while self._tickets or not self._is_stopping:
                await self._rest()
                taken = [self._tickets.popleft() for _ in range(min(len(self._tickets), self._batch_max))]
                await self._serve(taken)
                taken = []
        finally:
            # Also when a bug or the end of the loop ends the task: nobody may wait for an answer for ever.
            self.has_ended = True
            self._drop()
            for _, handle in taken:
                _resolve(handle, LedgerUnavailableError(ENDED))
            for _, handle in self._tickets:
                _resolve(handle, NotWrittenError(ENDED))

    async def _rest(self) -> None:
        """Wait for a ticket; where the connection is lost meanwhile, open it anew, for others may think us dead."""
        while not self._tickets and not self._is_stopping:
            self._wake.clear()
            if self._opened is not None and not self._opened.connection.is_closed():
                await self._wake.wait()
                continue
            try:
                await self._connected()
            except LedgerUnavailableError:
                pause = max(self._retry_at - asyncio.get_running_loop().time(), 0.001)
                asyncio.get_running_loop().call_later(pause, self._wake.set)
                await self._wake.wait()

    async def _serve(self, tickets: list[Ticket]) -> None:
        operations: list[Operation] = []
        handles: list[Handle] = []
        for what, handle in tickets:
            if callable(what):
                _resolve(handle, await self._work(what))
            else:
                operations.append(what)
                handles.append(handle)
        done = 0
        for batch in batches(operations, self._batch_max):
            results = await self._decide(batch)
            for handle, result in zip(handles[done : done + len(batch)], results, strict=True):
                _resolve(handle, result)
            done += len(batch)

    async def _work(self, work: Work) -> Result:
        try:
            opened = await self._connected()
            return await work(opened.connection)
        except LedgerUnavailableError as error:
            return error
        except OUTAGES as error:
            self._drop()
            return LedgerUnavailableError(f"the ledger cannot be written: {explain(error)}")

    # ---- a batch -------------------------------------------------------------------------------------------------

    async def _decide(self, batch: list[Operation]) -> Sequence[Result]:
        """Commit a batch; when the database itself refuses a row, find whose it is by committing one by one."""
        refusal: BaseException | None = None
        for _ in range(ATTEMPTS_MAX):
            self._is_committing = False
            try:
                return await self._attempt(batch)
            except LedgerUnavailableError as error:
                return _each(error, batch)
            except REFUSALS as error:
                if isinstance(error, OSError) or not await self._rolled_back():
                    return _each(self._outage(error), batch)
                refusal = error
                if sqlstate(error) not in AGAIN:
                    break
            except OUTAGES as error:
                if sqlstate(error) not in AGAIN or not await self._rolled_back():
                    return _each(self._outage(error), batch)
                refusal = error
            await asyncio.sleep(_LUCK.uniform(0, JITTER_SECONDS))
        if refusal is None or not isinstance(refusal, REFUSALS):
            return _each(not_written(refusal or TimeoutError()), batch)
        if len(batch) == 1:
            return [BrokenInvariantError(f"the database refuses what the rules allowed: {explain(refusal)}")]
        return [(await self._decide([operation]))[0] for operation in batch]

    async def _attempt(self, batch: list[Operation]) -> list[Outcome]:
        opened = await self._connected()
        connection = opened.connection
        await connection.execute(SQL["begin"])
        given_now = None if self._clock is None else self._clock.now()
        loaded = await load(connection, batch, self.worker, given_now)
        if loaded.backend != opened.backend:
            self._drop()
            raise NotWrittenError(POOLED)
        outcomes, changes = decide(loaded.books, batch, loaded.now)
        seq = await write(connection, changes, loaded.now) if changes else 0
        if changes.lines and seq <= self.seq_seen:
            # A server that was set back in time under a connection that lived on (a snapshot of its machine).
            self._drop()
            raise NotWrittenError(f"the ledger is older than before: it had {self.seq_seen} entries")
        opened.has_warned = False
        self._is_committing = True
        # Also where nothing was changed: this commit waits for the standby, and with it for what it has found.
        said = await connection.execute(SQL["commit"])
        if said != "COMMIT":
            raise NotWrittenError("the ledger cannot be written: the server has rolled back")
        if opened.has_warned:
            self._drop()
            raise LedgerUnavailableError("the server has committed, but did not wait for its standby")
        self.seq_seen = max(self.seq_seen, seq)
        return outcomes

    def _outage(self, error: BaseException) -> LedgerUnavailableError:
        self._drop()
        if not self._is_committing:
            return not_written(error)
        return LedgerUnavailableError(f"it is not known whether the ledger was written: {explain(error)}")

    async def _rolled_back(self) -> bool:
        """Take back what the transaction did and keep the connection, for our life hangs on it."""
        if self._opened is None:
            return False
        try:
            await self._opened.connection.execute(SQL["rollback"])
        except OUTAGES:
            self._drop()
            return False
        return True

    # ---- the connection ------------------------------------------------------------------------------------------

    async def _connected(self) -> Opened:
        """Give the connection, opened anew when it was lost; raises LedgerUnavailableError, also between two tries."""
        if self._opened is not None and not self._opened.connection.is_closed():
            return self._opened
        self._drop()
        now = asyncio.get_running_loop().time()
        if self._trouble is not None and now < self._retry_at:
            raise type(self._trouble)(str(self._trouble))
        try:
            opened = await self._reopen()
        except OUTAGES as error:
            self._back_off(not_written(error))
        except LedgerUnavailableError as error:
            self._back_off(error)
        else:
            if self._trouble is not None:
                _LOG.warning("the ledger is back")
            self.reopened_at = asyncio.get_running_loop().time()
            self._adopt(opened)
            return opened
        raise self._trouble  # type: ignore[misc]  # _back_off has set it

    def _back_off(self, trouble: LedgerUnavailableError) -> None:
        if self._trouble is None:
            _LOG.warning("the ledger is away: %s", trouble)
        self._trouble = trouble
        self._retry_at = asyncio.get_running_loop().time() + self._delay * _LUCK.uniform(0.5, 1)
        self._delay = min(self._delay * 2, BACKOFF_SECONDS_MAX)

    def _adopt(self, opened: Opened) -> None:
        self._opened = opened
        self._trouble = None
        self._delay = BACKOFF_SECONDS_MIN
        opened.connection.add_termination_listener(lambda _: self._wake.set())

    def _drop(self) -> None:
        """Let go of the connection at once; the server rolls back what was open."""
        if self._opened is not None:
            self._opened.connection.terminate()
            self._opened = None


def _each(error: LedgerUnavailableError, batch: list[Operation]) -> list[LedgerUnavailableError]:
    """Give every operation an error of its own: one that is raised in many tasks would collect their tracebacks."""
    return [type(error)(str(error)) for _ in batch]


def _resolve(handle: Handle, result: Result) -> None:
    if handle.done():
        return
    if isinstance(result, BaseException):
        handle.set_exception(result)
    else:
        handle.set_result(result)
