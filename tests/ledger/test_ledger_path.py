"""Whose money a call takes besides that of its run and key, who is told what, and who changed what."""

from __future__ import annotations

import json

import pytest
from ledger_kit import KEY, PATH, RUN, MemoryStore, a_quote, authorize, hold_row, opened, run_virtual

from bursar.ledger.account import (
    AccountState,
    Amounts,
    Basis,
    Changed,
    Conflict,
    Denied,
    Granted,
    Limits,
    Note,
    OpenScope,
    Reason,
    SetLimit,
    SetState,
    Settle,
    Settled,
    Unit,
)
from bursar.ledger.audit import audit
from bursar.ledger.books import Happening
from bursar.ledger.hold import Ledger, OpenHold, ask_of

TEAM, TAG = "team:research", "tag:env=prod"
ALSO = (TEAM, TAG, "user:nobody-set-a-budget")


def store_with_a_team(usd: int = 10_000) -> MemoryStore:
    store = opened()
    assert isinstance(store.do(SetLimit(TEAM, Unit.USD, usd, opens=True, by="ann")), Changed)
    return store


def settle(store: MemoryStore, call_id: str, usd: int | None, **changes: object) -> object:
    actual = None if usd is None else Amounts(usd, 1, 10)
    basis = Basis.PRESUMED if usd is None else Basis.METERED
    facts: dict[str, object] = {"worker": "w1", "scopes": PATH, "held": Amounts(3_000, 1, 1_100)} | changes
    return store.do(Settle(call_id=call_id, actual=actual, basis=basis, **facts))  # type: ignore[arg-type]


def proven(store: MemoryStore) -> None:
    accounts = [balance.account() for balance in store.books.names.values()]
    holds = [hold_row(hold) for hold in store.books.holds.values()]
    assert audit(store.all_entries(), accounts, holds, frozenset(store.books.quarantined)) == ()


def told(store: MemoryStore) -> list[tuple[str, str]]:
    return [(happening.kind, happening.subject) for happening in store.happenings]


def test_a_scope_that_has_a_budget_pays_too_and_one_that_has_none_is_passed_over() -> None:
    store = store_with_a_team(usd=4_000)
    granted = store.do(authorize("c1", also=ALSO))
    assert isinstance(granted, Granted)
    assert granted.left.usd == 1_000
    assert store.account(f"{TEAM}/usd/lifetime").held == 3_000
    denied = store.do(authorize("c2", also=ALSO, is_last_try=True))
    assert isinstance(denied, Denied)
    assert denied.scope == TEAM
    settle(store, "c1", 100)
    assert store.account(f"{TEAM}/usd/lifetime").captured == 100
    proven(store)


def test_a_scope_that_is_named_twice_pays_once() -> None:
    store = store_with_a_team()
    assert isinstance(store.do(authorize("c1", also=(TEAM, KEY, TEAM))), Granted)
    assert store.account(f"{TEAM}/usd/lifetime").held == 3_000
    assert store.account(f"{KEY}/usd/lifetime").held == 3_000
    proven(store)


def test_a_scope_that_is_named_twice_turns_into_its_next_period_once() -> None:
    store = store_with_a_team()
    for period in ("day", "rolling-5h"):
        store.do(SetLimit(TEAM, Unit.USD, 4_000, period))
    for call, also in (("c1", (TEAM, TEAM)), ("c2", (TEAM, TAG, TEAM))):
        store.clock.advance(86_400)
        assert isinstance(store.do(authorize(call, scopes=(RUN, KEY, RUN), also=also)), Granted)
    assert [line.kind for line in store.lines].count("roll") == 4
    proven(store)


def test_a_repeated_authorize_is_the_same_although_a_budget_came_or_went_meanwhile() -> None:
    store = store_with_a_team()
    first = store.do(authorize("c1", also=ALSO))
    store.do(SetLimit(TAG, Unit.USD, 5, opens=True))
    assert isinstance(first, Granted)
    again = store.do(authorize("c1", also=ALSO))
    assert isinstance(again, Granted)
    assert again.held == first.held
    assert isinstance(store.do(authorize("c1")), Conflict)
    assert isinstance(store.do(authorize("c1", also=("team:other",))), Conflict)
    proven(store)


