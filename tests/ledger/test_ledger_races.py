"""What the simulation of many gateways has found, each as the smallest case that shows it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_kit import (
    KEY,
    PATH,
    RUN,
    MemoryStore,
    a_quote,
    an_ask,
    authorize,
    hold_row,
    opened,
    run_virtual,
    settle_down,
)

from bursar.clock import SECOND, Instant
from bursar.ledger.account import (
    AccountState,
    Answer,
    Authorize,
    Budget,
    Denied,
    Expire,
    Granted,
    Limits,
    OpenScope,
    Operation,
    Reason,
    SetState,
    Unit,
)
from bursar.ledger.audit import audit
from bursar.ledger.hold import CONFIRMS_MAX, FRESH_SECONDS, Ledger, OpenHold, ask_of
from bursar.ledger.periods import slot_microseconds, window_microseconds
from bursar.ledger.store import LedgerUnavailableError, NotWrittenError

COST = 3_000
"""What the ask of the kit holds, in nanodollars."""


# ---- clocks that go forward and back --------------------------------------------------------------------------------


def with_window(period: str, calls: int = 2) -> MemoryStore:
    store = MemoryStore()
    store.clock.instant = Instant(store.clock.instant - store.clock.instant % slot_microseconds(period))
    store.do(OpenScope(KEY, "", Limits(), budgets=(Budget(Unit.USD, calls * COST, period),)))
    store.do(OpenScope(RUN, KEY, Limits()))
    return store


def ask(store: MemoryStore, call_id: str) -> Granted | Denied:
    answer = store.do(authorize(call_id, an_ask(bounded=True, floor=1_000), is_last_try=True))
    assert isinstance(answer, Granted | Denied)
    return answer


def findings(store: MemoryStore) -> tuple[object, ...]:
    accounts = [balance.account() for balance in store.books.names.values()]
    holds = [hold_row(hold) for hold in store.books.holds.values()]
    return audit(store.all_entries(), accounts, holds, frozenset(store.books.quarantined))


@pytest.mark.parametrize("period", ["rolling-12s", "rolling-1m", "rolling-100s", "rolling-5h"])
def test_a_slot_that_left_while_nothing_was_granted_is_gone_for_the_replay_too(period: str) -> None:
    store = with_window(period)
    assert isinstance(ask(store, "c1"), Granted)
    store.do(SetState(RUN, AccountState.STOPPED))
    store.clock.advance(2 * window_microseconds(period) / SECOND)
    assert isinstance(ask(store, "c2"), Denied)
    store.clock.advance(-2 * window_microseconds(period) / SECOND)
    store.do(SetState(RUN, AccountState.OPEN))
    for number in range(3, 6):
        ask(store, f"c{number}")
    assert findings(store) == ()


@pytest.mark.parametrize("period", ["rolling-12s", "rolling-1m", "rolling-100s", "rolling-5h"])
def test_a_window_says_when_it_has_room_again_and_keeps_its_word(period: str) -> None:
    store = with_window(period, calls=1)
    store.clock.advance(1)
    assert isinstance(ask(store, "c1"), Granted)
    store.clock.advance(slot_microseconds(period) / SECOND)
    denied = ask(store, "c2")
    assert isinstance(denied, Denied)
    assert denied.resets_at is not None
    if window_microseconds(period) % slot_microseconds(period) == 0:
        store.clock.instant = Instant(denied.resets_at - 1)
        assert isinstance(ask(store, "c3"), Denied)
    store.clock.instant = denied.resets_at
    assert isinstance(ask(store, "c4"), Granted)
    assert findings(store) == ()


@given(data=st.data())
def test_windows_and_their_replay_agree_whatever_the_clock_does(data: st.DataObject) -> None:
    period = data.draw(st.sampled_from(["rolling-12s", "rolling-100s", "rolling-1m"]))
    store = with_window(period)
    for number in range(data.draw(st.integers(1, 30))):
        store.clock.advance(data.draw(st.sampled_from([0, 1, 5, 9, 12, 60, 101, 300, -1, -9, -60, -120])))
        if data.draw(st.booleans()):
            store.do(SetState(RUN, data.draw(st.sampled_from([AccountState.STOPPED, AccountState.OPEN]))))
        answer = ask(store, f"c{number}")
        assert isinstance(answer, Granted) or answer.reason in (Reason.STOPPED, Reason.EXHAUSTED, Reason.HELD)
        assert findings(store) == ()


# ---- authorizes that arrive late ------------------------------------------------------------------------------------

QUOTE = a_quote()
HELD = ask_of(QUOTE).amounts(1000)


def nothing_is_held(store: MemoryStore) -> bool:
    return all(balance.held == 0 for balance in store.books.names.values())


class LateStore(MemoryStore):
    """Loses the first authorize of a call on its way; it arrives when `deliver` is called."""

    def __init__(self, late: str) -> None:
        super().__init__()
        self.late = late
        self.kept: list[Operation] = []
        self.do(OpenScope(KEY, "", Limits()))
        self.do(OpenScope(RUN, KEY, Limits(usd=HELD.usd)))

    async def submit(self, operation: Operation) -> Answer:
        if isinstance(operation, Authorize) and operation.call_id == self.late and not self.kept:
            self.kept.append(operation)
            raise LedgerUnavailableError("no answer")
        return await super().submit(operation)

    def deliver(self) -> None:
        for operation in self.kept:
            self.do(operation)


def test_an_authorize_that_arrives_after_its_call_was_refused_takes_nothing() -> None:
    async def scenario() -> None:
        store = LateStore("c2")
        ledger = Ledger(store, 0)
        first = await ledger.authorize(QUOTE, "c1", PATH)
        assert isinstance(first, OpenHold)
        assert isinstance(await ledger.authorize(QUOTE, "c2", PATH), Denied)
        async with first:
            first.void("not needed")
        await ledger.drain()
        store.deliver()
        assert nothing_is_held(store)
        assert store.books.holds["c2"].state == "void"

    run_virtual(scenario())


def test_an_authorize_that_arrives_after_its_client_left_the_line_takes_nothing() -> None:
    async def scenario() -> None:
        store = LateStore("c2")
        ledger = Ledger(store, 30)
        first = await ledger.authorize(QUOTE, "c1", PATH)
        assert isinstance(first, OpenHold)
        waiting = asyncio.create_task(ledger.authorize(QUOTE, "c2", PATH))
        await settle_down()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        async with first:
            first.void("not needed")
        await ledger.drain()
        store.deliver()
        assert nothing_is_held(store)

    run_virtual(scenario())


def test_a_refusal_that_nothing_is_unclear_about_leaves_no_tombstone() -> None:
    async def scenario() -> None:
        store = opened(Limits(usd=0))
        ledger = Ledger(store, 0)
        store.lose_before.append(NotWrittenError("disk full"))
        assert isinstance(await ledger.authorize(QUOTE, "c1", PATH), Denied)
        assert ledger.unsettled == 0
        assert "c1" not in store.books.holds

    run_virtual(scenario())


def test_a_worker_that_is_declared_dead_while_an_answer_is_missing_gives_the_call_up() -> None:
    async def scenario() -> None:
        store = LateStore("c1")
        store.books.fenced.add("w1")
        ledger = Ledger(store, 0)
        with pytest.raises(LedgerUnavailableError, match="declared dead"):
            await ledger.authorize(QUOTE, "c1", PATH)
        await ledger.drain()
        assert store.worker == "w1+"
        store.deliver()
        assert nothing_is_held(store)

    run_virtual(scenario())


def test_what_the_reaper_captured_of_a_call_that_was_never_sent_is_given_back() -> None:
    async def scenario() -> None:
        class Reaped(LateStore):
            async def submit(self, operation: Operation) -> Answer:
                if isinstance(operation, Authorize) and not self.kept:
                    self.do(operation)
                    self.dead = ("w1",)
                    self.do(Expire("w1"))
                return await super().submit(operation)

        store = Reaped("c1")
        ledger = Ledger(store, 0)
        with pytest.raises(LedgerUnavailableError, match="ended"):
            await ledger.authorize(QUOTE, "c1", PATH)
        await ledger.drain()
        assert store.account(f"{RUN}/usd/lifetime").captured == 0

    run_virtual(scenario())


# ---- processes that stand still -------------------------------------------------------------------------------------


class Standing(MemoryStore):
    """Answers, but the answers to some of the first authorizes are read late: the process stood still meanwhile."""

    def __init__(self, late: int) -> None:
        super().__init__()
        self.late = late
        self.do(OpenScope(KEY, "", Limits()))
        self.do(OpenScope(RUN, KEY, Limits()))

    async def submit(self, operation: Operation) -> Answer:
        answer: Any = await super().submit(operation)
        if isinstance(operation, Authorize) and self.late:
            self.late -= 1
            await asyncio.sleep(FRESH_SECONDS + 1)
        return answer


@pytest.mark.parametrize("late", range(CONFIRMS_MAX + 1))
def test_a_hold_whose_answer_was_read_late_is_confirmed_before_it_is_sent(late: int) -> None:
    async def scenario() -> None:
        store = Standing(late)
        hold = await Ledger(store, 0).authorize(QUOTE, "c1", PATH)
        assert isinstance(hold, OpenHold)
        asked = len(store.submitted)
        await hold.confirm()
        assert len(store.submitted) == asked + late

    run_virtual(scenario())


def test_a_hold_that_nobody_can_confirm_in_time_is_not_sent() -> None:
    async def scenario() -> None:
        store = Standing(1 + CONFIRMS_MAX)
        hold = await Ledger(store, 0).authorize(QUOTE, "c1", PATH)
        assert isinstance(hold, OpenHold)
        with pytest.raises(LedgerUnavailableError, match="too late"):
            await hold.confirm()

    run_virtual(scenario())


def test_a_call_whose_name_another_worker_has_taken_is_not_sent() -> None:
    async def scenario() -> None:
        store = opened()
        assert isinstance(store.do(authorize("c1", worker="w2")), Granted)
        with pytest.raises(LedgerUnavailableError, match="cannot be authorized"):
            await Ledger(store, 0).authorize(QUOTE, "c1", PATH)
        assert store.books.holds["c1"].worker == "w2"

    run_virtual(scenario())
