"""What the simulation of many gateways has found, each as the smallest case that shows it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_kit import KEY, RUN, MemoryStore, an_ask, authorize, hold_row

from bursar.clock import SECOND, Instant
from bursar.ledger.account import AccountState, Budget, Denied, Granted, Limits, OpenScope, Reason, SetState, Unit
from bursar.ledger.audit import audit
from bursar.ledger.periods import slot_microseconds, window_microseconds

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