def test_a_budget_that_is_set_counts_from_the_next_call() -> None:
    store = opened()
    store.do(authorize("c1", also=ALSO))
    store.do(SetLimit(TAG, Unit.CALLS, 1, "day", opens=True))
    assert isinstance(store.do(authorize("c2", also=ALSO)), Granted)
    denied = store.do(authorize("c3", also=ALSO, is_last_try=True))
    assert isinstance(denied, Denied)
    assert (denied.scope, denied.unit) == (TAG, Unit.CALLS)
    proven(store)


def test_a_scope_that_nobody_opened_is_opened_only_when_asked() -> None:
    store = opened()
    assert isinstance(store.do(SetLimit(TEAM, Unit.USD, 5)), Conflict)
    assert TEAM not in store.books.scopes


def test_a_lost_call_is_booked_on_what_has_accounts() -> None:
    store = store_with_a_team()
    answer = settle(store, "lost", 700, also=(*ALSO, KEY))
    assert isinstance(answer, Settled)
    assert answer.overrun.usd == 700
    assert store.account(f"{TEAM}/usd/lifetime").overrun == 700
    assert store.account(f"{KEY}/usd/lifetime").overrun == 700
    assert TAG not in store.books.scopes
    proven(store)


def test_thresholds_are_told_once_and_only_the_highest_that_was_passed() -> None:
    store = opened(run=Limits(usd=10_000))
    for number, usd in enumerate([3_000, 1_999, 1, 500, 2_600]):
        store.do(authorize(f"c{number}"))
        settle(store, f"c{number}", usd)
    percents = [json.loads(happening.detail)["percent"] for happening in store.happenings]
    assert percents == [50, 80]
    last = store.happenings[-1]
    assert (last.kind, last.subject) == ("threshold", f"{RUN}/usd/lifetime")
    assert json.loads(last.detail) == {"unit": "usd", "percent": 80, "limit": 10_000, "spent": 8_100}


def test_a_threshold_of_a_rolling_window_is_that_of_all_its_slots() -> None:
    store = opened(run=Limits())
    store.do(SetLimit(RUN, Unit.USD, 10_000, "rolling-5h"))
    for call in ("a", "b", "c"):
        store.do(authorize(call))
        store.clock.advance(3_600)
    # Each is booked in the slot that it was taken from, and none of the slots comes to half of the limit by itself.
    settle(store, "c", 1_999)
    settle(store, "b", 3_000)
    assert store.happenings == []
    settle(store, "a", 1)
    (happening,) = store.happenings
    newest = [balance.name for balance in store.books.scopes[RUN] if "rolling" in balance.name]
    assert [happening.subject] == newest
    assert json.loads(happening.detail) == {"unit": "usd", "percent": 50, "limit": 10_000, "spent": 5_000}


def test_nobody_is_told_that_a_run_of_the_gateway_itself_is_spent() -> None:
    store = opened()
    store.do(OpenScope("run:@own", KEY, Limits(usd=0, calls=0)))
    assert isinstance(store.do(authorize("c1", scopes=("run:@own", KEY))), Denied)
    assert store.happenings == []


def test_the_first_refusal_of_a_limit_is_told_and_that_it_is_spent() -> None:
    store = opened(run=Limits(calls=1))
    store.do(authorize("c1"))
    settle(store, "c1", 5)
    for name in ("c2", "c3"):
        assert isinstance(store.do(authorize(name)), Denied)
    assert told(store) == [("threshold", f"{RUN}/calls/lifetime"), *[("exhausted", f"{RUN}/calls/lifetime")] * 2]
    assert len({happening.key for happening in store.happenings}) == 2
    store.do(SetLimit(RUN, Unit.CALLS, 2))
    store.do(authorize("c4"))
    settle(store, "c4", 5)
    store.do(authorize("c5"))
    assert len({happening.key for happening in store.happenings}) == 4


