"""What mutants of the rules showed that no other test would notice."""

from __future__ import annotations

import pytest
from ledger_kit import PATH, RUN, authorize, opened

from bursar.ledger.account import AccountState, Amounts, Basis, ClearModel, Granted, Limits, SetState, Settle


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
