"""The ledger in PostgreSQL: durable, shared by the gateways of many machines."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from bursar.clock import Clock, Instant, SystemClock
from bursar.ledger.account import Account, Answer, HoldState, Operation
from bursar.ledger.store import (
    KEEP_DAYS_MIN,
    Adopted,
    Archive,
    Compacted,
    Entry,
    Finding,
    HoldRow,
    KeyRow,
    LedgerLostError,
    LedgerUnavailableError,
    NotWrittenError,
    QuarantineRow,
    RunRow,
    SpentRow,
)
from bursar.money import ensure
from bursar.stores import marker as markers
from bursar.stores import postgres_reads as reads
from bursar.stores.marker import Marker
from bursar.stores.migrate import Migration, SchemaError, has_ledger_there, is_up_to_date, migrate_postgres, migrations
from bursar.stores.postgres_answers import PostgresAnswers
from bursar.stores.postgres_link import (
    NO_URL,
    OUTAGES,
    POOLED,
    SQL,
    Connection,
    Identity,
    Patience,
    close,
    connect,
    explain,
    has_life,
    identify,
    life_key,
    not_written,
    place_of,
    sqlstate,
    take_life,
    warnings_of,
)
from bursar.stores.postgres_outbox import PostgresOutbox
from bursar.stores.postgres_retention import compact, verify
from bursar.stores.postgres_runs import PostgresRuns
from bursar.stores.postgres_writer import Opened, Work, Writer
from bursar.stores.rows import PAGE_ROWS

T = TypeVar("T")

MIGRATION_SECONDS = 3600.0
"""How long a change of the schema may take on a large ledger, and the other gateways wait for it."""
NOT_OWNER = "only the role that owns the ledger may fold it: run `bursar ledger compact` under that role"
ADVICE = (
    "What was spent since is not known any more. Restore the newest backup, or accept what is there and count from it: "
    "bursar ledger adopt"
)


class PostgresStore(PostgresAnswers, PostgresRuns):
    """One PostgreSQL ledger as one worker process sees it; see `bursar.ledger.store.Store` for the contract."""

    def __init__(
        self,
        url: str,
        clock: Clock | None = None,
        *,
        queue_max: int = 10_000,
        batch_max: int = 256,
        marker: Path | None = None,
        known: tuple[Migration, ...] = (),
        patience: Patience | None = None,
    ) -> None:
        """Describe a store; `clock` None is the server's, `marker` None is a file in the state directory."""
        self.worker = ""
        """Empty until the store is started."""
        self.warnings: tuple[str, ...] = ()
        self._url = url
        self._place = place_of(url)
        self._clock = clock
        self._queue_max = queue_max
        self._marker_path = marker
        self._known = known or migrations("postgres")
        self._patience = patience or Patience()
        self._identity = Identity(0, False, "", 0, 0, 0, 0)
        self._writer = Writer(self._reopen, clock, batch_max)
        self._reader = reads.Reader(url, self._patience)
        self._key_finder = reads.keys_by_digest(self._reader)
        self._pattern_finder = reads.model_patterns(self._reader)
        self._is_open = False
        self.outbox = PostgresOutbox(self._reader, self._now)

    # ---- life ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the database, run the migrations, take the liveness lock; raises LedgerLostError, SchemaError."""
        # A fresh name each time: the holds of an earlier life are not this one's to settle unseen.
        worker = _new_worker()
        try:
            connection = await connect(self._url, self._patience, worker)
        except (*OUTAGES, *NO_URL) as error:
            raise LedgerUnavailableError(f"the ledger cannot be opened: {explain(error)}") from error
        try:
            opened = await self._open_first(connection, worker)
        except BaseException as error:
            connection.terminate()
            if isinstance(error, OUTAGES):
                raise LedgerUnavailableError(f"the ledger cannot be opened: {explain(error)}") from error
            raise
        self.worker = self._writer.worker = worker
        self._writer.start(opened)
        self._is_open = True

    async def _open_first(self, connection: Connection, worker: str) -> Opened:
        await self._migrate(connection)
        self._identity = found = await identify(connection)
        trouble = await asyncio.to_thread(self._trouble_with, found)
        if trouble:
            raise LedgerLostError(f"the ledger at {self._place} {trouble}. {ADVICE}")
        opened = await self._begin_life(connection, worker, 0)
        await self._register(connection, worker)
        self.warnings = await warnings_of(connection)
        await asyncio.to_thread(self._write_marker, self._told(found))
        return opened

    async def _migrate(self, connection: Connection) -> None:
        if not await is_up_to_date(connection, self._known):
            await self._migrate_now()
        # The group role may have been made after the tables; whoever owns them gives it what it lacks.
        await connection.execute(SQL["grants"])

    async def _migrate_now(self) -> None:
        now = (self._clock or SystemClock()).now()
        patience = replace(
            self._patience, statement=MIGRATION_SECONDS, lock=MIGRATION_SECONDS, answer=MIGRATION_SECONDS
        )
        connection = await connect(self._url, patience, _new_worker())
        try:
            await migrate_postgres(connection, now, self._known, secrets.token_hex(16))
        except OUTAGES as error:
            if sqlstate(error) != "42501":
                raise
            newest = self._known[-1].number
            raise SchemaError(
                f"the ledger needs schema {newest}, and this role may not change it: start this version of bursar "
                f"once as the owner of the database ({error})"
            ) from error
        finally:
            await close(connection)

    async def _begin_life(self, connection: Connection, worker: str, former: int) -> Opened:
        """Take the lock that proves that this process lives, on the connection that writes."""
        backend = await connection.fetchval(SQL["backend"])
        if not await take_life(connection, worker, former):
            raise NotWrittenError("the lock that proves that this process lives is still taken by its former session")
        if not await has_life(connection, worker, backend):
            raise LedgerUnavailableError(POOLED)
        return Opened(connection, backend)

    async def _register(self, connection: Connection, worker: str) -> None:
        await connection.execute(SQL["write_worker"], worker, await self._now(connection))

    async def _reopen(self) -> Opened:
        """Open the connection of the writer anew; raises LedgerUnavailableError or one of OUTAGES."""
        connection = await connect(self._url, self._patience, self.worker)
        try:
            found = await identify(connection)
            await self._recognise(found)
            opened = await self._begin_life(connection, self.worker, self._identity.backend)
        except BaseException:
            connection.terminate()
            raise
        # Also where it is less than was seen: then an operator has accepted it, with a new epoch.
        self._identity, self._writer.seq_seen = found, found.seq
        return opened

    async def _recognise(self, found: Identity) -> None:
        """Refuse a server that takes no writes, a schema that is too new, and a ledger that went back in time."""
        if found.is_read_only:
            raise NotWrittenError("the ledger cannot be written: the server takes no writes (a standby?)")
        if found.beside > self._known[-1].number:
            raise NotWrittenError("the ledger was changed for newer gateways; start this one anew")
        trouble = markers.check(self._seen(), found.ledger, found.epoch, found.seq)
        if trouble:
            # So that a start of this process does not forget what it has seen.
            await asyncio.to_thread(self._write_marker, self._seen())
        trouble = trouble or await asyncio.to_thread(self._trouble_with, found)
        if trouble:
            raise NotWrittenError(f"the ledger at {self._place} {trouble}. {ADVICE}")

    async def close(self) -> None:
        """Write what was submitted, then release the liveness lock; a second close does nothing."""
        if not self._is_open:
            return
        await self._note_progress()
        self._is_open = False
        leaving = self._writer.put(self._leave)
        await self._writer.stop()
        await asyncio.gather(leaving, return_exceptions=True)
        await self._reader.close()

    async def _leave(self, connection: Connection) -> None:
        await connection.execute(SQL["write_left"], self.worker, await self._now(connection))
        await connection.fetchval(SQL["end_life"], life_key(self.worker))
        await close(connection)

    async def renew(self, fenced: str) -> None:
        """Take a fresh identity after `fenced` was declared dead; raises LedgerUnavailableError."""
        await self._ticket(lambda connection: self._renew(connection, fenced))

    async def _renew(self, connection: Connection, fenced: str) -> None:
        # In the writer's task: whoever asks second finds that it was done.
        if fenced != self.worker:
            return
        worker = _new_worker()
        if not await take_life(connection, worker, 0):
            raise NotWrittenError("no lock for a new identity")
        await self._register(connection, worker)
        await connection.fetchval(SQL["end_life"], life_key(self.worker))
        self.worker = self._writer.worker = worker

    async def _now(self, connection: Connection) -> Instant:
        return self._clock.now() if self._clock is not None else Instant(await connection.fetchval(SQL["clock"]))

    # ---- the way back in time ------------------------------------------------------------------------------------

    def _path(self, ledger: str) -> Path:
        return self._marker_path or markers.folder() / f"{ledger}.json"

    def _trouble_with(self, found: Identity) -> str:
        """Compare the ledger with what is known of it outside; raises LedgerLostError for an unreadable marker."""
        return markers.check(self._known_of(found.ledger), found.ledger, found.epoch, found.seq)

    def _known_of(self, ledger: str) -> Marker | None:
        known = markers.read(self._path(ledger))
        if known is None and self._marker_path is None:
            # A database that was emptied and filled anew has a new id; that another ledger was there is remembered.
            known = markers.at_place(markers.folder(), self._place)
        return known

    def _seen(self) -> Marker:
        seq = max(self._identity.seq, self._writer.seq_seen)
        return Marker(self._identity.ledger, seq, self._identity.epoch, Instant(self._identity.at), self._place)

    def _told(self, found: Identity) -> Marker:
        return Marker(found.ledger, found.seq, found.epoch, Instant(found.at), self._place)

    def _write_marker(self, told: Marker) -> None:
        path = self._path(told.ledger)
        if markers.is_ahead(told, markers.read(path)):
            markers.write(path, told)

    async def _note_progress(self) -> None:
        try:
            found = await self._reader.run(identify)
            if not markers.check(self._seen(), found.ledger, found.epoch, found.seq):
                await asyncio.to_thread(self._write_marker, self._told(found))
        except (LedgerUnavailableError, LedgerLostError, OSError):
            # The marker only makes a rollback visible; the next look writes it.
            return

    async def survey(self) -> Adopted:
        """Compare the database with its marker and change nothing; see `Store.survey`."""

        async def look(connection: Connection) -> Adopted:
            # What was emptied has no identity at all, and is another ledger than the one that was here.
            is_there = await has_ledger_there(connection, self._known)
            found = self._told(await identify(connection)) if is_there else Marker("", 0, place=self._place)
            known, trouble = await asyncio.to_thread(self._compare, found)
            return markers.accepted(self._place, known, found, trouble)

        return await self._apart(look)

    async def adopt(self, who: str) -> Adopted:
        """Accept the database as it is, although it went back in time; see `Store.adopt`."""
        ensure(bool(who), "somebody accepts a ledger that went back in time")

        async def accept(connection: Connection) -> Adopted:
            await self._migrate(connection)
            found = self._told(await identify(connection))
            known, trouble = await asyncio.to_thread(self._compare, found)
            adopted = markers.accepted(self._place, known, found, trouble)
            epoch, record = str(adopted.epoch), markers.record(adopted, await self._now(connection), who)
            await connection.execute(SQL["adopt"], epoch, f"adopted {epoch}", record)
            await asyncio.to_thread(self._replace_marker, known, replace(found, epoch=adopted.epoch))
            return adopted

        return await self._apart(accept)

    async def _apart(self, work: Callable[[Connection], Awaitable[Adopted]]) -> Adopted:
        try:
            connection = await connect(self._url, self._patience, _new_worker())
        except (*OUTAGES, *NO_URL) as error:
            raise LedgerUnavailableError(f"the ledger cannot be opened: {explain(error)}") from error
        try:
            return await work(connection)
        except OUTAGES as error:
            raise not_written(error) from error
        finally:
            connection.terminate()

    def _compare(self, found: Marker) -> tuple[Marker | None, str]:
        try:
            known = self._known_of(found.ledger)
        except LedgerLostError as error:
            # Whoever accepts the ledger accepts that nothing outside of it is known.
            return None, str(error)
        return known, markers.check(known, found.ledger, found.epoch, found.entries)

    def _replace_marker(self, known: Marker | None, told: Marker) -> None:
        if known is not None and known.ledger != told.ledger:
            # It was found at this place before; what is accepted now takes its place.
            markers.write(self._path(known.ledger), replace(known, place=""))
        markers.write(self._path(told.ledger), told)

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

        async def work(connection: Connection) -> None:
            now = await self._now(connection)
            await connection.fetch(SQL["write_key"], digest, name, run, limits_json, now, terms_json, expires_at)

        await self._ticket(work)

    async def declared(self, scope: str) -> str:
        """Give what the settings last said about a scope."""
        return str(await self._read(lambda connection: connection.fetchval(SQL["read_declared"], scope)) or "")

    async def declare(self, scope: str, text: str) -> None:
        """Remember what the settings say about a scope."""

        async def work(connection: Connection) -> None:
            await connection.execute(SQL["write_declared"], scope, text, await self._now(connection))

        await self._ticket(work)

    async def revoke_key(self, name: str) -> int:
        """Revoke every key of this name; give how many there were."""
        return await self._revoke("revoke_keys", name)

    async def revoke_secret(self, digest: str) -> int:
        """Revoke the one key with this digest; give how many there were."""
        return await self._revoke("revoke_secret", digest)

    async def _revoke(self, query: str, whose: str) -> int:
        async def work(connection: Connection) -> int:
            return len(await connection.fetch(SQL[query], await self._now(connection), whose))

        return int(await self._ticket(work))

    async def _ticket(self, what: Operation | Work) -> Any:
        if not self._is_open:
            raise NotWrittenError("the ledger is not open")
        if self._writer.waiting >= self._queue_max:
            raise NotWrittenError(f"{self._writer.waiting} operations wait to be written")
        return await self._writer.put(what)

    # ---- reading -------------------------------------------------------------------------------------------------

    async def dead_workers(self) -> tuple[str, ...]:
        """Give the workers that have open holds and whose liveness lock nobody has."""
        await self._note_progress()
        suspects, lives = await self._read(reads.lives)
        since = asyncio.get_running_loop().time() - self._writer.reopened_at
        is_early = self._writer.reopened_at > 0 and since < self._patience.grace
        return tuple(
            worker
            for worker, has_left in suspects
            if worker != self.worker and life_key(worker) not in lives and (has_left or not is_early)
        )

    async def accounts(self, scope: str | None = None) -> tuple[Account, ...]:
        """Give all accounts, or those of one scope."""
        return await self._read(lambda connection: reads.accounts(connection, None if scope is None else [scope]))

    async def runs(self, limit_rows: int = 100, after: str = "") -> tuple[RunRow, ...]:
        """Give the newest runs, or those that come after one."""
        return await self._read(lambda connection: reads.runs(connection, limit_rows, after))

    async def run(self, run: str) -> RunRow | None:
        """Give one run."""
        return await self._read(lambda connection: reads.run(connection, run))

    async def holds(
        self, state: HoldState | None = None, limit_rows: int = 1000, after: str = ""
    ) -> tuple[HoldRow, ...]:
        """Give the newest holds, or the newest in one state, or those that come after one."""
        return await self._read(lambda connection: reads.holds(connection, state, limit_rows, after))

    async def hold(self, call_id: str) -> HoldRow | None:
        """Give one hold."""
        return await self._read(lambda connection: reads.hold(connection, call_id))

    async def spent_by_day(self, first_day: int, last_day: int) -> tuple[SpentRow, ...]:
        """Give what was spent from one UTC day to another, both included, by day, upstream and model."""
        return await self._read(lambda connection: reads.spent_by_day(connection, first_day, last_day))

    async def quarantined(self) -> tuple[QuarantineRow, ...]:
        """Give the models in quarantine, by name."""
        return await self._read(reads.quarantined)

    async def entries(self, after_seq: int = 0) -> AsyncIterator[Entry]:
        """Give the entries after this one, ascending, in pages."""
        while True:
            page = await self._read(reads.page_after(after_seq))
            for entry in page:
                yield entry
            if len(page) < PAGE_ROWS:
                return
            after_seq = page[-1].seq

    async def audit(self) -> tuple[Finding, ...]:
        """Replay all entries and compare with all accounts and holds, as of one instant."""
        return await self._read(verify)

    async def compact(self, keep_days: int, entries_max: int, archive: Archive | None = None) -> Compacted:
        """Fold old entries into the base, one step; see `Store.compact`. Only the owner's role may."""
        ensure(keep_days >= KEEP_DAYS_MIN, "what a call in flight may still need is kept", keep_days)
        if not self._is_open:
            raise NotWrittenError("the ledger is not open")

        async def step(connection: Connection) -> Compacted:
            now = await self._now(connection)
            try:
                return await compact(connection, self.worker, now, keep_days, entries_max, archive)
            except OUTAGES as error:
                if sqlstate(error) == "42501":
                    raise NotWrittenError(NOT_OWNER) from error
                raise

        return await self._reader.change(step)

    async def find_key(self, digest: str) -> KeyRow | None:
        """Give the key with this digest, revoked or not; asked of the database each time, never remembered."""
        if not self._is_open:
            raise NotWrittenError("the ledger is not open")
        return await self._key_finder.find(digest)

    async def patterns(self) -> tuple[str, ...]:
        """Give the scopes of budgets for all models that begin alike; asked of the database each time."""
        if not self._is_open:
            raise NotWrittenError("the ledger is not open")
        return await self._pattern_finder.find("") or ()

    async def keys(self) -> tuple[KeyRow, ...]:
        """Give all keys."""
        return await self._read(reads.keys)

    async def _read(self, read: Callable[[Connection], Awaitable[T]]) -> T:
        if not self._is_open:
            raise NotWrittenError("the ledger is not open")
        return await self._reader.run(read)


def _new_worker() -> str:
    return f"{os.getpid()}-{secrets.token_hex(8)}"
