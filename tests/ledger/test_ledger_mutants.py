"""What mutants of the rules showed that no other test would notice."""

from __future__ import annotations

import pytest
from ledger_kit import KEY, PATH, RUN, authorize, opened

from bursar.ledger.account import (
    AccountState,
    Amounts,
    Basis,
    Changed,
    ClearModel,
    Denied,
    Granted,
    Limits,
    Opened,
    OpenScope,
    Reason,
    SetLimit,
    SetState,
    Settle,
    Settled,
    Unit,
)


def settle(call_id: str, usd: int) -> Settle:
    return Settle(call_id, "w1", Amounts(usd, 1, 0), Basis.METERED, PATH, Amounts(3_000, 1, 1_100))


@pytest.mark.parametrize(("cost", "left"), [(2_500, 4_500), (3_000, 4_000), (3_600, 3_400)])
def test_what_is_left_is_less_by_what_was_spent_and_by_what_was_spent_beyond_the_hold(cost: int, left: int) -> None:
    store = opened(Limits(usd=10_000))
    assert isinstance(store.do(authorize("c1")), Granted)
    store.do(settle("c1", cost))
    store.do(SetState(RUN, AccountState.OPEN))  # an overrun stops the run until a person has looked
    store.do(ClearModel("m1"))
    answer = store.do(authorize("c2"))
    assert isinstance(answer, Granted), answer
    assert answer.left.usd == left


def test_the_last_nanodollar_can_be_spent() -> None:
    store = opened(Limits(usd=3_000))
    answer = store.do(authorize("c1"))
    assert isinstance(answer, Granted)
    assert (answer.held.usd, answer.left.usd) == (3_000, 0)


def test_a_bill_for_a_call_that_the_store_lost_is_booked_on_every_account_of_its_path() -> None:
    store = opened(Limits(usd=10_000, calls=5, tokens=9_000))
    answer = store.do(settle("lost", 700))
    assert isinstance(answer, Settled)
    booked = {name: balance.overrun for name, balance in store.books.names.items()}
    assert booked == {
        f"{RUN}/usd/lifetime": 700,
        f"{RUN}/calls/lifetime": 1,
        f"{RUN}/tokens/lifetime": 0,
        f"{KEY}/usd/lifetime": 700,
        f"{KEY}/calls/lifetime": 1,
    }


def test_a_bill_on_scopes_that_the_store_lost_opens_every_one_of_them_and_authorizes_nothing() -> None:
    store = opened(Limits(usd=10_000))
    lost = ("run:gone", "key:gone")
    answer = store.do(Settle("lost", "w1", Amounts(700, 1, 30), Basis.METERED, lost, Amounts(3_000, 1, 1_100)))
    assert isinstance(answer, Settled)
    for scope in lost:
        overruns = {balance.unit: (balance.overrun, balance.limit) for balance in store.books.scopes[scope]}
        assert overruns == {0: (700, 0), 1: (1, 0), 2: (30, 0)}
        denied = store.do(authorize(f"after {scope}", scopes=(scope,)))
        assert isinstance(denied, Denied)
        assert denied.reason is Reason.OVERRUN


def test_what_was_opened_and_changed_is_counted_and_told() -> None:
    store = opened(Limits(usd=10_000))
    fresh = store.do(OpenScope("run:new", KEY, Limits(calls=1)))
    assert isinstance(fresh, Opened)
    assert fresh.created
    limited = store.do(SetLimit(RUN, Unit.TOKENS, 5))
    stopped = store.do(SetState(RUN, AccountState.STOPPED))
    assert isinstance(limited, Changed)
    assert isinstance(stopped, Changed)
    assert (limited.count, stopped.count) == (1, 3)


def test_a_token_limit_on_a_stopped_run_leaves_it_stopped() -> None:
    store = opened(Limits(usd=10_000))
    store.do(SetState(RUN, AccountState.STOPPED))
    changed = store.do(SetLimit(RUN, Unit.TOKENS, 5))
    assert isinstance(changed, Changed)
    assert {account.state for account in changed.accounts} == {AccountState.STOPPED}
