"""Batches are cut so that no call is in one twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from ledger_kit import authorize

from bursar.ledger.account import ClearModel, Operation, Void
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
