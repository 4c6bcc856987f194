"""What people want to hear of: told each webhook once, by one gateway at a time, again if it failed, then forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from test_store_contract import ENGINES, NOON, Hands

from bursar.clock import SECOND, Instant
from bursar.ledger.account import Amounts, Ask, Authorize, Basis, Limits, OpenScope, Settle
from bursar.ledger.store import DAY, NEVER, DeliveryState, HappeningRow, Store

HOUR = 3600 * SECOND
LEASE = 60 * SECOND
ASK = Ask(100, 40, 0, 1, 10, 10, 1, False)
Stores = Callable[[], Store]


@pytest.fixture
def clock() -> Hands:
    return Hands()


@pytest_asyncio.fixture(params=sorted(ENGINES))
async def stores(request: pytest.FixtureRequest, tmp_path: Path, clock: Hands) -> AsyncIterator[tuple[Store, Store]]:
    """Two gateways on one ledger."""
    made = [ENGINES[request.param](tmp_path, clock) for _ in range(2)]
    for one in made:
        await one.start()
    yield made[0], made[1]
    for one in made:
        await one.close()


async def happen(store: Store, run: str, usd: int = 60) -> None:
    """Let a run with a limit of 100 spend so much in one call."""
    await store.submit(OpenScope("key:ci", "", Limits()))
    await store.submit(OpenScope(f"run:{run}", "key:ci", Limits(usd=100)))
    path = (f"run:{run}", "key:ci")
    await store.submit(Authorize(f"call-{run}", store.worker, path, ASK, "m1", "openai"))
    await store.submit(
        Settle(f"call-{run}", store.worker, Amounts(usd, 1, 20), Basis.METERED, path, Amounts(100, 1, 50))
    )


async def take(
    store: Store, webhook: str = "ops", kinds: tuple[str, ...] = (), since: Instant = NEVER, rows: int = 10
) -> tuple[HappeningRow, ...]:
    return await store.outbox.take(webhook, kinds, since, DAY, LEASE, rows)


async def test_what_happened_is_taken_by_one_gateway_at_a_time(stores: tuple[Store, Store]) -> None:
    for number in range(4):
        await happen(stores[0], f"r{number}")
    taken = await asyncio.gather(*(take(stores[number % 2], rows=4) for number in range(8)))
    subjects = [row.subject for rows in taken for row in rows]
    assert sorted(subjects) == [f"run:r{number}/usd/lifetime" for number in range(4)]
    first = next(row for rows in taken for row in rows)
    assert (first.kind, first.at, first.detail["percent"], first.attempts) == ("threshold", NOON, 50, 1)


async def test_it_is_due_again_when_the_lease_ends_and_not_once_it_was_delivered(
    stores: tuple[Store, Store], clock: Hands
) -> None:
    await happen(stores[0], "r1")
    (first,) = await take(stores[0])
    clock.instant = Instant(NOON + LEASE - 1)
    assert await take(stores[1]) == ()
    clock.instant = Instant(NOON + LEASE)
    (second,) = await take(stores[1])
    assert (second.id, second.attempts) == (first.id, 2)
    # The first was only slow: what it says now is no news where it failed, and settles it where it did not.
    await stores[0].outbox.note("ops", first, DeliveryState.WAITING, "late")
    assert await take(stores[0]) == ()
    await stores[0].outbox.note("ops", first, DeliveryState.DELIVERED, "200")
    await stores[1].outbox.note("ops", second, DeliveryState.WAITING, "500")
    clock.instant = Instant(NOON + HOUR)
    assert await take(stores[0]) == await take(stores[1]) == ()


async def test_what_failed_is_due_again_after_its_wait_and_what_was_given_up_is_not(
    stores: tuple[Store, Store], clock: Hands
) -> None:
    await happen(stores[0], "r1")
    (taken,) = await take(stores[0])
    await stores[0].outbox.note("ops", taken, DeliveryState.WAITING, "500", 10 * SECOND)
    clock.instant = Instant(NOON + 10 * SECOND - 1)
    assert await take(stores[0]) == ()
    clock.instant = Instant(NOON + 10 * SECOND)
    (taken,) = await take(stores[0])
    await stores[0].outbox.note("ops", taken, DeliveryState.GIVEN_UP, "500")
    clock.instant = Instant(NOON + HOUR)
    assert await take(stores[0]) == ()
    ((row,),) = [row.deliveries for row in await stores[1].outbox.newest()]
    assert (row.webhook, row.state, row.attempts, row.said) == ("ops", DeliveryState.GIVEN_UP, 2, "500")


async def test_each_webhook_is_told_for_itself_what_it_asked_for_since_it_is_there(
    stores: tuple[Store, Store], clock: Hands
) -> None:
    store = stores[0]
    await happen(store, "r1")
    clock.instant = Instant(NOON + HOUR)
    await happen(store, "r2", usd=150)
    assert len(await take(store, "all")) == 4
    assert [row.kind for row in await take(store, "some", ("overrun", "quarantine"))] == ["overrun", "quarantine"]
    assert await take(store, "none", ("canary",)) == ()
    subjects = [row.subject for row in await take(store, "late", ("threshold",), since=Instant(NOON + 1))]
    assert subjects == ["run:r2/usd/lifetime"]
    assert [
        row.subject for row in await store.outbox.take("short", ("threshold",), NEVER, HOUR - 1, LEASE, 9)
    ] == subjects
    assert len(await store.outbox.take("long", ("threshold",), NEVER, HOUR, LEASE, 9)) == 2
    assert len(await take(store, "early", ("threshold",), since=NOON)) == 2
    assert len(await take(store, "few", rows=3)) == 3
    assert len(await take(store, "few", rows=3)) == 1


async def test_what_no_transaction_tells_is_told_once_for_a_key(stores: tuple[Store, Store]) -> None:
    facts: dict[str, object] = {"run": "r1", "count": 3}
    for store in (*stores, stores[0]):
        await store.outbox.tell("loop", "r1", "run:r1", facts)
    await stores[0].outbox.tell("asking", "r1", "run:r1", {})
    rows = await stores[1].outbox.newest()
    assert [(row.kind, row.key, row.at, row.subject, row.detail) for row in rows] == [
        ("asking", "r1", NOON, "run:r1", {}),
        ("loop", "r1", NOON, "run:r1", facts),
    ]


async def test_people_read_the_newest_first_in_pages(stores: tuple[Store, Store], clock: Hands) -> None:
    outbox = stores[0].outbox
    for number in range(5):
        clock.instant = Instant(NOON + number)
        await happen(stores[0], f"r{number}")
    first = await outbox.newest(rows_max=3)
    rest = await outbox.newest(before=first[-1].id, rows_max=3)
    names = [row.subject.split("/")[0] for row in (*first, *rest)]
    assert names == ["run:r4", "run:r3", "run:r2", "run:r1", "run:r0"]
    assert len(await outbox.newest(since=Instant(NOON + 3))) == 2
    assert await outbox.newest(kinds=("overrun",)) == ()
    assert len(await outbox.newest(kinds=("overrun", "threshold"))) == 5


async def test_old_ones_are_forgotten_a_few_at_a_time_whoever_was_told(
    stores: tuple[Store, Store], clock: Hands
) -> None:
    for number in range(3):
        await happen(stores[0], f"r{number}")
    (taken, *_) = await take(stores[0], rows=1)
    await stores[0].outbox.note("ops", taken, DeliveryState.DELIVERED, "200")
    clock.instant = Instant(NOON + 30 * DAY)
    await happen(stores[0], "r9")
    assert await stores[0].outbox.prune(30, 2) == 0
    clock.instant = Instant(NOON + 30 * DAY + 1)
    assert [await stores[1].outbox.prune(30, 2) for _ in range(3)] == [2, 1, 0]
    assert [row.subject for row in await stores[0].outbox.newest()] == ["run:r9/usd/lifetime"]
    # One that was leased before it was forgotten is nobody's trouble.
    await stores[0].outbox.note("ops", taken, DeliveryState.DELIVERED, "200")
