"""Budgets that come anew: the calendar in time zones, rolling windows, and what a hold of an older slot does."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_kit import KEY, PATH, RUN, MemoryStore, an_ask, authorize, hold_row

from bursar.clock import SECOND, Instant
from bursar.ledger.account import (
    AccountState,
    Amounts,
    Basis,
    Budget,
    Changed,
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
)
from bursar.ledger.audit import audit
from bursar.ledger.periods import (
    FOREVER,
    LIFETIME,
    PeriodError,
    is_spec,
    named,
    people,
    period_spec,
    slot_microseconds,
    slot_of,
    spec_of,
    window_microseconds,
)
from bursar.money import BrokenInvariantError

HOUR = 3_600 * SECOND
ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kolkata",
    "Australia/Lord_Howe",
    "America/Santiago",
    "Pacific/Apia",
)


def at(text: str) -> Instant:
    return Instant(int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * SECOND)


# ---- the calendar ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "moment", "starts", "hours"),
    [
        ("hour", "2026-11-23T14:59:59", "2026-11-23T14:00:00", 1),
        ("day", "2026-11-23T23:59:59", "2026-11-23T00:00:00", 24),
        ("week", "2026-11-29T12:00:00", "2026-11-23T00:00:00", 168),
        ("month", "2026-02-28T12:00:00", "2026-02-01T00:00:00", 28 * 24),
        ("month", "2026-12-31T23:00:00", "2026-12-01T00:00:00", 31 * 24),
        # The clocks go forward: a day of 23 hours; and back: one of 25.
        ("day@Europe:Berlin", "2026-03-29T10:00:00", "2026-03-28T23:00:00", 23),
        ("day@Europe:Berlin", "2026-10-25T10:00:00", "2026-10-24T22:00:00", 25),
        ("week@Europe:Berlin", "2026-10-25T10:00:00", "2026-10-18T22:00:00", 169),
        ("month@Europe:Berlin", "2026-10-31T22:59:59", "2026-09-30T22:00:00", 745),
        # Midnight itself is skipped: the day begins at one o'clock.
        ("day@America:Santiago", "2026-09-06T10:00:00", "2026-09-06T04:00:00", 23),
        ("day@America:Santiago", "2026-09-06T03:59:59", "2026-09-05T04:00:00", 24),
        # Midnight comes twice: the day before has 25 hours.
        ("day@America:Santiago", "2026-04-05T03:30:00", "2026-04-04T03:00:00", 25),
        # A whole day does not exist.
        ("day@Pacific:Apia", "2011-12-30T12:00:00", "2011-12-30T10:00:00", 24),
        # An hour comes twice, and each time it is another one.
        ("hour@Europe:Berlin", "2026-10-25T00:30:00", "2026-10-25T00:00:00", 1),
        ("hour@Europe:Berlin", "2026-10-25T01:30:00", "2026-10-25T01:00:00", 1),
        # Hours begin at the half of ours.
        ("hour@Asia:Kolkata", "2026-11-23T14:10:00", "2026-11-23T13:30:00", 1),
        ("rolling-12h", "2026-11-23T14:59:59", "2026-11-23T14:00:00", 1),
    ],
)
def test_a_slot_is_what_people_in_its_zone_call_it(spec: str, moment: str, starts: str, hours: int) -> None:
    slot = slot_of(spec, at(moment))
    assert slot.starts_at == at(starts)
    assert slot.ends_at - slot.starts_at == hours * HOUR
    assert named(spec, slot.starts_at) == f"{spec} {starts}Z"


@given(
    kind=st.sampled_from(["hour", "day", "week", "month"]),
    zone=st.sampled_from(ZONES),
    second=st.integers(at("2001-01-01T00:00:00") // SECOND, at("2050-01-01T00:00:00") // SECOND),
)
def test_slots_follow_each_other_without_gap_or_overlap(kind: str, zone: str, second: int) -> None:
    spec, now = period_spec(kind, zone), Instant(second * SECOND)
    slot = slot_of(spec, now)
    assert slot.starts_at <= now < slot.ends_at
    assert slot_of(spec, Instant(slot.starts_at)) == slot
    assert slot_of(spec, Instant(slot.ends_at - 1)) == slot
    after = slot_of(spec, Instant(slot.ends_at))
    # Where the clocks shift by half an hour, an hour of the clock face is cut in two.
    assert after.starts_at == slot.ends_at or (kind == "hour" and "Lord_Howe" in zone)


@given(seconds=st.integers(12, 366 * 86_400), now=st.integers(10**15, 10**16))
def test_a_window_is_cut_into_slots_that_cover_it(seconds: int, now: int) -> None:
    spec = period_spec(f"rolling {seconds}s")
    slot = slot_of(spec, Instant(now))
    assert slot.starts_at <= now < slot.ends_at
    assert slot.ends_at - slot.starts_at == slot_microseconds(spec)
    assert window_microseconds(spec) <= 12 * slot_microseconds(spec) < window_microseconds(spec) + 12 * SECOND


def test_a_period_has_one_name() -> None:
    assert period_spec("") == period_spec("lifetime") == LIFETIME
    assert period_spec("day", "Europe/Berlin") == "day@Europe:Berlin"
    assert period_spec("rolling 5h", "Europe/Berlin") == "rolling-5h"
    assert people("day@Europe:Berlin") == "day (Europe/Berlin)"
    assert people("rolling-5h") == "rolling 5h"
    assert spec_of("day 2026-11-23T00:00:00Z") == "day"
    assert slot_of(LIFETIME, Instant(5)) == (0, FOREVER)
    assert named(LIFETIME, 0) == LIFETIME
    assert [is_spec(spec) for spec in ("day", "day@Europe:Berlin", "rolling-5h", "lifetime")] == [True] * 4
    assert [is_spec(spec) for spec in ("day@UTC", "rolling 5h", "year", "day@Mars:Base")] == [False] * 4


@pytest.mark.parametrize(
    "text", ["year", "rolling 5", "rolling 0h", "rolling 11s", "rolling 367d", "Day", "rolling 5h "]
)
def test_what_is_not_a_period_is_refused(text: str) -> None:
    with pytest.raises(PeriodError, match="not"):
        period_spec(text)


@pytest.mark.parametrize("zone", ["Mars/Base", "../../etc/passwd", "", "/etc"])
def test_what_is_not_a_time_zone_is_refused(zone: str) -> None:
    with pytest.raises(PeriodError, match="time zone"):
        period_spec("day", zone)


# ---- periods in the books -------------------------------------------------------------------------------------------

COST = 3_000
"""What the ask of the kit holds, in nanodollars."""


def with_budget(period: str, limit: int = 2 * COST) -> MemoryStore:
    store = MemoryStore()
    store.do(OpenScope(KEY, "", Limits(), budgets=(Budget(Unit.USD, limit, period),)))
    store.do(OpenScope(RUN, KEY, Limits()))
    return store


def move(store: MemoryStore, moment: str) -> None:
    store.clock.instant = at(moment)


def ask(store: MemoryStore, call_id: str) -> Granted | Denied:
    answer = store.do(authorize(call_id, an_ask(bounded=True, floor=1_000), is_last_try=True))
    assert isinstance(answer, Granted | Denied)
    return answer


def settle(store: MemoryStore, call_id: str, usd: int) -> Settled:
    answer = store.do(Settle(call_id, "w1", Amounts(usd, 1, 10), Basis.METERED, PATH, Amounts(COST, 1, 1100)))
    assert isinstance(answer, Settled)
    return answer


def proven(store: MemoryStore) -> None:
    accounts = [balance.account() for balance in store.books.names.values()]
    holds = [hold_row(hold) for hold in store.books.holds.values()]
    assert audit(store.all_entries(), accounts, holds, frozenset(store.books.quarantined)) == ()


def test_a_day_that_is_spent_comes_anew_at_midnight_of_its_zone() -> None:
    store = with_budget("day@Europe:Berlin")
    move(store, "2026-11-23T22:30:00")
    store.do(SetLimit(KEY, Unit.USD, 2 * COST, "day@Europe:Berlin"))
    assert isinstance(ask(store, "c1"), Granted)
    assert isinstance(ask(store, "c2"), Granted)
    settle(store, "c1", COST)
    settle(store, "c2", COST)
    denied = ask(store, "c3")
    assert isinstance(denied, Denied)
    assert (denied.reason, denied.scope) == (Reason.EXHAUSTED, KEY)
    assert denied.resets_at == at("2026-11-23T23:00:00")
    move(store, "2026-11-23T23:00:00")
    assert isinstance(ask(store, "c4"), Granted)
    proven(store)


def test_a_hold_settles_into_the_period_that_it_was_taken_from() -> None:
    store = with_budget("day")
    move(store, "2026-11-24T23:59:00")
    assert isinstance(ask(store, "c1"), Granted)
    move(store, "2026-11-25T00:01:00")
    assert isinstance(ask(store, "c2"), Granted)
    settle(store, "c1", 2_000)
    yesterday, today = f"{KEY}/usd/day 2026-11-24T00:00:00Z", f"{KEY}/usd/day 2026-11-25T00:00:00Z"
    assert (store.account(yesterday).captured, store.account(yesterday).held) == (2_000, 0)
    assert (store.account(today).captured, store.account(today).held) == (0, COST)
    settle(store, "c2", 5_000)
    assert (store.account(today).captured, store.account(today).overrun) == (COST, 2_000)
    proven(store)


def test_an_orphan_is_captured_in_its_own_period_and_late_truth_finds_it_there() -> None:
    store = with_budget("hour")
    assert isinstance(ask(store, "c1"), Granted)
    before = store.books.scopes[KEY][-1].name
    store.clock.advance(3_600)
    assert isinstance(ask(store, "c2"), Granted)
    store.dead = ("w1",)
    store.do(Expire("w1"))
    assert store.account(before).captured == COST
    store.do(Settle("c1", "w2", Amounts(500, 1, 5), Basis.METERED, PATH, Amounts(COST, 1, 1100)))
    assert store.account(before).captured == 500
    proven(store)


def test_a_clock_that_goes_back_opens_no_new_period() -> None:
    store = with_budget("hour")
    ask(store, "c1")
    ask(store, "c2")
    store.clock.advance(3_600)
    ask(store, "c3")
    ask(store, "c4")
    store.clock.advance(-7_200)
    denied = ask(store, "c5")
    assert isinstance(denied, Denied)
    assert denied.reason is Reason.HELD
    proven(store)


def test_what_is_stopped_stays_stopped_in_the_next_period_and_keeps_its_limit() -> None:
    store = with_budget("hour")
    store.do(SetLimit(KEY, Unit.USD, COST, "hour"))
    store.do(SetState(KEY, AccountState.STOPPED))
    store.clock.advance(3_600)
    denied = ask(store, "c1")
    assert isinstance(denied, Denied)
    assert denied.reason is Reason.STOPPED
    store.do(SetState(KEY, AccountState.OPEN))
    assert isinstance(ask(store, "c2"), Granted)
    assert isinstance(ask(store, "c3"), Denied)
    proven(store)


def test_a_period_is_limited_from_the_moment_when_somebody_limits_it() -> None:
    store = with_budget("hour")
    answer = store.do(SetLimit(KEY, Unit.CALLS, 1, "day"))
    assert isinstance(answer, Changed)
    assert [account.limit for account in answer.accounts if account.period.startswith("day")] == [1]
    assert isinstance(ask(store, "c1"), Granted)
    denied = ask(store, "c2")
    assert isinstance(denied, Denied)
    assert denied.unit is Unit.CALLS
    store.do(SetLimit(KEY, Unit.CALLS, None, "day"))
    assert isinstance(ask(store, "c3"), Granted)
    proven(store)


def test_one_budget_per_unit_and_period_and_only_periods_of_the_calendar() -> None:
    store = MemoryStore()
    twice = (Budget(Unit.USD, 1, "day"), Budget(Unit.USD, 2, "day"))
    with pytest.raises(BrokenInvariantError, match="one budget"):
        store.do(OpenScope(KEY, "", Limits(), budgets=twice))
    with pytest.raises(BrokenInvariantError, match="calendar"):
        store.do(OpenScope(KEY, "", Limits(), budgets=(Budget(Unit.USD, 1, "day 2026-11-23T00:00:00Z"),)))
    with pytest.raises(BrokenInvariantError, match="zero or more"):
        store.do(OpenScope(KEY, "", Limits(), budgets=(Budget(Unit.USD, -1, "day"),)))
    store.do(OpenScope(KEY, "", Limits()))
    with pytest.raises(BrokenInvariantError, match="calendar"):
        store.do(SetLimit(KEY, Unit.USD, 1, "fortnight"))


# ---- rolling windows ------------------------------------------------------------------------------------------------


def test_a_window_gives_money_back_slot_by_slot_and_never_early() -> None:
    store = with_budget("rolling-12h")
    move(store, "2026-11-24T00:30:00")
    ask(store, "c1")
    settle(store, "c1", COST)
    move(store, "2026-11-24T05:30:00")
    ask(store, "c2")
    settle(store, "c2", COST)
    denied = ask(store, "c3")
    assert isinstance(denied, Denied)
    assert (denied.reason, denied.captured, denied.held) == (Reason.EXHAUSTED, 2 * COST, 0)
    assert denied.resets_at == at("2026-11-24T13:00:00")
    # Twelve hours after the first call, but its slot is still partly in the window.
    move(store, "2026-11-24T12:59:59")
    assert isinstance(ask(store, "c4"), Denied)
    move(store, "2026-11-24T13:00:00")
    granted = ask(store, "c5")
    assert isinstance(granted, Granted)
    assert granted.left.usd == 0
    settle(store, "c5", COST)
    denied = ask(store, "c6")
    assert isinstance(denied, Denied)
    assert denied.resets_at == at("2026-11-24T18:00:00")
    proven(store)


def test_what_an_earlier_slot_gives_back_is_free_at_once() -> None:
    store = with_budget("rolling-12h")
    move(store, "2026-11-24T00:30:00")
    ask(store, "c1")
    move(store, "2026-11-24T02:30:00")
    ask(store, "c2")
    move(store, "2026-11-24T04:30:00")
    denied = ask(store, "c3")
    assert isinstance(denied, Denied)
    assert (denied.reason, denied.held) == (Reason.HELD, 2 * COST)
    settle(store, "c1", 0)
    granted = ask(store, "c3")
    assert isinstance(granted, Granted)
    settle(store, "c2", COST)
    settle(store, "c3", COST)
    assert isinstance(ask(store, "c4"), Denied)
    proven(store)


def test_a_window_that_nobody_used_for_long_is_whole_again() -> None:
    store = with_budget("rolling-12h")
    move(store, "2026-11-24T00:30:00")
    for number in range(3):
        ask(store, f"a{number}")
        store.clock.advance(3_600)
    store.clock.advance(30 * 3_600)
    assert isinstance(ask(store, "b1"), Granted)
    # A hold of a slot that has left settles there, and changes nothing of what counts now.
    settle(store, "a0", COST)
    granted = ask(store, "b2")
    assert isinstance(granted, Granted)
    assert granted.left.usd == 0
    assert [balance.earlier_held for balance in store.books.scopes[KEY] if balance.starts_at] == [0]
    proven(store)


def test_a_clock_that_goes_back_brings_no_slot_back_and_opens_none() -> None:
    store = with_budget("rolling-12h")
    move(store, "2026-11-24T00:30:00")
    ask(store, "c1")
    move(store, "2026-11-24T13:00:00")
    ask(store, "c2")
    move(store, "2026-11-24T00:40:00")
    ask(store, "c3")
    assert isinstance(ask(store, "c4"), Denied)
    proven(store)


@given(data=st.data())
def test_no_stretch_as_long_as_the_window_ever_costs_more_than_the_limit(data: st.DataObject) -> None:
    store = with_budget("rolling-60m", limit=3 * COST)
    spent: list[tuple[int, int]] = []
    for number in range(data.draw(st.integers(1, 40))):
        store.clock.advance(data.draw(st.sampled_from([0, 1, 60, 299, 300, 301, 900, 3_600, 4_000])))
        if isinstance(ask(store, f"c{number}"), Granted):
            usd = data.draw(st.sampled_from([0, 1_000, COST]))
            settle(store, f"c{number}", usd)
            spent.append((store.clock.instant, usd))
    for begin, _ in spent:
        assert sum(usd for moment, usd in spent if begin <= moment < begin + HOUR) <= 3 * COST
    proven(store)
