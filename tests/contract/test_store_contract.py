"""What every store must do. A new engine joins by one more entry in `ENGINES`."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from databases import database_of

from bursar.clock import SECOND, Instant
from bursar.ledger.account import (
    AccountState,
    Adjust,
    Amounts,
    Ask,
    Authorize,
    Basis,
    Changed,
    ClearModel,
    Conflict,
    Denied,
    Expire,
    Granted,
    HoldState,
    Limits,
    Opened,
    OpenScope,
    Reason,
    SetLimit,
    SetState,
    Settle,
    Settled,
    Taken,
    TooManyRuns,
    Unit,
    Void,
)
from bursar.ledger.audit import audit
from bursar.ledger.reaper import reap_once
from bursar.ledger.store import LedgerUnavailableError, Store
from bursar.money import BrokenInvariantError
from bursar.stores.postgres import PostgresStore
from bursar.stores.sqlite import SqliteStore

KEY, RUN = "key:ci", "run:r1"
PATH = (KEY, RUN)
NOON = Instant(1_795_435_200 * SECOND)
ASK = Ask(1000, 100, 2000, 1, 1000, 500, 100, False)
HELD = Amounts(3000, 1, 1100)


class Hands:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.instant = NOON

    def now(self) -> Instant:
        return self.instant


Engine = Callable[[Path, Hands], Store]
ENGINES: dict[str, Engine] = {
    "postgres": lambda folder, clock: PostgresStore(database_of(folder), clock, marker=folder / "ledger.json"),
    "sqlite": lambda folder, clock: SqliteStore(folder / "ledger.db", clock),
}


@pytest.fixture
def clock() -> Hands:
    return Hands()


@pytest.fixture(params=sorted(ENGINES))
def make(request: pytest.FixtureRequest, tmp_path: Path, clock: Hands) -> Callable[[], Store]:
    """Give a maker of stores that share one ledger, as the worker processes of a machine do."""
    return lambda: ENGINES[request.param](tmp_path, clock)


@pytest_asyncio.fixture
async def store(make: Callable[[], Store]) -> AsyncIterator[Store]:
    made = make()
    await made.start()
    await made.submit(OpenScope(KEY, "", Limits()))
    await made.submit(OpenScope(RUN, KEY, Limits(usd=10_000, calls=10), label="a run"))
    yield made
    try:
        assert await made.audit() == ()
    finally:
        await made.close()


def authorize(store: Store, call_id: str, **changes: Any) -> Authorize:
    facts: dict[str, Any] = {"worker": store.worker, "scopes": PATH, "ask": ASK, "model": "m1", "upstream": "u"}
    return Authorize(call_id=call_id, **(facts | changes))


def settle(store: Store, call_id: str, usd: int | None, **changes: Any) -> Settle:
    actual = None if usd is None else Amounts(usd, 1, 10)
    facts: dict[str, Any] = {"worker": store.worker, "basis": Basis.METERED, "scopes": PATH, "held": HELD}
    return Settle(call_id=call_id, actual=actual, **(facts | changes))


async def of(store: Store, scope: str, unit: Unit) -> tuple[int, int, int]:
    found = [account for account in await store.accounts(scope) if account.unit is unit]
    assert len(found) == 1
    return found[0].held, found[0].captured, found[0].overrun


async def test_a_hold_is_on_every_account_and_a_settlement_takes_it_off(store: Store) -> None:
    granted = await store.submit(authorize(store, "c1"))
    assert isinstance(granted, Granted)
    assert granted.held == HELD
    assert await of(store, KEY, Unit.USD) == await of(store, RUN, Unit.USD) == (3000, 0, 0)
    row = await store.hold("c1")
    assert row is not None
    assert (row.state, row.held, row.opened_at, row.settled_at) == (HoldState.OPEN, HELD, NOON, None)
    assert isinstance(await store.submit(settle(store, "c1", 20, why="answered", usage='{"input":3}')), Settled)
    assert await of(store, RUN, Unit.USD) == (0, 20, 0)
    assert await of(store, RUN, Unit.CALLS) == (0, 1, 0)
    row = await store.hold("c1")
    assert row is not None
    assert (row.state, row.captured, row.basis, row.why) == (
        HoldState.CAPTURED,
        Amounts(20, 1, 10),
        "metered",
        "answered",
    )
    assert await store.hold("nobody") is None


async def test_a_repetition_changes_nothing(store: Store) -> None:
    first = await store.submit(authorize(store, "c1"))
    assert await store.submit(authorize(store, "c1")) == first
    assert isinstance(await store.submit(authorize(store, "c1", model="m2")), Conflict)
    await store.submit(settle(store, "c1", None))
    again = await store.submit(settle(store, "c1", None))
    assert isinstance(again, Settled)
    assert again.repeated
    assert isinstance(await store.submit(settle(store, "c1", 5)), Conflict)
    assert await of(store, RUN, Unit.USD) == (0, 3000, 0)


async def test_operations_of_one_call_sent_at_once_are_done_in_their_order(store: Store) -> None:
    answers = await asyncio.gather(
        store.submit(authorize(store, "c1")),
        store.submit(authorize(store, "c1")),
        store.submit(settle(store, "c1", 7)),
        store.submit(settle(store, "c1", 7)),
        store.submit(Void("c1", store.worker, "late")),
    )
    assert [type(answer) for answer in answers] == [Granted, Granted, Settled, Settled, Conflict]
    assert await of(store, RUN, Unit.USD) == (0, 7, 0)


async def test_museum_5_sixty_four_loops_under_a_cap_of_calls(store: Store) -> None:
    await store.submit(SetLimit(RUN, Unit.USD, None))
    await store.submit(SetLimit(RUN, Unit.CALLS, 20))
    served: list[str] = []

    async def agent(name: int) -> None:
        for number in range(10):
            call_id = f"{name}-{number}"
            answer = await store.submit(authorize(store, call_id))
            if isinstance(answer, Denied):
                assert answer.unit is Unit.CALLS
                continue
            served.append(call_id)
            await store.submit(settle(store, call_id, 5))

    await asyncio.gather(*(agent(name) for name in range(64)))
    assert len(served) == 20
    assert await of(store, RUN, Unit.CALLS) == (0, 20, 0)


async def test_museum_11_sixty_four_first_calls_open_one_run(store: Store) -> None:
    answers = await asyncio.gather(*(store.submit(OpenScope("run:new", KEY, Limits(usd=5))) for _ in range(64)))
    assert all(isinstance(answer, Opened) for answer in answers)
    assert sum(answer.created for answer in answers if isinstance(answer, Opened)) == 1
    assert await store.submit(OpenScope("run:new", "key:other", Limits())) == Taken("run:new", KEY)


async def test_new_runs_are_counted_per_hour(store: Store, clock: Hands) -> None:
    def new(name: str) -> OpenScope:
        return OpenScope(f"run:{name}", "key:loop", Limits(), runs_per_hour_max=2)

    answers = await asyncio.gather(*(store.submit(new(name)) for name in "abc"))
    assert [type(answer) for answer in answers] == [Opened, Opened, TooManyRuns]
    assert await store.submit(new("c")) == TooManyRuns("key:loop", 2, Instant(NOON + 3600 * SECOND))
    clock.instant = Instant(NOON + 3601 * SECOND)
    assert isinstance(await store.submit(new("c")), Opened)


async def test_voids_and_tombstones_are_remembered(store: Store) -> None:
    await store.submit(authorize(store, "c1"))
    assert isinstance(await store.submit(Void("c1", "another", "x")), Conflict)
    assert isinstance(await store.submit(Void("c1", store.worker, "not sent")), Settled)
    assert isinstance(await store.submit(Void("c2", store.worker, "gone")), Settled)
    assert isinstance(await store.submit(authorize(store, "c2")), Conflict)
    assert isinstance(await store.submit(settle(store, "c2", 9)), Settled)
    assert await of(store, RUN, Unit.USD) == (0, 0, 9)
    assert isinstance(await store.submit(settle(store, "c2", 9)), Settled)
    assert await of(store, RUN, Unit.USD) == (0, 0, 9)


async def test_museum_18_an_overrun_is_remembered_with_its_consequences(store: Store) -> None:
    await store.submit(authorize(store, "c1"))
    await store.submit(settle(store, "c1", 3_500))
    assert await of(store, RUN, Unit.USD) == (0, 3000, 500)
    assert {account.state for account in await store.accounts(RUN)} == {AccountState.OVERRUN}
    await store.submit(SetState(RUN, AccountState.OPEN))
    answer = await store.submit(authorize(store, "c2"))
    assert isinstance(answer, Denied)
    assert answer.reason is Reason.QUARANTINED
    assert await store.submit(ClearModel("m1")) == Changed(count=1)
    assert isinstance(await store.submit(authorize(store, "c3")), Granted)


async def test_a_call_and_a_scope_that_the_store_lost_are_booked(store: Store) -> None:
    await store.submit(settle(store, "lost", 70, scopes=(KEY, "run:lost")))
    assert await of(store, "run:lost", Unit.USD) == (0, 0, 70)
    assert await of(store, KEY, Unit.USD) == (0, 0, 70)


async def test_limits_and_adjustments_are_remembered(store: Store) -> None:
    await store.submit(authorize(store, "c1"))
    changed = await store.submit(SetLimit(RUN, Unit.USD, 10))
    assert isinstance(changed, Changed)
    by_name = {account.id: account for account in await store.accounts()}
    assert set(changed.accounts) <= set(by_name.values())
    assert by_name[f"{RUN}/usd/lifetime"].ceiling == 3000
    await store.submit(settle(store, "c1", None))
    await store.submit(Adjust("c1", Amounts(100, 1, 10), "invoice"))
    assert await of(store, RUN, Unit.USD) == (0, 100, 0)
    await store.submit(SetLimit(RUN, Unit.TOKENS, 500))
    assert await of(store, RUN, Unit.TOKENS) == (0, 0, 0)


async def test_refusals_are_counted_on_the_run(store: Store) -> None:
    await store.submit(SetLimit(RUN, Unit.CALLS, 0))
    await asyncio.gather(*(store.submit(authorize(store, f"c{number}")) for number in range(5)))
    (run,) = await store.runs()
    assert (run.run, run.owner, run.label, run.calls_refused, run.calls_open) == ("r1", KEY, "a run", 5, 0)
    assert run.accounts == await store.accounts(RUN)


async def test_runs_are_given_newest_first(store: Store, clock: Hands) -> None:
    clock.instant = Instant(NOON + SECOND)
    await store.submit(OpenScope("run:r2", KEY, Limits(calls=1)))
    await store.submit(authorize(store, "c1", scopes=(KEY, "run:r2")))
    runs = await store.runs()
    assert [(run.run, run.calls_open) for run in runs] == [("r2", 1), ("r1", 0)]
    assert [run.run for run in await store.runs(1)] == ["r2"]


async def test_holds_are_given_by_state(store: Store) -> None:
    for number in range(3):
        await store.submit(authorize(store, f"c{number}"))
    await store.submit(settle(store, "c0", 1))
    assert [hold.call_id for hold in await store.holds()] == ["c2", "c1", "c0"]
    assert [hold.call_id for hold in await store.holds(HoldState.OPEN)] == ["c2", "c1"]
    assert [hold.call_id for hold in await store.holds(HoldState.CAPTURED)] == ["c0"]
    assert len(await store.holds(limit_rows=2)) == 2


async def test_a_broken_invariant_in_one_operation_leaves_the_others_alone(store: Store) -> None:
    operations = [
        store.submit(authorize(store, "good")),
        store.submit(authorize(store, "bad", ask=Ask(-5, 0, 0, 1, 0, 0, 0, False), scopes=(KEY,))),
        store.submit(settle(store, "good", 5)),
        store.submit(authorize(store, "odd", model="\ud800", scopes=(RUN,))),
        store.submit(OpenScope("run:other", KEY, Limits())),
    ]
    answers = await asyncio.gather(*operations, return_exceptions=True)
    kinds = [Granted, BrokenInvariantError, Settled, BrokenInvariantError, Opened]
    assert [type(answer) for answer in answers] == kinds
    assert await of(store, RUN, Unit.USD) == (0, 5, 0)
    assert {account.state for account in await store.accounts(KEY)} == {AccountState.STOPPED}


async def test_the_holds_of_a_worker_that_lives_are_left_alone(store: Store, make: Callable[[], Store]) -> None:
    other = make()
    await other.start()
    await other.submit(authorize(other, "c1"))
    assert await store.dead_workers() == ()
    assert isinstance(await store.submit(Expire(other.worker)), Conflict)
    assert isinstance(await store.submit(Expire(store.worker)), Conflict)
    assert await of(store, RUN, Unit.USD) == (3000, 0, 0)
    await other.close()
    # It left without settling: nobody will, so its hold is captured whole.
    assert await store.dead_workers() == (other.worker,)
    assert await reap_once(store) == 1
    assert await of(store, RUN, Unit.USD) == (0, 3000, 0)
    assert isinstance(await store.submit(authorize(store, "c2", worker=other.worker)), Conflict)
    assert await reap_once(store) == 0


async def test_museum_27_two_gateways_share_one_cap(store: Store, make: Callable[[], Store]) -> None:
    other = make()
    await other.start()
    await store.submit(SetLimit(RUN, Unit.USD, None))
    answers = await asyncio.gather(
        *(one.submit(authorize(one, f"{number}-{one.worker}")) for number in range(20) for one in (store, other))
    )
    assert sum(isinstance(answer, Granted) for answer in answers) == 10
    assert await of(other, RUN, Unit.CALLS) == (10, 0, 0)
    await other.close()


async def test_what_was_answered_is_there_after_a_restart(store: Store, make: Callable[[], Store]) -> None:
    await store.submit(authorize(store, "c1"))
    before = await store.accounts()
    await store.close()
    again = make()
    await again.start()
    assert await again.accounts() == before
    assert again.worker != store.worker
    await again.close()
    await store.start()


async def test_entries_are_given_in_order_and_in_pages(store: Store) -> None:
    await asyncio.gather(*(store.submit(Void(f"c{number}", store.worker, "gone")) for number in range(2_300)))
    entries = [entry async for entry in store.entries()]
    assert [entry.seq for entry in entries] == list(range(1, 2_303))
    assert [entry.kind for entry in entries[:3]] == ["open", "open", "void"]
    assert entries[1].detail["label"] == "a run"
    assert [entry.seq async for entry in store.entries(after_seq=2_300)] == [2_301, 2_302]
    assert audit(entries, await store.accounts(), await store.holds(limit_rows=5_000)) == ()


async def test_a_key_that_is_written_again_is_what_was_written_last(store: Store) -> None:
    await store.put_key("ci", "d1", "", "{}")
    await store.put_key("other", "d1", "r9", "{}")
    found = await store.find_key("d1")
    assert found is not None
    assert (found.name, found.run) == ("other", "r9")


async def test_keys_are_remembered_and_revoked(store: Store, clock: Hands) -> None:
    assert await store.find_key("d1") is None
    await store.put_key("ci", "d1", "", '{"usd":1}')
    await store.put_key("ci", "d2", "r1", "{}")
    clock.instant = Instant(NOON + SECOND)
    await store.put_key("ci", "d1", "", '{"usd":2}')
    found = await store.find_key("d1")
    assert found is not None
    assert (found.name, found.run, json.loads(found.limits_json), found.created_at) == ("ci", "", {"usd": 2}, NOON)
    assert found.revoked_at is None
    assert [key.digest for key in await store.keys()] == ["d1", "d2"]
    await store.put_key("ci", "d3", "r1", "{}")
    assert await store.revoke_secret("d3") == 1
    assert await store.revoke_secret("d3") == 0
    one = await store.find_key("d2")
    assert one is not None
    assert one.revoked_at is None
    assert await store.revoke_key("ci") == 2
    assert await store.revoke_key("ci") == 0
    await store.put_key("ci", "d1", "", "{}")
    found = await store.find_key("d1")
    assert found is not None
    assert found.revoked_at == clock.instant


async def test_a_key_is_kept_with_its_terms_and_its_end(store: Store) -> None:
    await store.put_key("ci", "d1", "", "{}", '{"team":"research"}', Instant(7))
    found = await store.find_key("d1")
    assert found is not None
    assert (found.terms_json, found.expires_at, found.id) == ('{"team":"research"}', 7, "k-d1")
    await store.put_key("ci", "d1", "", "{}")
    found = await store.find_key("d1")
    assert found is not None
    assert (found.terms_json, found.expires_at) == ("{}", None)
    assert await store.keys() == (found,)


async def test_a_run_remembers_who_else_pays_for_it(store: Store) -> None:
    path = ("run:parent", "tag:env=prod")
    await store.submit(OpenScope("run:child", "key:k", Limits(), path=path))
    await store.submit(OpenScope("run:child", "key:k", Limits(), path=("run:other",)))
    assert await store.path_of("run:child") == path
    assert await store.path_of("run:nobody") is None


async def test_budgets_for_models_that_begin_alike_are_found_at_once(store: Store) -> None:
    assert await store.patterns() == ()
    for scope in ("model:gpt-*", "model:gpt-5", "model:*", "models*", "upstream:o*"):
        await store.submit(SetLimit(scope, Unit.CALLS, 1, opens=True))
    assert await store.patterns() == ("model:*", "model:gpt-*")


async def test_a_closed_store_refuses(make: Callable[[], Store]) -> None:
    store = make()
    with pytest.raises(LedgerUnavailableError):
        await store.submit(ClearModel("m"))
    await store.start()
    pending = [asyncio.ensure_future(store.submit(Void(f"c{number}", "w", "x"))) for number in range(50)]
    await asyncio.sleep(0)
    await store.close()
    assert all(isinstance(answer, Settled) for answer in await asyncio.gather(*pending))
    with pytest.raises(LedgerUnavailableError):
        await store.submit(ClearModel("m"))
    with pytest.raises(LedgerUnavailableError):
        await store.accounts()
    await store.close()


async def test_a_caller_that_leaves_does_not_disturb_the_others(store: Store) -> None:
    tasks = [asyncio.ensure_future(store.submit(authorize(store, f"c{number}"))) for number in range(3)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(answer) for answer in answers] == [Granted, asyncio.CancelledError, Granted]


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_money_is_conserved_in_a_storm(store: Store, seed: int) -> None:
    """Whatever a storm of agents does: never over the cap, nothing held at the end, the books replay."""
    print(f"seed {seed}")
    luck = random.Random(seed)
    await store.submit(SetLimit(RUN, Unit.CALLS, None))
    await store.submit(SetLimit(RUN, Unit.USD, 100_000))

    async def agent(name: int) -> int:
        billed = 0
        for number in range(10):
            call_id = f"{seed}-{name}-{number}"
            ask = Ask(luck.randrange(2_000), 10, 2_000, 1, luck.randrange(1, 2_000), 500, 1, luck.random() < 0.5)
            answer = await store.submit(authorize(store, call_id, ask=ask, is_last_try=luck.random() < 0.3))
            if isinstance(answer, Denied):
                continue
            assert isinstance(answer, Granted)
            if luck.random() < 0.2:
                await store.submit(Void(call_id, store.worker, "not sent"))
                continue
            usd = luck.randrange(answer.held.usd + 1)
            actual = None if luck.random() < 0.2 else Amounts(usd, 1, 0)
            await store.submit(Settle(call_id, store.worker, actual, Basis.METERED, PATH, answer.held))
            billed += answer.held.usd if actual is None else usd
        return billed

    billed = sum(await asyncio.gather(*(agent(name) for name in range(24))))
    assert await of(store, RUN, Unit.USD) == await of(store, KEY, Unit.USD) == (0, billed, 0)
    assert billed <= 100_000
