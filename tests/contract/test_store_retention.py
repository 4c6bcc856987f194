"""What is old is folded away: the books stay true, what remains goes on as before, the audit starts from the base."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cluster import shared
from databases import database_of
from test_store_contract import ENGINES, NOON, Hands

from bursar.clock import Instant
from bursar.ledger.account import (
    AccountState,
    Adjust,
    Amounts,
    Ask,
    Authorize,
    Basis,
    Budget,
    Changed,
    ClearModel,
    Conflict,
    Denied,
    Expire,
    Granted,
    HoldState,
    Limits,
    OpenScope,
    SetLimit,
    SetState,
    Settle,
    Settled,
    Unit,
    Void,
)
from bursar.ledger.store import DAY, LEASE, Compacted, Entry, LedgerUnavailableError, NotWrittenError, Store
from bursar.money import BrokenInvariantError
from bursar.stores.postgres import PostgresStore

KEY, RUN = "key:ci", "run:r1"
PATH = (KEY, RUN)
ASK = Ask(100, 40, 0, 1, 10, 10, 1, False)
HELD = Amounts(100, 1, 50)
KEEP = 2

FOLDING = tuple(sorted(ENGINES))
Make = Callable[[], Store]


@pytest.fixture
def clock() -> Hands:
    return Hands()


@pytest.fixture(params=FOLDING)
def make(request: pytest.FixtureRequest, tmp_path: Path, clock: Hands) -> Make:
    return lambda: ENGINES[request.param](tmp_path, clock)


@pytest_asyncio.fixture
async def store(make: Make) -> AsyncIterator[Store]:
    made = make()
    await made.start()
    await made.submit(OpenScope(KEY, "", Limits(), budgets=(Budget(Unit.USD, 100_000, "day"),)))
    await made.submit(OpenScope(RUN, KEY, Limits(usd=100_000, calls=1_000)))
    yield made
    await made.close()


def pass_days(clock: Hands, days: float) -> None:
    clock.instant = Instant(clock.instant + int(days * DAY))


async def hold(store: Store, call: str, **changes: Any) -> None:
    facts: dict[str, Any] = {"worker": store.worker, "scopes": PATH, "ask": ASK, "model": "m1", "upstream": "openai"}
    assert isinstance(await store.submit(Authorize(call_id=call, **(facts | changes))), Granted)


async def settle(store: Store, call: str, usd: int | None, **changes: Any) -> Any:
    actual = None if usd is None else Amounts(usd, 1, 10)
    basis = Basis.PRESUMED if usd is None else Basis.METERED
    facts: dict[str, Any] = {"worker": store.worker, "scopes": PATH, "held": HELD}
    return await store.submit(Settle(call_id=call, actual=actual, basis=basis, **(facts | changes)))


async def compact(store: Store, entries_max: int = 1000) -> Compacted:
    """Compact to the end, and give the sum."""
    entries = holds = accounts = 0
    while True:
        step = await store.compact(KEEP, entries_max)
        assert step.findings == ()
        assert not step.is_busy
        assert step.entries <= entries_max
        entries, holds, accounts = entries + step.entries, holds + step.holds, accounts + step.accounts
        if step.is_done:
            return Compacted(entries, holds, accounts, step.seq)


async def entries_of(store: Store) -> list[Entry]:
    return [entry async for entry in store.entries()]


async def test_settled_calls_are_folded_and_the_books_still_agree(store: Store, clock: Hands) -> None:
    for number in range(10):
        await hold(store, f"c{number}")
        await settle(store, f"c{number}", 7)
    before = await store.accounts(RUN)
    pass_days(clock, 3)
    done = await compact(store, 3)
    # The last entry stays: the next one gets its number from it.
    assert done == Compacted(21, 9, 0, 21)
    assert [entry.seq for entry in await entries_of(store)] == [22]
    assert [row.call_id for row in await store.holds()] == ["c9"]
    assert await store.accounts(RUN) == before
    assert await store.audit() == ()
    await hold(store, "later")
    assert (await entries_of(store))[-1].seq == 24  # a roll, and the authorize
    assert await store.audit() == ()


async def test_what_is_young_or_open_or_corrected_later_stays_and_ends_as_it_would(store: Store, clock: Hands) -> None:
    for call in ("open", "settled-later", "corrected", "gone", "void"):
        await hold(store, call)
    await settle(store, "corrected", 50)
    await settle(store, "gone", 60)
    await store.submit(Void("void", store.worker, "never sent"))
    await store.submit(Void("tombstone", store.worker, "never sent"))
    pass_days(clock, 3)
    await settle(store, "settled-later", 20)
    await store.submit(Adjust("corrected", Amounts(5, 1, 5), "invoice"))
    await compact(store)
    assert {row.call_id for row in await store.holds()} == {"open", "settled-later", "corrected"}
    assert await store.audit() == ()
    assert isinstance(await store.submit(Adjust("corrected", Amounts(6, 1, 6), "invoice 2")), Settled)
    assert isinstance(await store.submit(Adjust("settled-later", Amounts(21, 1, 6), "invoice 2")), Settled)
    assert isinstance(await settle(store, "open", 30), Settled)
    assert isinstance(await store.submit(Adjust("gone", Amounts(1, 1, 1), "invoice")), Conflict)
    assert await store.audit() == ()
    pass_days(clock, 3)
    await compact(store)
    await hold(store, "c9")
    pass_days(clock, 3)
    await compact(store)
    # What was corrected once may be corrected again, however late: a reconciliation looks for it.
    assert {row.call_id for row in await store.holds()} == {"corrected", "settled-later", "c9"}
    assert await store.audit() == ()
    assert isinstance(await store.submit(Adjust("corrected", Amounts(7, 1, 7), "invoice 3")), Settled)
    assert await store.audit() == ()


async def test_a_call_that_was_folded_away_is_not_booked_once_more(store: Store, clock: Hands) -> None:
    for call in ("met", "lost", "void"):
        await hold(store, call)
    await settle(store, "met", 24)
    await settle(store, "lost", None)
    await store.submit(Void("void", store.worker, "never sent"))
    await hold(store, "young")
    pass_days(clock, 3)
    assert (await compact(store)).holds == 3
    before = await store.accounts(RUN)
    for call, usd in (("met", 24), ("met", 200), ("lost", 24), ("lost", None)):
        answer = await settle(store, call, usd)
        assert isinstance(answer, Conflict)
        assert "folded" in answer.why
        assert not answer.fenced
    assert isinstance(await store.submit(Void("met", store.worker, "never sent")), Conflict)
    assert await store.accounts(RUN) == before
    # What never was booked is booked when it comes, as for every call that the books do not know.
    unknown = await settle(store, "void", 24)
    assert isinstance(unknown, Settled)
    assert unknown.overrun.usd == 24
    assert isinstance(await settle(store, "young", 30), Settled)
    assert await store.audit() == ()


async def test_a_dead_worker_is_reaped_after_its_authorize_was_folded(make: Make, store: Store, clock: Hands) -> None:
    other = make()
    await other.start()
    await hold(other, "orphan")
    worker = other.worker
    await other.close()
    pass_days(clock, 3)
    await compact(store)
    assert await store.dead_workers() == (worker,)
    assert await store.submit(Expire(worker)) == Changed(count=1, calls=("orphan",))
    assert await store.audit() == ()
    pass_days(clock, 3)
    await hold(store, "c1")
    await compact(store)
    assert [row.call_id for row in await store.holds()] == ["c1"]
    assert await store.audit() == ()


async def test_days_that_have_passed_are_folded_away_and_the_one_that_counts_is_not(store: Store, clock: Hands) -> None:
    await hold(store, "late")
    for day in range(8):
        await hold(store, f"c{day}")
        await settle(store, f"c{day}", 10)
        pass_days(clock, 1)
    done = await compact(store)
    # Of 8 days the newest three are young or counted when the base ends; from the first one a hold is still open.
    assert done.accounts == 4
    days = [account for account in await store.accounts(KEY) if account.period != "lifetime"]
    assert [(day.captured, day.limit) for day in days] == [(10, 100_000)]
    assert await store.audit() == ()
    assert isinstance(await settle(store, "late", 1), Settled)
    assert await store.audit() == ()
    pass_days(clock, 3)
    await hold(store, "c9")
    assert (await compact(store)).accounts == 3
    assert await store.audit() == ()


async def test_a_rolling_window_counts_what_was_folded(store: Store, clock: Hands) -> None:
    await store.submit(SetLimit(KEY, Unit.CALLS, 3, "rolling-12d"))
    for number in range(3):
        await hold(store, f"c{number}")
        await settle(store, f"c{number}", 10)
        pass_days(clock, 1)
    await compact(store)
    denied = await store.submit(Authorize("no", store.worker, PATH, ASK, "m1", "u", True))
    assert isinstance(denied, Denied)
    assert (denied.limit, denied.captured) == (3, 3)
    assert await store.audit() == ()
    pass_days(clock, 10.5)
    await hold(store, "c4")
    await settle(store, "c4", 10)
    assert await store.audit() == ()
    pass_days(clock, 30)
    await hold(store, "c5")
    await compact(store)
    assert await store.audit() == ()


async def test_states_limits_and_quarantine_of_the_past_still_hold(store: Store, clock: Hands) -> None:
    await hold(store, "over", model="m2")
    await hold(store, "again", model="m3")
    await settle(store, "over", 200)
    await store.submit(SetState(RUN, AccountState.OPEN))
    await settle(store, "again", 200)
    await store.submit(ClearModel("m3"))
    await store.submit(SetLimit(RUN, Unit.USD, 300))
    pass_days(clock, 3)
    await compact(store, 2)
    assert [(row.model, row.call_id) for row in await store.quarantined()] == [("m2", "")]
    assert {account.state for account in await store.accounts(RUN)} == {AccountState.OVERRUN}
    assert await store.audit() == ()
    await store.submit(ClearModel("m2"))
    await store.submit(SetState(RUN, AccountState.OPEN))
    pass_days(clock, 3)
    await store.submit(SetState(RUN, AccountState.STOPPED))
    await compact(store, 1)
    assert await store.audit() == ()


async def test_a_model_that_is_let_through_again_beside_others_leaves_the_base(store: Store, clock: Hands) -> None:
    for model in ("m2", "m3"):
        await hold(store, model, model=model)
        await settle(store, model, 200)
        await store.submit(SetState(RUN, AccountState.OPEN))
    pass_days(clock, 3)
    await compact(store)
    await store.submit(ClearModel("m2"))
    pass_days(clock, 3)
    await store.submit(SetState(RUN, AccountState.STOPPED))
    await compact(store)
    assert [row.model for row in await store.quarantined()] == ["m3"]
    assert await store.audit() == ()


async def test_what_was_spent_by_day_stays_what_it_was(store: Store, clock: Hands) -> None:
    for day in range(6):
        for call in ("met", "lost", "void"):
            await hold(store, f"{call}{day}", model="m1" if day % 2 else "m2")
        await settle(store, f"met{day}", 7)
        await settle(store, f"lost{day}", None)
        await store.submit(Void(f"void{day}", store.worker, "never sent"))
        pass_days(clock, 1)
    first, last = NOON // DAY, NOON // DAY + 9
    before = await store.spent_by_day(first, last)
    assert [row.usd for row in before] == [107] * 6
    await compact(store, 5)
    assert len(await store.holds()) < 18
    assert await store.spent_by_day(first, last) == before
    assert await store.spent_by_day(first + 1, first + 2) == before[1:3]


async def test_a_clock_that_went_back_lets_no_later_entry_go_first(store: Store, clock: Hands) -> None:
    await hold(store, "c1")
    pass_days(clock, 10)
    await settle(store, "c1", 7)
    pass_days(clock, -10)
    await hold(store, "c2")
    await settle(store, "c2", 7)
    pass_days(clock, 3)
    await compact(store)
    # The settlement of c1 is of a day that is still to come, and everything after it waits for it.
    assert {row.call_id for row in await store.holds()} == {"c1", "c2"}
    assert await store.audit() == ()
    pass_days(clock, 20)
    await hold(store, "c3")
    await compact(store)
    assert {row.call_id for row in await store.holds()} == {"c3"}
    assert await store.audit() == ()


async def test_the_archive_has_every_entry_before_it_goes(store: Store, clock: Hands) -> None:
    for number in range(4):
        await hold(store, f"c{number}")
        await settle(store, f"c{number}", 7)
    pass_days(clock, 3)
    everything = await entries_of(store)
    kept: list[Entry] = []
    while not (await store.compact(KEEP, 3, kept.extend)).is_done:
        pass
    assert kept == everything[:-1]


async def test_nothing_goes_when_the_archive_cannot_keep_it(store: Store, clock: Hands) -> None:
    await hold(store, "c1")
    await settle(store, "c1", 7)
    pass_days(clock, 3)
    everything = await entries_of(store)

    def full(entries: list[Entry]) -> None:
        raise OSError("no space left")

    with pytest.raises(LedgerUnavailableError, match="no space left"):
        await store.compact(KEEP, 100, full)
    assert await entries_of(store) == everything
    assert (await store.holds())[0].call_id == "c1"


async def test_one_worker_folds_at_a_time_and_another_goes_on_when_it_is_gone(
    make: Make, store: Store, clock: Hands
) -> None:
    for number in range(4):
        await hold(store, f"c{number}")
        await settle(store, f"c{number}", 7)
    pass_days(clock, 3)
    other = make()
    await other.start()
    assert not (await store.compact(KEEP, 2)).is_done
    assert await other.compact(KEEP, 2) == Compacted(is_busy=True)
    clock.instant = Instant(clock.instant + LEASE)
    assert (await other.compact(KEEP, 2)).entries == 2
    assert await store.compact(KEEP, 2) == Compacted(is_busy=True)
    while not (await other.compact(KEEP, 100)).is_done:
        pass
    assert await store.compact(KEEP, 2) == Compacted(seq=9)
    await other.close()
    assert await store.audit() == ()


async def test_what_a_call_in_flight_may_need_is_never_folded(store: Store) -> None:
    with pytest.raises(BrokenInvariantError, match="in flight"):
        await store.compact(1, 100)


async def test_an_empty_ledger_has_nothing_to_fold(make: Make) -> None:
    made = make()
    await made.start()
    assert await made.compact(KEEP, 100) == Compacted()
    assert await made.audit() == ()
    await made.close()


class Twins:
    """Two ledgers that are told the same; the one is folded under way, the other keeps everything."""

    def __init__(self, folded: Store, twin: Store, clock: Hands, seed: int) -> None:
        self.folded, self.twin, self.clock = folded, twin, clock
        self.dice = random.Random(seed)
        self.calls: list[str] = []
        self.steps = [
            *((self.authorize,) * 4),
            *((self.settle,) * 3),
            *(self.void, self.adjust, self.resume, self.wait, self.fold),
        ]

    async def both(self, operation: Callable[[Store], Any]) -> None:
        first, second = [await each.submit(operation(each)) for each in (self.folded, self.twin)]
        assert repr(first) == repr(second)

    async def begin(self) -> None:
        for each in (self.folded, self.twin):
            await each.start()
        await self.both(lambda _: OpenScope(KEY, "", Limits(), budgets=(Budget(Unit.USD, 3_000, "day"),)))
        await self.both(lambda _: SetLimit(KEY, Unit.CALLS, 40, "rolling-4d"))
        for run in ("run:r1", "run:r2", "run:r1/2"):
            await self.both(lambda _, run=run: OpenScope(run, KEY, Limits(usd=60_000, calls=900)))

    async def authorize(self) -> None:
        call, run = f"c{self.dice.random()}", self.dice.choice(("run:r1", "run:r2", "run:r1/2"))
        model = self.dice.choice(("m1", "m2"))
        await self.both(lambda s: Authorize(call, s.worker, (KEY, run), ASK, model, "u", True))
        self.calls.append(call)

    async def settle(self) -> None:
        call = self.calls.pop(self.dice.randrange(len(self.calls))) if self.calls else ""
        if await self.folded.hold(call) is not None:
            usd = self.dice.choice((0, 7, 100, 100, 130, None))
            actual = None if usd is None else Amounts(usd, 1, 10)
            basis = Basis.PRESUMED if usd is None else Basis.METERED
            await self.both(lambda s: Settle(call, s.worker, actual, basis, PATH, HELD))

    async def void(self) -> None:
        if self.calls:
            call = self.calls.pop()
            await self.both(lambda s: Void(call, s.worker, "x"))

    async def adjust(self) -> None:
        rows = await self.folded.holds(HoldState.CAPTURED, 5)
        if rows:
            call, usd = self.dice.choice(rows).call_id, self.dice.randrange(150)
            await self.both(lambda _: Adjust(call, Amounts(usd, 1, 10), "invoice"))

    async def resume(self) -> None:
        scope = self.dice.choice((KEY, "run:r1", "run:r2"))
        await self.both(lambda _: SetState(scope, AccountState.OPEN))
        await self.both(lambda _: ClearModel("m1"))

    async def wait(self) -> None:
        pass_days(self.clock, self.dice.random() * 1.5)

    async def fold(self) -> None:
        step = await self.folded.compact(KEEP, self.dice.choice((1, 3, 50)))
        assert step.findings == ()

    async def compare(self) -> None:
        assert await self.folded.audit() == await self.twin.audit() == ()
        assert await self.folded.accounts() == await self.twin.accounts()
        days = (NOON // DAY, NOON // DAY + 100)
        assert await self.folded.spent_by_day(*days) == await self.twin.spent_by_day(*days)


@pytest.mark.parametrize("seed", range(8))
async def test_a_folded_ledger_does_what_one_that_keeps_everything_does(
    make: Make, clock: Hands, tmp_path: Path, seed: int
) -> None:
    """Random histories over weeks."""
    print(f"seed {seed}")
    twins = Twins(make(), ENGINES["sqlite"](tmp_path / "twin", clock), clock, seed)
    await twins.begin()
    for _ in range(150):
        await twins.dice.choice(twins.steps)()
    await twins.compare()
    pass_days(clock, 9)
    await compact(twins.folded, 7)
    await twins.compare()
    await twins.folded.close()
    await twins.twin.close()


async def test_a_role_that_may_not_fold_is_told_so(clock: Hands, tmp_path: Path) -> None:
    url = database_of(tmp_path)
    name = url.rpartition("/")[2].partition("?")[0]
    owner = PostgresStore(url, clock, marker=tmp_path / "ledger.json")
    await owner.start()
    await owner.submit(OpenScope(KEY, "", Limits()))
    await owner.submit(SetLimit(KEY, Unit.USD, 5_000))
    pass_days(clock, 3)
    role = f"folder_{name}"
    server = shared()
    server.sql(f"CREATE ROLE {role} LOGIN PASSWORD 'geheim'; GRANT bursar_gateway TO {role}")
    gateway = PostgresStore(server.url(name, role, "geheim"), clock, marker=tmp_path / "gateway.json")
    await gateway.start()
    with pytest.raises(NotWrittenError, match="only the role that owns the ledger"):
        await gateway.compact(KEEP, 100)
    await hold(gateway, "c1", scopes=(KEY,))
    await gateway.close()
    assert (await owner.compact(KEEP, 100)).entries == 2
    assert await owner.audit() == ()
    await owner.close()
    server.sql(f"DROP OWNED BY {role}; DROP ROLE {role}", name)
