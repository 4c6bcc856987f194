"""Folding is the replay itself: whatever does not agree is found, and the audit goes on from the base."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from ledger_kit import KEY, NOON, RUN, MemoryStore, authorize, hold_row
from test_ledger_audit import history

from bursar.clock import SECOND, Instant
from bursar.ledger.account import Amounts, Basis, Budget, HoldState, Limits, OpenScope, Settle, Unit
from bursar.ledger.audit import Base, agrees, audit, fold, forgettable, replayed_hold
from bursar.ledger.store import Entry, HoldRow

DAY = 86_400 * SECOND
USD = f"{RUN}/usd/lifetime"


def rows(store: MemoryStore) -> dict[str, HoldRow]:
    return {call: hold_row(hold) for call, hold in store.books.holds.items()}


def pages(entries: list[Entry], size: int) -> Iterator[list[Entry]]:
    return (entries[start : start + size] for start in range(0, len(entries), size))


def clean(store: MemoryStore, size: int = 4, **changes: object) -> bool:
    """Say whether the audit that forgets agrees; the one that remembers must say the same."""
    entries = [entry for entry in store.all_entries() if entry.seq not in changes.get("without", ())]
    holds = {**rows(store), **changes.get("holds", {})}
    accounts = [balance.account() for balance in store.books.names.values()]
    count = changes.get("count", len(holds))
    quarantined = changes.get("quarantined", frozenset())
    by_call = {call: row for call, row in holds.items() if row is not None}
    known = lambda calls: {call: by_call[call] for call in calls if call in by_call}  # noqa: E731
    said = agrees(pages(entries, size), known, count, accounts, quarantined, Base())
    if "count" not in changes:
        assert said == (audit(entries, accounts, by_call.values(), quarantined) == ())
    return said


@pytest.mark.parametrize("size", [1, 3, 100])
def test_an_audit_that_forgets_agrees_with_books_that_are_right(size: int) -> None:
    assert clean(history(), size)


def test_an_audit_that_forgets_sees_what_the_other_sees() -> None:
    store = history()
    row = rows(store)["c1"]
    assert not clean(store, holds={"c1": replace(row, captured=Amounts(1, 1, 1))})
    assert not clean(store, holds={"c1": replace(row, state=HoldState.VOID)})
    assert not clean(store, holds={"ghost": replace(row, call_id="ghost")})
    assert not clean(store, holds={"c1": None})
    assert not clean(store, quarantined=frozenset({"m9"}))
    assert not clean(store, count=len(rows(store)) - 1)
    for seq in range(1, len(store.lines) + 1):
        assert not clean(store, without=(seq,)), seq
    store.books.names[USD].captured += 1
    assert not clean(store)


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_folding_in_steps_comes_to_what_an_audit_comes_to(size: int) -> None:
    store = history()
    base = Base()
    booked = rows(store)
    gone: list[str] = []
    for page in pages(store.all_entries()[:-1], size):
        folded = fold(base, page, booked)
        assert folded.findings == ()
        gone += [row.call_id for row in folded.ended]
        # What a store would write and read again.
        base.accounts |= folded.accounts
        holds = base.holds | folded.holds
        base = Base(
            folded.seq,
            base.accounts,
            {call: replayed_hold(hold.to_text()) for call, hold in holds.items() if call not in gone},
            folded.quarantined,
        )
    assert len(set(gone)) == len(gone) > 5
    accounts = [balance.account() for balance in store.books.names.values()]
    left = [row for call, row in booked.items() if call not in gone]
    assert audit(store.all_entries()[-1:], accounts, left, frozenset(), base) == ()


def test_a_hold_that_is_missing_or_open_again_stops_the_folding() -> None:
    store = history()
    booked = rows(store)
    entries = store.all_entries()
    missing = {call: row for call, row in booked.items() if call != "c0"}
    assert [finding.where for finding in fold(Base(), entries, missing).findings] == ["c0"]
    again = booked | {"c0": replace(booked["c0"], state=HoldState.OPEN, settled_at=None)}
    found = fold(Base(), entries, again).findings
    assert [(finding.where, finding.what) for finding in found] == [
        ("c0", "the hold is not what its entries made of it")
    ]


def test_a_hold_that_is_booked_otherwise_is_kept_for_the_audit_to_find() -> None:
    store = history()
    booked = rows(store)
    for change in (
        {"captured": Amounts(1, 1, 1)},
        {"basis": "adjusted"},
        {"settled_at": Instant(NOON + 1)},
    ):
        folded = fold(Base(), store.all_entries(), booked | {"c0": replace(booked["c0"], **change)})
        assert folded.findings == ()
        assert "c0" in folded.holds
        assert "c0" not in {row.call_id for row in folded.ended}


def test_entries_that_do_not_agree_with_themselves_are_not_folded() -> None:
    store = history()
    entries = store.all_entries()
    assert fold(Base(), entries[:3] + entries[4:], rows(store)).findings


def days() -> tuple[MemoryStore, Base]:
    """Three days, of which the middle one has a hold that is open."""
    store = MemoryStore()
    store.do(OpenScope(KEY, "", Limits(), budgets=(Budget(Unit.USD, 90_000, "day"),)))
    for call in ("c1", "c2", "c3"):
        store.do(authorize(call, scopes=(KEY,)))
        if call != "c2":
            store.do(_settle(store, call))
        store.clock.advance(86_400)
    folded = fold(Base(), store.all_entries(), rows(store))
    assert folded.findings == ()
    assert [row.call_id for row in folded.ended] == ["c1", "c3"]
    return store, Base(folded.seq, folded.accounts, folded.holds, folded.quarantined)


def _settle(store: MemoryStore, call: str) -> Settle:
    return Settle(call, "w1", Amounts(5, 1, 5), Basis.METERED, (KEY,), Amounts(0, 0, 0))


def test_a_period_that_has_ended_is_forgotten_when_nothing_needs_it() -> None:
    store, base = days()
    past = [store.account(name) for name in base.accounts if not base.accounts[name].counts]
    assert len(past) == 2
    names, findings = forgettable(base, past, Instant(store.clock.now()))
    assert ([name.split()[0] for name in names], findings) == ([f"{KEY}/usd/day"], ())
    assert base.accounts[names[0]].captured == 5
    everything = [balance.account() for balance in store.books.names.values()]
    assert forgettable(base, everything, Instant(store.clock.now()))[0] == names
    assert forgettable(base, past, Instant(NOON)) == ([], ())


def test_a_period_that_is_not_what_the_base_says_is_a_finding_and_stays() -> None:
    store, base = days()
    past = [store.account(name) for name in base.accounts if not base.accounts[name].counts]
    wrong = [replace(account, captured=account.captured + 1) for account in past]
    names, findings = forgettable(base, wrong, Instant(store.clock.now()))
    assert names == []
    assert [finding.what for finding in findings] == ["limit, ceiling, state, held, captured, overrun differ"]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"at": Instant(NOON)}, "before that has ended"),
        ({"detail": {"limit": 1, "state": "open", "ends_at": 2**62}}, "another limit or state"),
        ({"detail": {"limit": 90_000, "state": "stopped", "ends_at": 2**62}}, "another limit or state"),
        ({"accounts": (f"{KEY}/usd/day 2026-11-23T00:00:00Z",)}, "is opened twice"),
    ],
)
def test_a_period_that_does_not_follow_the_one_before_is_found(change: dict[str, object], what: str) -> None:
    store, _ = days()
    entries = [replace(entry, **change) if entry.kind == "roll" else entry for entry in store.all_entries()]
    assert any(what in finding.what for finding in audit(entries, (), ()))


def test_a_period_that_has_ended_and_does_authorize_is_found() -> None:
    store, _ = days()
    (opening, *_) = [entry for entry in store.all_entries() if entry.kind == "authorize"]
    late = [replace(entry, accounts=opening.accounts) if entry.kind == "authorize" else entry
            for entry in store.all_entries()]  # fmt: skip
    assert any("does not count any more" in finding.what for finding in audit(late, (), ()))