def test_who_has_to_wait_or_is_stopped_is_no_news() -> None:
    store = opened(run=Limits(calls=1))
    store.do(authorize("c1"))
    assert isinstance(store.do(authorize("c2", is_last_try=True)), Denied)
    store.do(SetState(RUN, AccountState.STOPPED, by="ann"))
    assert isinstance(store.do(authorize("c3")), Denied)
    assert store.happenings == []


def test_an_overrun_is_told_with_both_figures_and_the_quarantine_with_it() -> None:
    store = opened(run=Limits(usd=100_000))
    store.do(authorize("c1"))
    settle(store, "c1", 5_000)
    assert told(store) == [("overrun", "c1"), ("quarantine", "m1")]
    detail = json.loads(store.happenings[0].detail)
    assert (detail["held"][0], detail["captured"][0], detail["overrun"][0]) == (3_000, 3_000, 2_000)
    assert isinstance(store.happenings[0], Happening)


def test_it_is_written_down_who_changed_what() -> None:
    store = opened()
    store.do(SetLimit(RUN, Unit.USD, 5, by="ann"))
    store.do(SetState(RUN, AccountState.STOPPED, by="bob"))
    before = {name: balance.account() for name, balance in store.books.names.items()}
    assert store.do(Note("ann", "key revoked", "ci", '{"models":["gpt-*"]}', "")) == Changed(count=1)
    details = [json.loads(line.detail) for line in store.lines[-3:]]
    assert [detail["by"] for detail in details] == ["ann", "bob", "ann"]
    assert details[-1]["what"] == "key revoked"
    assert {name: balance.account() for name, balance in store.books.names.items()} == before
    proven(store)


# ---- where a call goes ----------------------------------------------------------------------------------------------

QUOTE = a_quote()
COST = ask_of(QUOTE).amounts(1000).usd
ITS_OWN = ("model:m1", "model:m*", "model:*", "upstream:openai")
OTHERS = ("model:m", "model:m1-mini", "model:x*", "upstream:open", "upstream:azure")


def test_a_call_is_charged_to_the_budgets_of_its_model_of_all_alike_and_of_its_upstream() -> None:
    async def scenario() -> None:
        store = opened(Limits(usd=COST))
        for scope in (*ITS_OWN, *OTHERS):
            store.do(SetLimit(scope, Unit.USD, COST, opens=True))
        hold = await Ledger(store, 0).authorize(QUOTE, "c1", PATH, (TEAM,))
        assert isinstance(hold, OpenHold)
        held_on = {account for row in await store.holds() for account in row.accounts}
        assert held_on == {
            *(f"{scope}/{unit}/lifetime" for scope in PATH for unit in ("usd", "calls")),
            *(f"{scope}/usd/lifetime" for scope in ITS_OWN),
        }
        async with hold:
            hold.dispatch()
        assert {store.account(f"{scope}/usd/lifetime").captured for scope in ITS_OWN} == {COST}
        assert {store.account(f"{scope}/usd/lifetime").captured for scope in OTHERS} == {0}
        proven(store)

    run_virtual(scenario())


@pytest.mark.parametrize("scope", ITS_OWN)
def test_a_budget_of_a_model_or_an_upstream_that_is_spent_refuses(scope: str) -> None:
    async def scenario() -> None:
        store = opened(Limits())
        ledger = Ledger(store, 0)
        assert isinstance(await ledger.authorize(QUOTE, "c1", PATH), OpenHold)
        # It counts from the next call on, and has nothing to spend.
        store.do(SetLimit(scope, Unit.USD, 0, opens=True))
        denied = await ledger.authorize(QUOTE, "c2", PATH)
        assert isinstance(denied, Denied)
        assert (denied.scope, denied.reason) == (scope, Reason.EXHAUSTED)
        assert "c2" not in store.books.holds

    run_virtual(scenario())
