"""What every store tells of the past: what was spent, day by day, and which models are in quarantine and why."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from test_store_contract import ENGINES, NOON, Hands

from bursar.clock import SECOND, Instant
from bursar.ledger.account import (
    Adjust,
    Amounts,
    Ask,
    Authorize,
    Basis,
    ClearModel,
    Granted,
    Limits,
    OpenScope,
    Settle,
    Void,
)
from bursar.ledger.store import QuarantineRow, SpentRow, Store

DAY_SECONDS = 86_400
NOON_DAY = NOON // SECOND // DAY_SECONDS
MIDNIGHT = (NOON_DAY + 1) * DAY_SECONDS
ASK = Ask(100, 40, 0, 1, 10, 10, 1, False)
HELD = Amounts(100, 1, 50)


@pytest.fixture
def clock() -> Hands:
    return Hands()


@pytest_asyncio.fixture(params=sorted(ENGINES))
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: Hands) -> AsyncIterator[Store]:
    make: Callable[[Path, Hands], Store] = ENGINES[request.param]
    made = make(tmp_path, clock)
    await made.start()
    await made.submit(OpenScope("key:ci", "", Limits()))
    yield made
    await made.close()


async def hold(store: Store, call: str, model: str = "m1", upstream: str = "openai") -> None:
    answer = await store.submit(Authorize(call, store.worker, ("key:ci",), ASK, model, upstream))
    assert isinstance(answer, Granted), answer


async def settle(store: Store, call: str, usd: int | None, tokens: int = 20) -> None:
    actual = None if usd is None else Amounts(usd, 1, tokens)
    basis = Basis.PRESUMED if usd is None else Basis.METERED
    await store.submit(Settle(call, store.worker, actual, basis, ("key:ci",), HELD))


async def test_a_day_is_the_utc_day_on_which_a_call_was_authorized(store: Store, clock: Hands) -> None:
    clock.instant = Instant(MIDNIGHT * SECOND - 1)
    await hold(store, "c1")
    clock.instant = Instant(MIDNIGHT * SECOND)
    await hold(store, "c2")
    await settle(store, "c1", 7)
    await settle(store, "c2", 9)
    assert await store.spent_by_day(NOON_DAY, NOON_DAY + 1) == (
        SpentRow(NOON_DAY, "openai", "m1", 1, 7, 0, 20),
        SpentRow(NOON_DAY + 1, "openai", "m1", 1, 9, 0, 20),
    )
    assert [row.usd for row in await store.spent_by_day(NOON_DAY, NOON_DAY)] == [7]
    assert [row.usd for row in await store.spent_by_day(NOON_DAY + 1, NOON_DAY + 9)] == [9]
    assert await store.spent_by_day(NOON_DAY + 2, NOON_DAY + 9) == ()


async def test_a_correction_stays_on_the_day_of_its_call(store: Store, clock: Hands) -> None:
    await hold(store, "c1")
    await settle(store, "c1", 7)
    clock.instant = Instant(NOON + 5 * DAY_SECONDS * SECOND)
    await store.submit(Adjust("c1", Amounts(30, 1, 20), "invoice"))
    assert await store.spent_by_day(0, NOON_DAY + 9) == (SpentRow(NOON_DAY, "openai", "m1", 1, 30, 0, 20),)


async def test_what_is_in_flight_or_void_is_not_spent_and_what_is_presumed_is_told_apart(store: Store) -> None:
    for call in ("open", "void", "lost", "met"):
        await hold(store, call)
    await hold(store, "other", model="m2", upstream="work")
    await store.submit(Void("void", store.worker, "never sent"))
    await settle(store, "lost", None)
    await settle(store, "met", 7)
    await settle(store, "other", 1, tokens=3)
    assert await store.spent_by_day(NOON_DAY, NOON_DAY) == (
        SpentRow(NOON_DAY, "openai", "m1", 2, 107, 100, 70),
        SpentRow(NOON_DAY, "work", "m2", 1, 1, 0, 3),
    )


async def test_an_overrun_is_spent_whole_and_says_what_it_had_and_what_it_cost(store: Store) -> None:
    await hold(store, "c1")
    assert await store.quarantined() == ()
    await settle(store, "c1", 130, tokens=60)
    assert [(row.usd, row.tokens) for row in await store.spent_by_day(NOON_DAY, NOON_DAY)] == [(130, 60)]
    assert await store.quarantined() == (QuarantineRow("m1", NOON, "c1", HELD, Amounts(130, 1, 60)),)
    await store.submit(ClearModel("m1"))
    assert await store.quarantined() == ()


async def test_what_is_presumed_above_a_hold_is_presumed_whole(store: Store) -> None:
    await hold(store, "c1")
    await store.submit(Settle("c1", store.worker, Amounts(130, 1, 20), Basis.PRESUMED, ("key:ci",), HELD))
    assert await store.spent_by_day(NOON_DAY, NOON_DAY) == (SpentRow(NOON_DAY, "openai", "m1", 1, 130, 130, 20),)


async def test_a_model_that_was_cleared_and_is_in_quarantine_again_names_the_later_call(
    store: Store, clock: Hands
) -> None:
    await hold(store, "c1")
    await settle(store, "c1", 130)
    await store.submit(ClearModel("m1"))
    clock.instant = Instant(NOON + SECOND)
    await hold(store, "c2")
    await hold(store, "c3", model="a1")
    await settle(store, "c2", 140)
    await settle(store, "c3", 150)
    rows = await store.quarantined()
    assert [(row.model, row.call_id, row.cost.usd, row.since) for row in rows] == [
        ("a1", "c3", 150, NOON + SECOND),
        ("m1", "c2", 140, NOON + SECOND),
    ]
