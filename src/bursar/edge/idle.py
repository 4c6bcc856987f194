"""Runs that nobody uses any more are stopped, so that a name or a key that got about opens nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from bursar.ledger.account import AccountState, SetState
from bursar.ledger.store import IDLE_ROWS, LedgerUnavailableError, Store

_LOG = logging.getLogger("bursar")

HOUR_SECONDS = 3600
BY = "idle"
"""Who stops an idle run, in the entry of it."""


@dataclass(frozen=True, slots=True)
class IdleHours:
    """How long a run may do nothing; None for ever."""

    default: int | None
    by_owner: Mapping[str, int | None]
    """Of the runs of some keys, by the scope of the key."""

    @property
    def shortest(self) -> int | None:
        """Give the fewest hours of all; None where no run ends so."""
        return min((hours for hours in (self.default, *self.by_owner.values()) if hours is not None), default=None)

    def of(self, owner: str) -> int | None:
        """Give the hours of the runs of a key."""
        return self.by_owner.get(owner, self.default)


async def keep_stopping(store: Store, hours: IdleHours, every_seconds: float) -> None:
    """Stop idle runs now and then, for ever."""
    while True:
        try:
            await stop_idle(store, hours)
        except LedgerUnavailableError as error:
            _LOG.warning("idle runs are not stopped now: %s", error)
        await asyncio.sleep(every_seconds)


async def stop_idle(store: Store, hours: IdleHours) -> int:
    """Stop every run that did nothing for too long; give how many. Raises LedgerUnavailableError."""
    shortest, after, count = hours.shortest, "", 0
    while shortest is not None:
        rows = await store.idle_runs(shortest * HOUR_SECONDS, after)
        for row in rows:
            allowed = hours.of(row.owner)
            if allowed is not None and row.seconds >= allowed * HOUR_SECONDS:
                await store.submit(SetState(row.scope, AccountState.STOPPED, BY))
                count += 1
        if len(rows) < IDLE_ROWS:
            break
        after = rows[-1].scope
    return count
