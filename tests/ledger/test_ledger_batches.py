"""Batches are cut so that no call is in one twice, and decided one operation after the other."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from ledger_kit import KEY, NOON, authorize, opened

from bursar.clock import SECOND, Instant
from bursar.ledger.account import (
    AccountState,
    Ask,
    Authorize,
    ClearModel,
    Denied,
    Granted,
    Limits,
    OpenScope,
    Operation,
    Reason,
    SetLimit,
    SetState,
    Unit,
    Void,
)
from bursar.ledger.batch import decide
from bursar.ledger.books import Books
from bursar.ledger.store import batches

CALLS = st.sampled_from(["a", "b", "c", "d"])
OPERATIONS = st.lists(
    st.one_of(CALLS.map(authorize), CALLS.map(lambda call: Void(call, "w1", "x")), st.just(ClearModel("m")))
)


@given(OPERATIONS, st.integers(1, 5))
def test_batches_keep_the_order_and_never_hold_one_call_twice(operations: list[Operation], size_max: int) -> None:
    cut = list(batches(operations, size_max))
    assert [op for batch in cut for op in batch] == operations
    for batch in cut:
        assert 0 < len(batch) <= size_max
        calls = [op.call_id for op in batch if not isinstance(op, ClearModel)]  # type: ignore[union-attr]
        assert len(calls) == len(set(calls))


def test_a_scope_is_opened_limited_stopped_and_asked_in_one_batch() -> None:
    """The row is not written yet when it is changed: what is written has to be the last of it."""
    run = "run:fresh"
    operations: list[Operation] = [
        OpenScope(run, "key:k", Limits(usd=100, calls=5)),
        SetLimit(run, Unit.CALLS, 7),
        SetState(run, AccountState.STOPPED),
        Authorize("c1", "w", (run,), Ask(1, 1, 0, 1, 0, 0, 0, True), "m", "u"),
        SetState(run, AccountState.OPEN),
        Authorize("c2", "w", (run,), Ask(1, 1, 0, 1, 0, 0, 0, True), "m", "u"),
    ]
    answers, changes = decide(Books(), operations, Instant(1))
    assert isinstance(answers[3], Denied)
    assert answers[3].reason is Reason.STOPPED
    assert isinstance(answers[5], Granted)
    assert not changes.balances
    assert not changes.terms
    assert [(b.name, b.limit, b.held, b.state) for b in changes.new_balances] == [
        ("run:fresh/usd/lifetime", 100, 1, "open"),
        ("run:fresh/calls/lifetime", 7, 1, "open"),
    ]


@given(
    st.sampled_from(["hour", "day@Europe:Berlin", "month", "rolling-1m", "rolling-100s", "rolling-5h"]),
    st.lists(st.integers(-4_000, 100_000), max_size=4),
)
def test_an_account_that_a_batch_makes_is_not_past_in_the_same_batch(spec: str, seconds: list[int]) -> None:
    """The stores write what is past by the keys of its rows, and what is new as what counts."""
    store = opened()
    store.do(SetLimit(KEY, Unit.USD, None, spec))
    now, key = NOON, 100
    for number, more in enumerate(seconds):
        now = Instant(now + more * SECOND)
        _, changes = decide(store.books, [authorize(f"a{number}"), authorize(f"b{number}")], now)
        assert all(balance.key is not None for balance in changes.past)
        for balance in changes.new_balances:
            balance.key = key = key + 1
