"""Captures the holds of dead workers whole, at start and from then on."""

from __future__ import annotations

import asyncio
import logging

from bursar.ledger.account import Changed, Expire
from bursar.ledger.store import LedgerUnavailableError, Store
from bursar.money import BrokenInvariantError

_LOG = logging.getLogger("bursar.ledger")


async def reap_once(store: Store) -> int:
    """Expire the open holds of every worker that is dead now; give how many there were."""
    count = 0
    for worker in await store.dead_workers():
        # The store looks again, inside its transaction, whether the worker is dead.
        answer = await store.submit(Expire(worker))
        if isinstance(answer, Changed):
            count += answer.count
    return count


async def reap(store: Store, every_seconds: float) -> None:
    """Reap at once and then for ever; ends only when it is cancelled. A ledger that cannot write is tried again."""
    while True:
        try:
            count = await reap_once(store)
        except (LedgerUnavailableError, BrokenInvariantError) as error:
            _LOG.warning("the holds of dead workers could not be captured: %s", error)
        else:
            if count:
                _LOG.warning("%d holds of dead workers were captured whole", count)
        await asyncio.sleep(every_seconds)
