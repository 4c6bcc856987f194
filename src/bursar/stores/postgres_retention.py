"""Folds old entries of a PostgreSQL ledger into its base, a step at a time, and audits what comes after the base."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any, TypeVar

from bursar.clock import Instant
from bursar.ledger.audit import Base, Fold, agrees, audit, fold, forgettable, replayed_hold
from bursar.ledger.books import Balance, encode
from bursar.ledger.store import DAY, Archive, Compacted, Entry, Finding, HoldRow
from bursar.stores.postgres_link import SQL, Connection
from bursar.stores.retention import (
    PAGE_ENTRIES,
    PAST_ACCOUNTS,
    base_account_rows,
    base_accounts,
    booked_calls,
    calls_of,
    folded_days,
    is_taken,
    old_entries,
    scopes_of,
)
from bursar.stores.rows import entry_row, hold_row

T = TypeVar("T")


async def compact(
    connection: Connection, worker: str, now: Instant, keep_days: int, entries_max: int, archive: Archive | None
) -> Compacted:
    """Fold at most so many entries that are older, in the transaction of the caller; in steps, one worker at a time."""
    # One step at a time on the whole ledger; calls do not wait for this lock.
    await connection.fetchval(SQL["compacting_lock"])
    if is_taken(await connection.fetchrow(SQL["read_compacting"]), worker, now):
        return Compacted(is_busy=True)
    before = Instant(now - keep_days * DAY)
    after = await connection.fetchval(SQL["read_number"], "base_seq")
    entries = old_entries(await connection.fetch(SQL["read_entries_before"], after, entries_max), before)
    if not entries:
        return await _forget_accounts(connection, after, before)
    base = await _part_of_base(connection, after, entries)
    # Locked: what is corrected at this moment is not folded as it was before.
    found = await connection.fetch(SQL["read_holds_to_end"], sorted(calls_of(entries)))
    rows = {row[0]: hold_row(row) for row in found}
    folded = await asyncio.to_thread(fold, base, entries, rows)
    if folded.findings:
        return Compacted(findings=folded.findings, seq=after)
    if archive is not None:
        await asyncio.to_thread(archive, entries)
    await connection.execute(SQL["write_meta_over"], "compacting", encode([worker, now]))
    await _write(connection, folded, before)
    return Compacted(len(entries), len(folded.ended), 0, folded.seq, is_done=False)


async def _forget_accounts(connection: Connection, seq: int, before: Instant) -> Compacted:
    """Take a number of accounts of ended periods out of the base and the books."""
    after = ""
    holds = {row[0]: replayed_hold(row[1]) for row in await connection.fetch(SQL["read_base_holds"])}
    while page := await connection.fetch(SQL["read_base_accounts_past"], after, before, PAST_ACCOUNTS):
        after = page[-1][0]
        base = Base(seq, base_accounts(page), holds)
        booked = await connection.fetch(SQL["read_accounts_named"], *_keys(list(base.accounts)))
        names, findings = forgettable(base, [Balance(*row).account() for row in booked], before)
        if findings:
            return Compacted(findings=findings, seq=seq)
        if names:
            await connection.execute(SQL["write_accounts_gone"], *_keys(names))
            await connection.execute(SQL["write_base_accounts_gone"], names)
            return Compacted(0, 0, len(names), seq, is_done=False)
    await connection.execute(SQL["write_meta_gone"], "compacting")
    return Compacted(seq=seq)


async def _part_of_base(connection: Connection, seq: int, entries: list[Entry]) -> Base:
    """Give the part of the base that these entries are about."""
    accounts = await connection.fetch(SQL["read_base_accounts_of"], scopes_of(entries))
    holds = await connection.fetch(SQL["read_base_holds_of"], calls_of(entries))
    models = await connection.fetch(SQL["read_base_quarantine"])
    return Base(
        seq, base_accounts(accounts), {row[0]: replayed_hold(row[1]) for row in holds}, {row[0] for row in models}
    )


async def _write(connection: Connection, folded: Fold, before: Instant) -> None:
    # First how far the base is: the triggers let go of nothing that is newer.
    at = max(before, await connection.fetchval(SQL["read_number"], "base_at"))
    for name, value in (("base_seq", folded.seq), ("base_at", at)):
        await connection.execute(SQL["write_meta_over"], name, str(value))
    if folded.accounts:
        await connection.execute(SQL["write_base_accounts"], *_columns(base_account_rows(folded.accounts)))
    if folded.holds:
        holds = [(call, hold.to_text()) for call, hold in folded.holds.items()]
        await connection.execute(SQL["write_base_holds"], *_columns(holds))
    models = sorted(folded.quarantined)
    await connection.execute(SQL["write_base_quarantine_gone"], models)
    await connection.execute(SQL["write_base_quarantine"], models)
    days = folded_days(folded.ended)
    if days:
        await connection.execute(SQL["write_folded_days"], *_columns(days))
    gone = [row.call_id for row in folded.ended]
    await connection.execute(SQL["write_base_holds_gone"], gone)
    await connection.execute(SQL["write_folded_calls"], booked_calls(folded.ended))
    await connection.execute(SQL["write_holds_gone"], gone)
    await connection.execute(SQL["write_entries_gone"], folded.seq)


def _keys(names: list[str]) -> Sequence[Sequence[object]]:
    return _columns([tuple(name.rsplit("/", 2)) for name in names])


def _columns(rows: Sequence[Sequence[object]]) -> Sequence[Sequence[object]]:
    return tuple(zip(*rows, strict=True))


# ---- the audit ------------------------------------------------------------------------------------------------------


async def verify(connection: Connection) -> tuple[Finding, ...]:
    """Replay all entries after the base and compare with all accounts and holds; in a thread, page by page."""
    return await asyncio.to_thread(_Audit(connection, asyncio.get_running_loop()).run)


class _Audit:
    """Runs in a thread; what it reads is read on the event loop."""

    def __init__(self, connection: Connection, loop: asyncio.AbstractEventLoop) -> None:
        self._connection = connection
        self._loop = loop

    def run(self) -> tuple[Finding, ...]:
        accounts = tuple(Balance(*row).account() for row in self._fetch("read_all_accounts"))
        quarantined = frozenset(row[0] for row in self._fetch("read_quarantine"))
        count = int(self._fetch("read_count_of_holds")[0][0])
        base = self._base()
        if agrees(self._pages(base.seq), self._rows_of, count, accounts, quarantined, base):
            return ()
        # Something is wrong: replay once more with everything in memory, to say what.
        base = self._base()
        entries = (entry for page in self._pages(base.seq) for entry in page)
        return audit(entries, accounts, self._holds(), quarantined, base)

    def _base(self) -> Base:
        return Base(
            self._fetch("read_number", "base_seq")[0][0],
            base_accounts(self._fetch("read_base_accounts")),
            {row[0]: replayed_hold(row[1]) for row in self._fetch("read_base_holds")},
            {row[0] for row in self._fetch("read_base_quarantine")},
        )

    def _pages(self, after: int) -> Iterator[list[Entry]]:
        while page := [entry_row(tuple(row)) for row in self._fetch("read_entries", after, PAGE_ENTRIES)]:
            yield page
            after = page[-1].seq

    def _rows_of(self, calls: list[str]) -> dict[str, HoldRow]:
        return {row[0]: hold_row(row) for row in self._fetch("read_holds_of", calls)}

    def _holds(self) -> Iterator[HoldRow]:
        after = 0
        while page := self._fetch("read_holds_after", after, PAGE_ENTRIES):
            yield from (hold_row(row[1:]) for row in page)
            after = page[-1][0]

    def _fetch(self, query: str, *args: object) -> list[Sequence[Any]]:
        return self._wait(self._connection.fetch(SQL[query], *args))

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
