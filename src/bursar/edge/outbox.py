"""Tells webhooks what happened: beside the calls, at least once, one webhook apart from the other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress

from bursar.clock import SECOND, Clock, Instant
from bursar.edge.webhooks import Answer, Webhook, send
from bursar.ledger.store import DAY, DeliveryState, HappeningRow, LedgerUnavailableError, Store

_LOG = logging.getLogger("bursar.webhooks")

EVERY_SECONDS = 1.0
LAST_SECONDS = 3.0
"""For what is left to tell when the gateway ends: the next one may be started much later."""
ROWS_MAX = 4
"""Happenings that a webhook is sent at the same time."""
LEASE = 60 * SECOND
"""How long the other gateways leave to this one what it has taken; an attempt takes a quarter of it at most."""
WAIT_MIN = 5 * SECOND
WAIT_MAX = 3600 * SECOND
GIVE_UP_AFTER = 3 * DAY
RECENT = 600 * SECOND
"""What is looked through each time; everything that is not too old, once in a while."""
LOOKS = 60
KEEP_DAYS = 30
PRUNE_ROWS = 500
PRUNE_EVERY_SECONDS = 3600.0
TOLD_MAX = 10_000
"""What a process remembers to have written down; the ledger remembers the rest."""


class Tellers:
    """Tells all webhooks, each in a task of its own."""

    def __init__(self, store: Store, webhooks: Iterable[Webhook], clock: Clock) -> None:
        self._tellers = [Teller(store, webhook, clock) for webhook in webhooks]
        self._ending = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self) -> None:
        """Begin to tell."""
        self._tasks = [asyncio.create_task(one.keep_telling(self._ending, EVERY_SECONDS)) for one in self._tellers]

    async def end(self) -> None:
        """Tell what is left, as far as that takes a moment only."""
        self._ending.set()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=LAST_SECONDS)
            for task in late:
                task.cancel()


class Teller:
    """Tells one webhook."""

    def __init__(self, store: Store, webhook: Webhook, clock: Clock) -> None:
        self._store = store
        self._webhook = webhook
        self._clock = clock
        self._since: Instant | None = None
        self._is_failing = False

    async def keep_telling(self, ending: asyncio.Event, every_seconds: float) -> None:
        """Tell what there is to tell, again and again; look for the last time after `ending` is set."""
        looks = 0
        while True:
            is_last = ending.is_set()
            try:
                delivered = await self.tell(RECENT if looks % LOOKS else GIVE_UP_AFTER)
            except LedgerUnavailableError as error:
                _LOG.warning("webhook %s: what to tell cannot be read now: %s", self._webhook.name, error)
                delivered = 0
            if delivered < ROWS_MAX:
                if is_last:
                    return
                looks += 1
                with suppress(TimeoutError):
                    async with asyncio.timeout(every_seconds):
                        await ending.wait()

    async def tell(self, window: int = GIVE_UP_AFTER) -> int:
        """Tell a few of the happenings that are due; give how many were delivered. Raises LedgerUnavailableError."""
        since = await self._begin()
        taken = await self._store.outbox.take(self._webhook.name, self._webhook.kinds, since, window, LEASE, ROWS_MAX)
        told = await asyncio.gather(*(self._tell(row) for row in taken))
        return sum(told)

    async def _begin(self) -> Instant:
        """Give the time at which this webhook was first seen: it is not told what happened before."""
        if self._since is None:
            scope = f"webhook:{self._webhook.name}"
            known = await self._store.declared(scope)
            if not known:
                known = str(self._clock.now())
                await self._store.declare(scope, known)
            self._since = Instant(int(known))
        return self._since

    async def _tell(self, row: HappeningRow) -> bool:
        answer = await send(self._webhook, row, self._clock.now())
        state, wait = self._verdict(row, answer)
        await self._store.outbox.note(self._webhook.name, row, state, answer.said, wait)
        self._log(row, answer, state)
        return answer.is_delivered

    def _verdict(self, row: HappeningRow, answer: Answer) -> tuple[DeliveryState, int]:
        if answer.is_delivered:
            return DeliveryState.DELIVERED, 0
        if answer.is_final or self._clock.now() - row.at > GIVE_UP_AFTER:
            return DeliveryState.GIVEN_UP, 0
        return DeliveryState.WAITING, wait_after(row.attempts)

    def _log(self, row: HappeningRow, answer: Answer, state: DeliveryState) -> None:
        name, place = self._webhook.name, self._webhook.place
        if state is DeliveryState.GIVEN_UP:
            _LOG.error(
                "webhook %s: gave up telling %s of %s %s after %d attempts: %s; `bursar events` still has it",
                *(name, place, row.kind, row.subject, row.attempts, answer.said),
            )
        elif answer.is_delivered and self._is_failing:
            _LOG.warning("webhook %s: %s takes what it is told again", name, place)
        elif not answer.is_delivered and not self._is_failing:
            _LOG.warning("webhook %s: %s: %s; it is told again later", name, place, answer.said)
        self._is_failing = not answer.is_delivered


def wait_after(attempts: int) -> int:
    """Give how long after a failed attempt the next one is made, in microseconds: ever longer, up to an hour."""
    return min(WAIT_MIN << min(attempts - 1, 20), WAIT_MAX)


class News:
    """Writes down what the gateway itself has to tell, beside the calls."""

    def __init__(self, store: Store) -> None:
        self._store = store
        # The event loop keeps weak references only.
        self._tasks: set[asyncio.Task[None]] = set()
        self._told: set[tuple[str, str]] = set()

    def tell(self, kind: str, key: str, subject: str, detail: dict[str, object]) -> None:
        """Have it written down, once for a kind and key; nobody waits for it."""
        if (kind, key) in self._told:
            return  # a refusal that comes a thousand times a second is no thousand writes
        if len(self._told) >= TOLD_MAX:
            self._told.clear()
        self._told.add((kind, key))
        task = asyncio.get_running_loop().create_task(self._tell(kind, key, subject, detail))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell(self, kind: str, key: str, subject: str, detail: dict[str, object]) -> None:
        try:
            await self._store.outbox.tell(kind, key, subject, detail)
        except LedgerUnavailableError as error:
            self._told.discard((kind, key))
            _LOG.warning("%s of %s could not be told: %s", kind, subject, error)

    async def drain(self) -> None:
        """Wait until all of it is written."""
        while self._tasks:
            await asyncio.wait(tuple(self._tasks))


async def keep_pruned(store: Store, every_seconds: float = PRUNE_EVERY_SECONDS) -> None:
    """Forget what happened long ago, told or not; ends only when it is cancelled."""
    while True:
        try:
            while await store.outbox.prune(KEEP_DAYS, PRUNE_ROWS) == PRUNE_ROWS:
                pass
        except LedgerUnavailableError as error:
            _LOG.warning("old happenings cannot be forgotten now: %s", error)
        await asyncio.sleep(every_seconds)
