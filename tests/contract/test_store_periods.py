"""What every store must do with periods, turns and identities: a batch finds the rows that another one left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from test_store_contract import ASK, ENGINES, HELD, KEY, PATH, RUN, Hands

from bursar.clock import SECOND, Instant
from bursar.ledger.account import (
    AccountState,
    Amounts,
    Authorize,
    Basis,
    Budget,
    Changed,
    Conflict,
    Denied,
    Expire,
    Granted,
    Limits,
    OpenScope,
    Reason,
    SetLimit,
    SetState,
    Settle,
    Settled,
    Unit,
    Void,
)
from bursar.ledger.store import Store

HOUR = 3_600 * SECOND
COST = HELD.usd


@pytest.fixture
def clock() -> Hands:
    return Hands()


@pytest.fixture(params=sorted(ENGINES))
def make(request: pytest.FixtureRequest, tmp_path: Path, clock: Hands) -> Callable[[], Store]:
    return lambda: ENGINES[request.param](tmp_path, clock)


@pytest_asyncio.fixture
async def store(make: Callable[[], Store]) -> AsyncIterator[Store]:
    store = make()
    await store.start()
    yield store
    await store.close()
    again = make()
    await again.start()
    assert await again.audit() == ()
    await again.close()


async def opened(store: Store, *periods: str, limit: int = 2 * COST) -> None:
    budgets = tuple(Budget(Unit.USD, limit, period) for period in periods)
    await store.submit(OpenScope(KEY, "", Limits(), budgets=budgets))
    await store.submit(OpenScope(RUN, KEY, Limits()))


async def ask(store: Store, call_id: str, *, in_line: bool = False) -> Granted | Denied:
    op = Authorize(call_id, store.worker, PATH, ASK, "m1", "up", is_last_try=not in_line, is_in_line=in_line)
    answer = await store.submit(op)
    assert isinstance(answer, Granted | Denied), answer
    return answer


async def settle(store: Store, call_id: str, usd: int) -> Settled:
    answer = await store.submit(Settle(call_id, store.worker, Amounts(usd, 1, 10), Basis.METERED, PATH, HELD))
    assert isinstance(answer, Settled), answer
    return answer


def pass_by(clock: Hands, hours: float) -> None:
    clock.instant = Instant(clock.instant + int(hours * HOUR))


async def test_a_new_period_begins_in_the_transaction_and_old_holds_settle_in_the_old_one(
    store: Store, clock: Hands
) -> None:
    await opened(store, "hour", "day@Europe:Berlin", limit=3 * COST)
    assert isinstance(await ask(store, "c1"), Granted)
    pass_by(clock, 1)
    assert isinstance(await ask(store, "c2"), Granted)
    await settle(store, "c1", COST // 2)
    now = {account.period.partition(" ")[0]: account for account in await store.accounts(KEY) if account.unit == "usd"}
    assert (now["hour"].held, now["hour"].captured) == (COST, 0)
    assert (now["day@Europe:Berlin"].held, now["day@Europe:Berlin"].captured) == (COST, COST // 2)
    assert now["hour"].starts_at == clock.instant
    hold = await store.hold("c1")
    assert hold is not None
    assert hold.captured.usd == COST // 2
    assert [name for name in hold.accounts if "/hour " in name] != [now["hour"].id]


async def test_only_the_slots_that_count_are_looked_at(store: Store, clock: Hands) -> None:
    await opened(store, "hour", limit=COST)
    for number in range(5):
        assert isinstance(await ask(store, f"c{number}"), Granted)
        assert isinstance(await ask(store, f"d{number}"), Denied)
        pass_by(clock, 1)
    assert len(await store.accounts(KEY)) == 3


async def test_the_accounts_of_a_scope_keep_their_places_when_a_period_turns(
    make: Callable[[], Store], clock: Hands
) -> None:
    """A slot is a younger row than its neighbours; what loads the rows and what has turned them must agree."""
    budgets = (Budget(Unit.USD, COST, "hour"), Budget(Unit.CALLS, 9, "day@Europe:Berlin"))
    store = make()
    await store.start()
    await store.submit(OpenScope(KEY, "", Limits(), budgets=budgets))
    await store.submit(SetLimit(KEY, Unit.CALLS, 9, "month"))
    pass_by(clock, 1)
    turned = await store.submit(SetState(KEY, AccountState.STOPPED))
    await store.close()
    store = make()
    await store.start()
    loaded = await store.submit(SetState(KEY, AccountState.STOPPED))
    await store.close()
    assert isinstance(turned, Changed)
    assert isinstance(loaded, Changed)
    places = [(account.unit, account.period.partition(" ")[0]) for account in turned.accounts]
    assert places == [(account.unit, account.period.partition(" ")[0]) for account in loaded.accounts]
    lifetime = [(unit, "lifetime") for unit in (Unit.USD, Unit.CALLS)]
    assert places == [*lifetime, (Unit.USD, "hour"), (Unit.CALLS, "day@Europe:Berlin"), (Unit.CALLS, "month")]


async def test_a_window_is_put_together_again_from_its_rows(store: Store, clock: Hands) -> None:
    await opened(store, "rolling-12h", limit=3 * COST)
    for number in range(3):
        assert isinstance(await ask(store, f"c{number}"), Granted)
        pass_by(clock, 1)
    denied = await ask(store, "c3")
    assert isinstance(denied, Denied)
    assert (denied.reason, denied.held, denied.captured) == (Reason.HELD, 3 * COST, 0)
    await settle(store, "c1", 0)
    assert isinstance(await ask(store, "c4"), Granted)
    await settle(store, "c0", COST)
    await settle(store, "c2", COST)
    await settle(store, "c4", COST)
    denied = await ask(store, "c5")
    assert isinstance(denied, Denied)
    assert (denied.reason, denied.held, denied.captured) == (Reason.EXHAUSTED, 0, 3 * COST)
    # The first slot leaves, and only then; then the next but one, which is worth as much.
    pass_by(clock, 9.99)
    assert isinstance(await ask(store, "c6"), Denied)
    pass_by(clock, 0.01)
    assert isinstance(await ask(store, "c7"), Granted)
    assert isinstance(await ask(store, "c8"), Denied)
    pass_by(clock, 2)
    assert isinstance(await ask(store, "c9"), Granted)
    pass_by(clock, 100)
    assert isinstance(await ask(store, "c10"), Granted)
    assert len(await store.accounts(KEY)) == 3


async def test_a_clock_that_goes_back_opens_nothing(store: Store, clock: Hands) -> None:
    await opened(store, "hour", limit=COST)
    pass_by(clock, 1)
    assert isinstance(await ask(store, "c1"), Granted)
    pass_by(clock, -5)
    assert isinstance(await ask(store, "c2"), Denied)


async def test_a_limit_of_a_period_is_set_at_run_time(store: Store, clock: Hands) -> None:
    await opened(store, "day")
    assert isinstance(await store.submit(SetLimit(KEY, Unit.CALLS, 1, "rolling-1h")), Changed)
    assert isinstance(await ask(store, "c1"), Granted)
    denied = await ask(store, "c2")
    assert isinstance(denied, Denied)
    assert denied.unit is Unit.CALLS
    assert isinstance(await store.submit(SetLimit(KEY, Unit.USD, COST, "day")), Changed)
    assert isinstance(await store.submit(SetLimit(KEY, Unit.CALLS, 5, "rolling-1h")), Changed)
    denied = await ask(store, "c3")
    assert isinstance(denied, Denied)
    assert (denied.unit, denied.limit) == (Unit.USD, COST)
    pass_by(clock, 24)
    assert isinstance(await ask(store, "c4"), Granted)
    assert isinstance(await ask(store, "c5"), Denied)


async def test_a_claim_is_seen_by_every_process_until_it_is_old(make: Callable[[], Store], clock: Hands) -> None:
    one, other = make(), make()
    await one.start()
    await other.start()
    await opened(one, "day")
    for name in ("c1", "c2"):
        assert isinstance(await ask(one, name), Granted)
    assert isinstance(await ask(one, "old", in_line=True), Denied)
    await settle(one, "c1", 0)
    op = Authorize("young", other.worker, PATH, ASK, "m1", "up")
    young = await other.submit(op)
    assert isinstance(young, Denied)
    assert young.reason is Reason.HELD
    assert isinstance(await ask(one, "old", in_line=True), Granted)
    await settle(one, "c2", 0)
    # Granted, the claim is gone: the next one takes its turn.
    assert isinstance(await other.submit(op), Granted)
    assert isinstance(await ask(other, "waits", in_line=True), Denied)
    await settle(one, "old", 0)
    clock.instant = Instant(clock.instant + 2 * SECOND)
    assert isinstance(await one.submit(Authorize("later", one.worker, PATH, ASK, "m1", "up")), Granted)
    clock.instant = Instant(clock.instant + 100 * SECOND)
    assert isinstance(await ask(one, "much later", in_line=True), Denied)
    assert await one.audit() == ()
    await one.close()
    await other.close()


async def test_who_is_refused_for_good_keeps_no_other_process_waiting(make: Callable[[], Store], clock: Hands) -> None:
    one, other = make(), make()
    await one.start()
    await other.start()
    await opened(one, "day")
    for name in ("c1", "c2"):
        assert isinstance(await ask(one, name), Granted)
    assert isinstance(await ask(one, "old", in_line=True), Denied)
    assert isinstance(await ask(one, "old"), Denied)
    await settle(one, "c1", 0)
    assert isinstance(await other.submit(Authorize("young", other.worker, PATH, ASK, "m1", "up")), Granted)
    await one.close()
    await other.close()


async def test_a_claim_that_is_renewed_keeps_its_place(store: Store, clock: Hands) -> None:
    await opened(store, "day")
    for name in ("c1", "c2"):
        assert isinstance(await ask(store, name), Granted)
    for _ in range(3):
        assert isinstance(await ask(store, "old", in_line=True), Denied)
        clock.instant = Instant(clock.instant + SECOND)
    await settle(store, "c1", 0)
    young = Authorize("young", store.worker, PATH, ASK, "m1", "up")
    assert isinstance(await store.submit(young), Denied)
    assert isinstance(await ask(store, "old", in_line=True), Granted)


async def test_a_process_that_was_declared_dead_goes_on_as_somebody_new(make: Callable[[], Store]) -> None:
    one, reaper = make(), make()
    await one.start()
    await reaper.start()
    await opened(one, "day")
    assert isinstance(await ask(one, "c1"), Granted)
    old = one.worker
    await one.close()
    assert isinstance(await reaper.submit(Expire(old)), Changed)
    again = make()
    await again.start()
    for operation in (
        Authorize("c2", old, PATH, ASK, "m1", "up"),
        Settle("c1", old, Amounts(5, 1, 5), Basis.METERED, PATH, HELD),
        Void("c1", old, "never sent"),
    ):
        answer = await again.submit(operation)
        assert isinstance(answer, Conflict)
        assert answer.fenced
    before = again.worker
    await again.renew("somebody else")
    assert again.worker == before
    await again.renew(before)
    assert again.worker not in ("", before)
    assert isinstance(await ask(again, "c3"), Granted)
    # Its old identity has no lock any more, the new one has.
    assert isinstance(await reaper.submit(Expire(before)), Changed)
    lives = await reaper.submit(Expire(again.worker))
    assert isinstance(lives, Conflict)
    await settle(again, "c1", 5)
    assert await again.audit() == ()
    await again.close()
    await reaper.close()


async def test_periods_turn_once_however_many_processes_ask_at_that_moment(
    make: Callable[[], Store], clock: Hands
) -> None:
    stores = [make() for _ in range(3)]
    for store in stores:
        await store.start()
    await opened(stores[0], "hour", "rolling-12h", limit=100 * COST)
    for turn in range(3):
        answers = await asyncio.gather(
            *(ask(store, f"c{turn}-{place}-{number}") for place, store in enumerate(stores) for number in range(4))
        )
        assert all(isinstance(answer, Granted) for answer in answers)
        pass_by(clock, 1)
    hours = [account for account in await stores[0].accounts(KEY) if account.period.startswith("hour")]
    assert [account.held for account in hours] == [12 * COST]
    assert await stores[0].audit() == ()
    for store in stores:
        await store.close()


async def test_what_the_settings_say_is_remembered_for_each_scope_alone(store: Store) -> None:
    assert await store.declared("key:a") == ""
    await store.declare("key:a", "one")
    await store.declare("key:b", "two")
    assert (await store.declared("key:a"), await store.declared("key:b")) == ("one", "two")
    await store.declare("key:a", "three")
    assert (await store.declared("key:a"), await store.declared("key:b")) == ("three", "two")
    assert await store.declared("key:c") == ""
