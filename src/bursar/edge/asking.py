"""Calls at a spent cap that wait for a person to raise it: opt-in, bounded in time and number, and nothing is held."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from bursar.clock import Clock
from bursar.edge.outbox import News
from bursar.ledger.account import Account, Denied, Reason
from bursar.ledger.books import OWN_RUN_PREFIX
from bursar.ledger.store import LedgerUnavailableError, Store

LOOK_SECONDS = 1.0
"""How often it is looked whether somebody has raised a cap, however many calls wait for it."""
WAITERS_MAX = 1000


@dataclass(slots=True)
class _Look:
    """One look at the accounts of a scope, for all who wait there."""

    at_seconds: float
    task: asyncio.Task[tuple[Account, ...]]


class Asking:
    """The calls of one process that wait for people."""

    def __init__(self, store: Store, news: News, clock: Clock, seconds_max: float) -> None:
        self._store = store
        self._news = news
        self._clock = clock
        self._seconds_max = seconds_max
        self._looks: dict[str, _Look] = {}
        self.count = 0
        """How many wait now."""

    def begin(self) -> float:
        """Give the time of the event loop at which a call that asks for the first time now is refused."""
        return asyncio.get_running_loop().time() + self._seconds_max

    async def is_raised(self, denied: Denied, deadline: float) -> bool:
        """Wait until the account that said no may say something else, and say so; False where it is refused."""
        if not self._seconds_max or denied.reason is not Reason.EXHAUSTED or self.count >= WAITERS_MAX:
            return False
        if denied.scope.startswith(OWN_RUN_PREFIX):
            return False
        self._tell(denied)
        self.count += 1
        try:
            async with asyncio.timeout_at(deadline):
                while True:
                    # Also before the first look: who is told no again and again does not ask more often than this.
                    await asyncio.sleep(LOOK_SECONDS)
                    if await self._has_changed(denied):
                        return True
        except TimeoutError:
            return False
        finally:
            self.count -= 1
            if not self.count:
                self._looks.clear()

    def _tell(self, denied: Denied) -> None:
        figures = {"limit": denied.limit, "spent": denied.captured, "held": denied.held, "asked": denied.asked}
        detail: dict[str, object] = {"unit": str(denied.unit), **figures, "seconds": int(self._seconds_max)}
        # As `exhausted`: once for each limit that it is given.
        self._news.tell("asking", f"{denied.account} of {denied.limit}", denied.account, detail)

    async def _has_changed(self, denied: Denied) -> bool:
        if denied.resets_at is not None and self._clock.now() >= denied.resets_at:
            return True
        try:
            accounts = await self._look(denied.scope)
        except LedgerUnavailableError:
            return False
        mine = [account for account in accounts if account.id == denied.account]
        # One that is stopped, or gone, says something else, too.
        return not any(one.limit == denied.limit and one.state == "open" for one in mine)

    async def _look(self, scope: str) -> tuple[Account, ...]:
        loop = asyncio.get_running_loop()
        look = self._looks.get(scope)
        if look is None or look.at_seconds + LOOK_SECONDS / 2 < loop.time():
            look = self._looks[scope] = _Look(loop.time(), loop.create_task(self._accounts(scope)))
        # Who leaves must not take the look from the others.
        return await asyncio.shield(look.task)

    async def _accounts(self, scope: str) -> tuple[Account, ...]:
        return await self._store.accounts(scope)
