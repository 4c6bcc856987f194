"""Every kind of entry, whole: what a replay, an export and an auditor read; and the edges of what can be counted."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from ledger_kit import KEY, NOON, PATH, RUN, MemoryStore, an_ask, authorize, opened

from bursar.clock import Instant
from bursar.ledger import rolling, rules
from bursar.ledger.account import (
    AccountState,
    Adjust,
    Amounts,
    Ask,
    Basis,
    Budget,
    Changed,
    ClearModel,
    Conflict,
    Denied,
    Expire,
    Granted,
    Limits,
    Note,
    Opened,
    OpenScope,
    Reason,
    SetLimit,
    SetState,
    Settle,
    Settled,
    TooManyRuns,
    Unit,
    Void,
)
from bursar.ledger.books import AMOUNT_MAX, ScopeFacts
from bursar.money import BrokenInvariantError

USD, CALLS = f"{RUN}/usd/lifetime", f"{RUN}/calls/lifetime"
ON_BOTH = [f"{KEY}/usd/lifetime", f"{KEY}/calls/lifetime", USD, CALLS]
TEAM = "team:research"
FOREVER = 2**63 - 1


def last(store: MemoryStore, count: int = 1) -> list[tuple[object, ...]]:
    """Give the newest entries: kind, call, worker, amounts, accounts, detail; all are of now."""
    lines = store.lines[-count:]
    assert all(line.at == store.clock.instant for line in lines)
    return [
        (line.kind, line.call_id, line.worker, line[4:7], json.loads(line.accounts), json.loads(line.detail))
        for line in lines
    ]


def settle(store: MemoryStore, call_id: str, usd: int, worker: str = "w1") -> object:
    op = Settle(call_id, worker, Amounts(usd, 1, 10), Basis.METERED, PATH, Amounts(3_000, 1, 1_100), "why", "{}")
    return store.do(op)


def test_an_opening() -> None:
    store = MemoryStore()
    store.do(OpenScope(RUN, KEY, Limits(usd=5), label="fix it", budgets=(Budget(Unit.CALLS, 7, "day"),)))
    midnight = NOON // 86_400_000_000 * 86_400_000_000
    (entry,) = last(store)
    day = entry[4][-1]  # type: ignore[index]
    assert entry == (
        *("open", "", "", (0, 0, 0), [USD, CALLS, day]),
        {
            "scope": RUN,
            "owner": KEY,
            "label": "fix it",
            "limits": [5, None, 7],
            "ends_at": [FOREVER, FOREVER, midnight + 86_400_000_000],
        },
    )
    assert day.startswith(f"{RUN}/calls/day 20")


def test_limits_states_and_notes() -> None:
    store = opened()
    store.do(SetLimit(RUN, Unit.USD, 5, by="ann"))
    store.do(SetState(RUN, AccountState.STOPPED, by="bob"))
    store.do(Note("eve", "key revoked", "ci", "{}", "[]"))
    assert last(store, 3) == [
        ("limit", "", "", (0, 0, 0), [USD], {"limit": 5, "state": "open", "ends_at": FOREVER, "by": "ann"}),
        ("state", "", "", (0, 0, 0), [USD, CALLS], {"state": "stopped", "why": "", "by": "bob"}),
        (
            *("note", "", "", (0, 0, 0), []),
            {"by": "eve", "what": "key revoked", "subject": "ci", "before": "{}", "after": "[]"},
        ),
    ]


def test_voids_and_their_holds() -> None:
    store = opened()
    store.do(authorize("c1"))
    store.do(Void("c1", "w1", "not reached"))
    store.do(Void("lost", "w1", "no answer"))
    assert last(store, 2) == [
        ("void", "c1", "w1", (3_000, 1, 1_100), ON_BOTH, {"proof": "not reached"}),
        ("void", "lost", "w1", (0, 0, 0), [], {"proof": "no answer"}),
    ]
    hold, tomb = store.books.holds["c1"], store.books.holds["lost"]
    assert (hold.state, hold.basis, hold.why, hold.settled_at) == ("void", "", "not reached", NOON)
    assert tomb[2:] == ("void", "[]", *([0] * 10), "", "", NOON, NOON, "", "no answer")
    assert (tomb.output_tokens, tomb.model, tomb.upstream) == (0, "", "")


def test_a_grant_a_capture_and_what_is_lost() -> None:
    store = opened()
    store.do(authorize("c1"))
    hold = store.books.holds["c1"]
    assert (hold.state, hold.settled_at, hold.basis, hold.why) == ("open", None, "", "")
    settle(store, "c1", 500)
    detail = {"basis": "metered", "why": "why", "usage": "{}", "overrun": [0, 0, 0]}
    assert last(store) == [("capture", "c1", "w1", (500, 1, 10), ON_BOTH, detail)]
    store.do(Void("lost", "w0", "no answer"))
    store.clock.advance(5)
    settle(store, "lost", 700)
    lost = store.books.holds["lost"]
    assert (lost.worker, lost.opened_at, lost.settled_at, lost.output_tokens) == ("w0", NOON, store.clock.instant, 0)
    again = settle(store, "c1", 501)
    assert isinstance(again, Conflict)
    assert "(500, 1, 10)" in again.why


def test_an_orphan_and_evidence() -> None:
    store = opened()
    store.do(authorize("c1"))
    assert store.do(Expire("w1")) == Conflict("", "worker w1 lives")
    store.dead = ("w1",)
    store.do(Expire("w1"))
    assert last(store) == [("expire", "c1", "w1", (3_000, 1, 1_100), ON_BOTH, {"why": "its worker died"})]
    store.do(Adjust("c1", Amounts(100, 1, 5), "invoice 7"))
    assert last(store) == [("adjust", "c1", "", (100, 1, 5), ON_BOTH, {"evidence": "invoice 7", "overrun": [0, 0, 0]})]


def test_a_roll_and_a_model_that_is_cleared() -> None:
    store = MemoryStore()
    store.do(OpenScope(KEY, "", Limits(), budgets=(Budget(Unit.USD, 9_000, "hour"),)))
    store.do(OpenScope(RUN, KEY, Limits()))
    store.clock.advance(3_600)
    store.do(authorize("c1"))
    roll, _ = last(store, 2)
    assert roll[:4] == ("roll", "", "", (0, 0, 0))
    assert roll[5] == {"limit": 9_000, "state": "open", "ends_at": store.clock.instant + 3_600_000_000}
    settle(store, "c1", 5_000)
    store.do(ClearModel("m1"))
    assert last(store) == [("clear", "", "", (0, 0, 0), [], {"model": "m1"})]


# ---- edges ----------------------------------------------------------------------------------------------------------


def test_the_largest_amount_can_be_a_limit_and_a_hold() -> None:
    store = MemoryStore()
    answer = store.do(OpenScope(KEY, "", Limits(usd=AMOUNT_MAX), budgets=(Budget(Unit.USD, AMOUNT_MAX, "day"),)))
    assert isinstance(answer, Opened)
    assert isinstance(store.do(SetLimit(KEY, Unit.TOKENS, AMOUNT_MAX)), Changed)
    store.do(OpenScope(RUN, KEY, Limits()))
    ask = Ask(AMOUNT_MAX, AMOUNT_MAX, 0, 1, 0, 0, 0, client_bounded=True)
    granted = store.do(authorize("c1", ask))
    assert isinstance(granted, Granted)
    assert granted.held == Amounts(AMOUNT_MAX, 1, AMOUNT_MAX)
    whole = Amounts(AMOUNT_MAX, 1, AMOUNT_MAX)
    answer = store.do(Settle("c1", "w1", whole, Basis.METERED, PATH, whole))
    assert isinstance(answer, Settled)
    assert answer.captured == whole


@pytest.mark.parametrize(
    "field",
    [
        "usd_fixed",
        "tokens_fixed",
        "picodollars_per_output_token",
        "choices",
        "tokens_wanted",
        "tokens_comfort",
        "tokens_floor",
    ],
)
def test_nothing_negative_is_asked(field: str) -> None:
    store = opened()
    ask = replace(an_ask(), **{field: -1})  # type: ignore[arg-type]
    with pytest.raises(BrokenInvariantError, match="nothing negative"):
        store.do(authorize("c1", ask))
    assert "c1" not in store.books.holds


def test_a_limit_below_what_is_spent_pays_for_no_token_even_where_the_input_is_free() -> None:
    store = opened(run=Limits(usd=9_000))
    store.do(authorize("c1"))
    settle(store, "c1", 3_000)
    store.do(SetLimit(RUN, Unit.USD, 100))
    free_input = an_ask(1_000, fixed=0, floor=0, comfort=0)
    granted = store.do(authorize("c2", free_input, is_last_try=True))
    assert isinstance(granted, Granted)
    assert (granted.output_tokens, granted.held.usd, granted.left.usd) == (0, 0, 0)
    denied = store.do(authorize("c3", replace(free_input, tokens_floor=1)))
    assert isinstance(denied, Denied)
    assert denied.reason is Reason.EXHAUSTED


def test_the_last_nanodollar_is_left() -> None:
    store = opened(run=Limits(usd=3_001))
    granted = store.do(authorize("c1"))
    assert isinstance(granted, Granted)
    assert granted.left.usd == 1


def test_what_is_above_in_one_unit_is_not_taken_from_another() -> None:
    store = opened()
    no_tokens = Ask(1_000, 0, 0, 1, 0, 0, 0, client_bounded=True)
    store.do(authorize("c1", no_tokens))
    answer = settle(store, "c1", 10)
    assert isinstance(answer, Settled)
    assert (answer.captured, answer.overrun) == (Amounts(10, 1, 0), Amounts(0, 0, 10))


def test_of_two_that_have_the_same_too_little_the_first_is_named() -> None:
    store = opened(run=Limits(usd=100), key=Limits(usd=100))
    denied = store.do(authorize("c1"))
    assert isinstance(denied, Denied)
    assert denied.scope == KEY


def test_a_worker_that_was_declared_dead_is_told_so() -> None:
    store = opened()
    store.books.fenced.add("w1")
    answer = store.do(authorize("c1"))
    assert isinstance(answer, Conflict)
    assert answer.fenced


def test_a_team_is_opened_with_its_first_budget_and_stops_with_all_of_them() -> None:
    store = opened()
    store.do(SetLimit(TEAM, Unit.USD, 5, opens=True))
    assert store.books.owners[TEAM] == ""
    store.do(SetState(TEAM, AccountState.STOPPED))
    answer = store.do(SetLimit(TEAM, Unit.CALLS, 5, "day", opens=True))
    assert isinstance(answer, Changed)
    assert {account.state for account in answer.accounts} == {AccountState.STOPPED}


def test_an_owner_that_may_open_none_is_told_when() -> None:
    store = opened()
    store.clock.advance(100)
    answer = store.do(OpenScope("run:new", KEY, Limits(), runs_per_hour_max=0))
    assert answer == TooManyRuns(KEY, 0, Instant(store.clock.instant + 3_600_000_000))


def test_a_refusal_of_a_stopped_account_asks_for_nothing() -> None:
    store = opened()
    store.do(SetState(RUN, AccountState.STOPPED))
    denied = store.do(authorize("c1"))
    assert isinstance(denied, Denied)
    assert denied.asked == 0


def test_slots_that_have_left_are_not_looked_at_again() -> None:
    store = MemoryStore()
    store.do(OpenScope(KEY, "", Limits(), budgets=(Budget(Unit.USD, 30_000, "rolling-12h"),)))
    store.do(OpenScope(RUN, KEY, Limits()))
    names = []
    for number in range(3):
        store.do(authorize(f"c{number}"))
        names.append(store.books.scopes[KEY][-1].name)
        store.clock.advance(3_600)
    # The first one leaves exactly when all of it is out of the window; it is not linked to the newest any more.
    store.clock.advance(10 * 3_600)
    turned = rolling.turn(store.books, [KEY], store.clock.now())
    assert [slot.name for slot in turned.gone] == names[:1]
    store.clock.advance(50 * 3_600)
    turned = rolling.turn(store.books, [KEY], store.clock.now())
    assert sorted(slot.name for slot in turned.gone) == names
    (old, new), *none = turned.next
    assert (old.name, none) == (names[-1], [])
    assert new.starts_at > old.ends_at
    exact = Instant(old.ends_at + 12 * 3_600_000_000)
    assert old in rolling.turn(store.books, [KEY], exact).gone


def test_when_money_comes_back_is_said_only_where_it_does() -> None:
    store = opened(run=Limits(usd=100))
    denied = store.do(authorize("c1"))
    assert isinstance(denied, Denied)
    assert denied.resets_at is None


def test_the_last_call_of_a_cap_may_be_as_long_as_any() -> None:
    store = opened(run=Limits(calls=1))
    granted = store.do(authorize("c1"))
    assert isinstance(granted, Granted)
    assert granted.output_tokens == 1_000


def test_what_nobody_named_is_named_nothing() -> None:
    store = opened()
    plan = rules.plan(store.books, SetLimit(TEAM, Unit.USD, 5, opens=True), NOON)
    assert plan.scopes == (ScopeFacts(TEAM, "", "", NOON),)
    plan = rules.change_state(store.books.scopes[RUN], AccountState.STOPPED, NOON, "broken")
    assert json.loads(plan.lines[0].detail) == {"state": "stopped", "why": "broken", "by": ""}


def test_a_window_looks_at_its_own_slots_only() -> None:
    store = MemoryStore()
    for scope in (KEY, TEAM):
        store.do(OpenScope(scope, "", Limits(), budgets=(Budget(Unit.USD, 6_000, "rolling-12h"),)))
    store.do(OpenScope(RUN, KEY, Limits()))
    store.do(authorize("t1", scopes=(TEAM,)))
    for number in range(2):
        store.clock.advance(3_600)
        store.do(authorize(f"t{number + 2}", scopes=(TEAM,), ask=an_ask(0, fixed=0, floor=0)))
        store.do(authorize(f"c{number}"))
    first = store.clock.instant - 3_600_000_000
    denied = store.do(authorize("c9", is_last_try=True))
    assert isinstance(denied, Denied)
    assert denied.resets_at == Instant(first // 3_600_000_000 * 3_600_000_000 + 13 * 3_600_000_000)


def test_a_window_that_is_too_small_for_a_call_says_when_it_is_empty() -> None:
    store = MemoryStore()
    store.do(OpenScope(KEY, "", Limits(), budgets=(Budget(Unit.USD, 1, "rolling-12h"),)))
    store.do(OpenScope(RUN, KEY, Limits()))
    denied = store.do(authorize("c1"))
    assert isinstance(denied, Denied)
    assert (denied.reason, denied.resets_at) == (Reason.EXHAUSTED, Instant(NOON + 13 * 3_600_000_000))


def test_the_end_of_a_call_that_was_folded_away_changes_nothing() -> None:
    store = opened()
    store.books.folded.add("old")
    before = len(store.lines)
    for again in (
        Settle("old", "w1", Amounts(24, 1, 0), Basis.METERED, PATH, Amounts(100, 1, 0)),
        Settle("old", "w1", None, Basis.PRESUMED, PATH, Amounts(100, 1, 0)),
        Void("old", "w1", "not sent"),
    ):
        answer = store.do(again)
        assert isinstance(answer, Conflict)
        assert "folded away" in answer.why
    assert len(store.lines) == before
    assert not store.books.holds
    assert {(balance.captured, balance.overrun) for balance in store.books.names.values()} == {(0, 0)}
