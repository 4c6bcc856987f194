"""Folds what is old, a little at a time, so that no call waits for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from bursar.ledger.store import Archive, Compacted, LedgerUnavailableError, Store
from bursar.money import BrokenInvariantError

_LOG = logging.getLogger("bursar.ledger")

STEP_ENTRIES = 200
"""Entries of one transaction: calls that come meanwhile wait for its end."""
EVERY_SECONDS = 3600.0
REST = 9
"""How many times as long as a step took the ledger is left to the calls before the next."""


async def compact_all(
    store: Store,
    keep_days: int,
    archive: Archive | None = None,
    tell: Callable[[Compacted], None] | None = None,
    rest: int = 0,
) -> Compacted:
    """Fold step by step until nothing more is old enough; give the sum. Raises LedgerUnavailableError."""
    done = Compacted(is_done=False)
    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        step = await store.compact(keep_days, STEP_ENTRIES, archive)
        took = loop.time() - began
        done = Compacted(
            done.entries + step.entries,
            done.holds + step.holds,
            done.accounts + step.accounts,
            step.seq or done.seq,
            step.is_done,
            step.is_busy,
            step.findings,
        )
        if tell is not None:
            tell(done)
        if step.is_done or step.findings:
            return done
        await asyncio.sleep(took * rest)


async def keep_compact(store: Store, keep_days: int, every_seconds: float = EVERY_SECONDS) -> None:
    """Fold at once and then from time to time, for ever; ends only when it is cancelled.

    Of many workers one does it: the others find nothing more to do.
    """
    while True:
        try:
            done = await compact_all(store, keep_days, rest=REST)
        except (LedgerUnavailableError, BrokenInvariantError) as error:
            _LOG.warning("old entries could not be folded: %s", error)
        else:
            if done.findings:
                _LOG.error("old entries do not agree with the books and stay; see `bursar ledger verify`")
        await asyncio.sleep(every_seconds)
