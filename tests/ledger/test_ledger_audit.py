"""The replay sees every difference between the entries and the books, and every entry that breaks a promise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from ledger_kit import KEY, PATH, RUN, MemoryStore, authorize, hold_row, opened

from bursar.ledger.account import (
    AccountState,
    Adjust,
    Amounts,
    Basis,
    ClearModel,
    Expire,
    HoldState,
    Limits,
    SetLimit,
    SetState,
    Settle,
    Unit,
    Void,
)
from bursar.ledger.audit import Finding, audit
from bursar.ledger.store import Entry

USD = f"{RUN}/usd/lifetime"


def history() -> MemoryStore:
    """Give a store on which everything has happened once."""
    store = opened(Limits(usd=50_000, calls=50, tokens=50_000))
    held = Amounts(3000, 1, 1100)

    def settle(call_id: str, usd: int | None) -> None:
        actual = None if usd is None else Amounts(usd, 1, 10)
        store.do(Settle(call_id, "w1", actual, Basis.METERED, PATH, held))

    for number in range(8):
        store.do(authorize(f"c{number}"))
    settle("c0", 20)
    settle("c1", None)
    settle("c2", 3_500)
    store.do(Void("c3", "w1", "not sent"))
    store.do(Void("tomb", "w1", "gone"))
    settle("lost", 70)
    store.do(Adjust("c1", Amounts(5, 1, 5), "invoice"))
    store.do(SetState(RUN, AccountState.OPEN))
    store.do(SetLimit(RUN, Unit.USD, 40_000))
    store.do(SetLimit(KEY, Unit.TOKENS, 9_000))
    store.dead = ("w1",)
    store.do(Expire("w1"))
    settle("c4", 10)
    store.do(Void("c5", "w1", "not sent"))
    settle("c3", 5)
    store.do(ClearModel("m1"))
    return store


def findings(
    store: MemoryStore,
    entries: Callable[[list[Entry]], list[Entry]] = lambda entries: entries,
    *,
    accounts: Callable[[list[Any]], list[Any]] = lambda accounts: accounts,
    holds: Callable[[list[Any]], list[Any]] = lambda holds: holds,
    quarantined: frozenset[str] | None = None,
) -> tuple[Finding, ...]:
    booked = [balance.account() for balance in store.books.names.values()]
    rows = [hold_row(hold) for hold in store.books.holds.values()]
    return audit(entries(store.all_entries()), accounts(booked), holds(rows), quarantined)


def test_books_that_agree_have_no_finding() -> None:
    store = history()
    assert findings(store) == ()
    assert findings(store, quarantined=frozenset()) == ()


@pytest.mark.parametrize("field", ["held", "captured", "overrun", "limit", "ceiling"])
def test_every_amount_of_an_account_is_compared(field: str) -> None:
    def change(accounts: list[Any]) -> list[Any]:
        return [replace(a, **{field: getattr(a, field) + 1}) if a.id == USD else a for a in accounts]

    assert [finding.where for finding in findings(history(), accounts=change)] == [USD]


def test_the_state_of_an_account_is_compared() -> None:
    def change(accounts: list[Any]) -> list[Any]:
        return [replace(a, state=AccountState.STOPPED) if a.id == USD else a for a in accounts]

    assert [finding.where for finding in findings(history(), accounts=change)] == [USD]


@pytest.mark.parametrize("field", ["held", "captured", "overrun"])
def test_every_amount_of_a_hold_is_compared(field: str) -> None:
    def change(holds: list[Any]) -> list[Any]:
        return [replace(h, **{field: Amounts(1, 2, 3)}) if h.call_id == "c0" else h for h in holds]

    assert [finding.where for finding in findings(history(), holds=change)] == ["c0"]


def test_the_state_and_the_accounts_of_a_hold_are_compared() -> None:
    for change in ({"state": HoldState.VOID}, {"accounts": ()}):
        found = findings(
            history(), holds=lambda holds, c=change: [replace(h, **c) if h.call_id == "c0" else h for h in holds]
        )
        assert [finding.where for finding in found] == ["c0"]


def test_what_is_missing_and_what_is_too_much_is_found() -> None:
    store = history()
    assert findings(store, accounts=lambda accounts: accounts[1:])[0].what == "the account is missing"
    assert findings(store, holds=lambda holds: holds[1:])[0].what == "the hold is missing"
    stranger = opened().account(USD)
    more = findings(store, accounts=lambda accounts: [*accounts, replace(stranger, scope="run:x")])
    assert [finding.what for finding in more] == ["no entry opened this account"]
    ghost = hold_row(store.books.holds["c0"])
    more = findings(store, holds=lambda holds: [*holds, replace(ghost, call_id="ghost")])
    assert [finding.what for finding in more] == ["no entry made this hold"]


def test_an_account_above_its_ceiling_is_found() -> None:
    store = opened(Limits(usd=10_000))
    store.do(authorize())
    store.books.names[USD].ceiling = 2_999
    assert "held and captured are above the ceiling" in [finding.what for finding in findings(store)]


def test_a_model_that_is_not_in_quarantine_any_more_is_found() -> None:
    found = findings(history(), quarantined=frozenset({"m9"}))
    assert found == (Finding("quarantine", "the models in quarantine differ", "m9", ""),)


def test_a_removed_entry_is_found() -> None:
    store = history()
    for index in range(len(store.lines)):
        found = findings(store, lambda entries, i=index: entries[:i] + entries[i + 1 :], quarantined=frozenset())
        assert found, f"entry {index + 1} was removed and nobody saw it"


def first(entries: list[Entry], kind: str) -> Entry:
    return next(entry for entry in entries if entry.kind == kind)


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("open", "opened twice"),
        ("authorize", "authorized twice"),
        ("capture", "captured twice"),
        ("void", "is voided"),
        ("expire", "is expired"),
    ],
)
def test_an_entry_that_comes_twice_is_found(kind: str, what: str) -> None:
    def again(entries: list[Entry]) -> list[Entry]:
        return [*entries, replace(first(entries, kind), seq=len(entries) + 1)]

    assert any(what in finding.what for finding in findings(history(), again))


@pytest.mark.parametrize(
    "change",
    [{"kind": "gift"}, {"kind": "adjust", "call_id": "nobody"}, {"kind": "capture", "detail": {}},
     {"kind": "state", "accounts": ("a/usd/lifetime",)}, {"kind": "capture", "detail": {"overrun": [1]}}],
)  # fmt: skip
def test_an_entry_that_makes_no_sense_is_found(change: dict[str, Any]) -> None:
    def strange(entries: list[Entry]) -> list[Entry]:
        return [*entries, replace(first(entries, "authorize"), seq=len(entries) + 1, **change)]

    assert findings(history(), strange)


def test_an_open_call_that_is_adjusted_is_found() -> None:
    store = opened()
    store.do(authorize())

    def forged(entries: list[Entry]) -> list[Entry]:
        entry = replace(entries[-1], seq=len(entries) + 1, kind="adjust", detail={"overrun": [0, 0, 0]})
        return [*entries, entry]

    assert any("open is adjusted" in finding.what for finding in findings(store, forged))


def test_an_authorize_over_the_limit_or_on_a_stopped_account_is_found() -> None:
    store = opened(Limits(usd=10_000))
    store.do(authorize("c1"))

    def lower(entries: list[Entry]) -> list[Entry]:
        return [
            replace(e, detail=e.detail | {"limits": [2_999, None]})
            if RUN in str(e.accounts) and e.kind == "open"
            else e
            for e in entries
        ]

    assert any("over its limit" in finding.what for finding in findings(store, lower))
    store.do(SetState(RUN, AccountState.STOPPED))

    def late(entries: list[Entry]) -> list[Entry]:
        return [*entries, replace(first(entries, "authorize"), seq=len(entries) + 1, call_id="c2")]

    assert any("stopped and did authorize" in finding.what for finding in findings(store, late))
