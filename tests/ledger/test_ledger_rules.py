"""What each operation may change, rule by rule."""

from __future__ import annotations

import pytest
from ledger_kit import KEY, NO_AMOUNTS, NOON, PATH, RUN, MemoryStore, an_ask, authorize, hold_row, opened

from bursar.clock import SECOND
from bursar.ledger.account import (
    AccountState,
    Adjust,
    Amounts,
    Authorize,
    Basis,
    Changed,
    ClearModel,
    Conflict,
    Denied,
    Expire,
    Granted,
    HoldState,
    Limits,
    Opened,
    OpenScope,
    Position,
    Reason,
    SetLimit,
    SetState,
    Settle,
    Settled,
    Taken,
    TooManyRuns,
    Unit,
    Void,
)
from bursar.ledger.audit import audit
from bursar.ledger.rules import plan
from bursar.money import BrokenInvariantError

USD = f"{RUN}/usd/lifetime"
CALLS = f"{RUN}/calls/lifetime"
TOKENS = f"{RUN}/tokens/lifetime"
KEY_USD = f"{KEY}/usd/lifetime"


def granted(answer: object) -> Granted:
    assert isinstance(answer, Granted), answer
    return answer


def denied(answer: object) -> Denied:
    assert isinstance(answer, Denied), answer
    return answer


def settled(answer: object) -> Settled:
    assert isinstance(answer, Settled), answer
    return answer


def settle(store: MemoryStore, call_id: str, actual: Amounts | None, **changes: object) -> object:
    held = store.books.holds[call_id].held if call_id in store.books.holds else (7, 1, 7)
    facts: dict[str, object] = {
        "worker": "w1", "basis": Basis.PRESUMED if actual is None else Basis.METERED, "scopes": PATH,
        "held": Amounts(*held),
    } | changes  # fmt: skip
    return store.do(Settle(call_id=call_id, actual=actual, **facts))  # type: ignore[arg-type]


def proven(store: MemoryStore) -> MemoryStore:
    """Give the store back when the replay of its entries agrees with its books."""
    accounts = [balance.account() for balance in store.books.names.values()]
    holds = [hold_row(hold) for hold in store.books.holds.values()]
    assert audit(store.all_entries(), accounts, holds, frozenset(store.books.quarantined)) == ()
    return store


# ---- authorize ------------------------------------------------------------------------------------------------------


def test_a_quote_is_held_on_every_account_of_every_scope() -> None:
    store = opened(Limits(usd=10_000, calls=10, tokens=5_000))
    answer = granted(store.do(authorize()))
    assert answer == Granted("c1", 1000, Amounts(3000, 1, 1100), Position(7000, 9, 3900))
    held = {name: balance.held for name, balance in store.books.names.items()}
    assert held == {KEY_USD: 3000, f"{KEY}/calls/lifetime": 1, USD: 3000, CALLS: 1, TOKENS: 1100}
    proven(store)


def test_what_nobody_limits_has_no_position() -> None:
    store = opened(Limits(calls=3))
    assert granted(store.do(authorize())).left == Position(None, 2, None)


def test_the_position_is_that_of_the_tightest_account() -> None:
    for run, key in ((10_000, 5_000), (5_000, 10_000)):
        store = opened(Limits(usd=run), Limits(usd=key))
        assert granted(store.do(authorize())).left.usd == 2_000


def test_a_refused_call_takes_nothing_anywhere() -> None:
    store = opened(Limits(usd=10_000, calls=0))
    answer = denied(store.do(authorize()))
    assert (answer.reason, answer.account, answer.asked) == (Reason.EXHAUSTED, CALLS, 1)
    assert all(b.held == 0 for b in store.books.names.values())
    assert "c1" not in store.books.holds


def test_museum_1_a_cap_of_zero_refuses_the_first_call() -> None:
    store = opened(Limits(usd=0))
    assert denied(store.do(authorize())).reason is Reason.EXHAUSTED


def test_an_unknown_scope_is_refused_and_so_is_no_scope_at_all() -> None:
    store = opened()
    answer = denied(store.do(authorize(scopes=(KEY, "run:other"))))
    assert (answer.reason, answer.scope) == (Reason.UNKNOWN_SCOPE, "run:other")
    assert denied(store.do(authorize(scopes=()))).reason is Reason.UNKNOWN_SCOPE


def test_a_scope_that_is_named_twice_is_held_once() -> None:
    store = opened()
    granted(store.do(authorize(scopes=(RUN, RUN))))
    assert store.account(USD).held == 3000
    assert granted(store.do(authorize(scopes=(RUN,)))).held.usd == 3000


@pytest.mark.parametrize("unit", ["usd", "tokens"])
def test_near_the_cap_the_bound_is_lowered_to_what_is_affordable(unit: str) -> None:
    limits = Limits(usd=1_000 + 2 * 300 + 1) if unit == "usd" else Limits(tokens=100 + 300)
    store = opened(limits)
    answer = granted(store.do(authorize()))
    assert answer.output_tokens == 300
    assert answer.held == Amounts(1600, 1, 400)


def test_a_fraction_of_a_nanodollar_is_held_whole() -> None:
    store = opened(Limits(usd=1_334))
    answer = granted(store.do(authorize(ask=an_ask(1000, each=333))))
    assert (answer.output_tokens, answer.held.usd) == (1000, 1333)
    assert store.do(authorize("c2", an_ask(1, fixed=0, each=1, floor=0))).held.usd == 1  # type: ignore[union-attr]


def test_below_the_floor_a_call_is_refused() -> None:
    store = opened(Limits(usd=1_000 + 2 * 99))
    answer = denied(store.do(authorize()))
    assert answer.reason is Reason.EXHAUSTED
    assert (answer.limit, answer.captured, answer.held, answer.asked) == (1198, 0, 0, 1200)


def test_the_floor_never_lies_above_what_is_wanted() -> None:
    store = opened(Limits(usd=1_000 + 2 * 50))
    assert granted(store.do(authorize(ask=an_ask(50, floor=100)))).output_tokens == 50


def test_a_call_that_may_not_be_lowered_is_refused_whole() -> None:
    store = opened(Limits(usd=1_000 + 2 * 999))
    assert denied(store.do(authorize(ask=an_ask(1000, floor=1000)))).reason is Reason.EXHAUSTED


def test_what_others_hold_is_waited_for() -> None:
    store = opened(Limits(usd=3_400))
    granted(store.do(authorize("c1")))
    answer = denied(store.do(authorize("c2")))
    assert (answer.reason, answer.account, answer.held, answer.asked) == (Reason.HELD, USD, 3000, 2000)


def test_a_bound_of_the_client_is_kept_while_it_can_come_free() -> None:
    store = opened(Limits(usd=5_900))
    granted(store.do(authorize("c1")))
    assert denied(store.do(authorize("c2", an_ask(bounded=True)))).asked == 3000
    assert granted(store.do(authorize("c3", an_ask(bounded=False)))).output_tokens == 500


def test_a_bound_of_the_client_that_can_never_be_paid_is_lowered() -> None:
    store = opened(Limits(usd=2_600))
    assert granted(store.do(authorize(ask=an_ask(bounded=True)))).output_tokens == 800 - 300


def test_the_last_try_takes_what_is_there_down_to_the_floor() -> None:
    store = opened(Limits(usd=3_000 + 1_200))
    granted(store.do(authorize("c1")))
    assert denied(store.do(authorize("c2"))).reason is Reason.HELD
    assert granted(store.do(authorize("c2", is_last_try=True))).output_tokens == 100
    assert denied(store.do(authorize("c3", is_last_try=True))).reason is Reason.HELD


def test_one_large_bound_takes_a_part_only_of_what_is_left() -> None:
    store = opened(Limits(usd=1_000 + 2 * 10_000))
    answer = granted(store.do(authorize(ask=an_ask(50_000))))
    assert answer.output_tokens == 2_500
    assert granted(store.do(authorize("c2", an_ask(50_000)))).output_tokens == (20_000 + 1_000 - 6_000 - 1_000) // 8


def test_a_part_is_at_least_the_comfort() -> None:
    store = opened(Limits(usd=1_000 + 2 * 900))
    assert granted(store.do(authorize(ask=an_ask(50_000)))).output_tokens == 500


def test_a_call_without_output_is_held_at_its_fixed_cost() -> None:
    store = opened(Limits(usd=1_000, tokens=100))
    ask = an_ask(0, comfort=0, floor=0)
    assert granted(store.do(authorize(ask=ask))).held == Amounts(1000, 1, 100)
    assert denied(store.do(authorize("c2", ask))).reason is Reason.HELD
    settle(store, "c1", Amounts(1000, 1, 100))
    assert denied(store.do(authorize("c3", ask))).reason is Reason.EXHAUSTED


def test_museum_28_what_costs_nothing_is_not_blocked_by_a_spent_cap() -> None:
    store = opened(Limits(usd=3_000, calls=10))
    granted(store.do(authorize("c1")))
    settle(store, "c1", None)
    store.do(SetLimit(RUN, Unit.USD, 5))
    free = an_ask(fixed=0, each=0)
    assert granted(store.do(authorize("c2", free))).held == Amounts(0, 1, 1100)
    store.do(SetLimit(RUN, Unit.CALLS, 2))
    assert denied(store.do(authorize("c3", free))).account == CALLS
    proven(store)


def test_free_input_with_paid_output_gets_no_output_at_a_spent_cap() -> None:
    store = opened(Limits(usd=100))
    store.do(SetLimit(RUN, Unit.USD, 0))
    assert denied(store.do(authorize(ask=an_ask(fixed=0)))).reason is Reason.EXHAUSTED
    assert granted(store.do(authorize(ask=an_ask(fixed=0, floor=0)))).output_tokens == 0


def test_a_free_call_is_bounded_by_the_tokens_that_are_left() -> None:
    store = opened(Limits(usd=0, tokens=300))
    assert granted(store.do(authorize(ask=an_ask(fixed=0, each=0)))).output_tokens == 200


def test_a_limit_of_calls_near_its_end_does_not_lower_the_bound() -> None:
    store = opened(Limits(usd=2_600, calls=1))
    assert granted(store.do(authorize(ask=an_ask()))).output_tokens == 500


def test_every_choice_counts_in_tokens() -> None:
    store = opened(Limits(tokens=100 + 4 * 250))
    answer = granted(store.do(authorize(ask=an_ask(choices=4))))
    assert (answer.output_tokens, answer.held.tokens) == (250, 1100)


def test_an_account_without_limit_ends_where_the_database_cannot_count() -> None:
    store = opened(Limits())
    granted(store.do(authorize("c1", an_ask(0, fixed=2**63 - 1000))))
    assert denied(store.do(authorize("c2"))).reason is Reason.HELD
    with pytest.raises(BrokenInvariantError, match="counted"):
        store.do(authorize("c3", an_ask(0, fixed=0, tokens_fixed=2**63)))


def test_nothing_negative_is_asked() -> None:
    store = opened()
    with pytest.raises(BrokenInvariantError, match="I0"):
        store.do(authorize(ask=an_ask(fixed=-1)))


@pytest.mark.parametrize(("state", "reason"), [("stopped", Reason.STOPPED), ("overrun", Reason.OVERRUN)])
def test_a_scope_that_was_stopped_authorizes_nothing(state: str, reason: Reason) -> None:
    store = opened()
    changed = store.do(SetState(RUN, AccountState(state)))
    assert isinstance(changed, Changed)
    assert [account.state for account in changed.accounts] == [state, state]
    assert denied(store.do(authorize())).reason is reason
    store.do(SetState(RUN, AccountState.OPEN))
    granted(store.do(authorize()))
    proven(store)


def test_refusals_are_counted_on_the_run_but_not_the_waiting() -> None:
    store = opened(Limits(calls=1))
    counted: list[object] = []

    def refused(op: Authorize) -> None:
        counted.append(plan(store.books, op, NOON).refused)

    granted(store.do(authorize("c1")))
    refused(authorize("c2"))
    refused(authorize("c2", is_last_try=True))
    assert counted == [(), (RUN,)]


# ---- authorize again ------------------------------------------------------------------------------------------------


def test_a_repeated_authorize_gives_the_same_hold_and_takes_nothing_more() -> None:
    store = opened()
    first = granted(store.do(authorize()))
    again = granted(store.do(authorize(is_last_try=True)))
    assert (again, store.account(USD).held) == (first, 3000)


def test_a_repeated_authorize_tells_how_its_hold_has_ended() -> None:
    store = opened()
    store.do(authorize())
    settle(store, "c1", None)
    assert granted(store.do(authorize())).state is HoldState.CAPTURED


@pytest.mark.parametrize(
    "changes",
    [{"worker": "w2"}, {"scopes": (RUN,)}, {"model": "m2"}, {"upstream": "x"}, {"ask": an_ask(fixed=1)},
     {"ask": an_ask(500)}],
)  # fmt: skip
def test_a_call_id_with_other_facts_is_a_conflict(changes: dict[str, object]) -> None:
    store = opened()
    store.do(authorize())
    assert isinstance(store.do(authorize(**changes)), Conflict)
    assert store.account(USD).held == 3000


def test_a_repeated_authorize_with_a_higher_bound_is_the_same_call_when_it_was_lowered() -> None:
    store = opened(Limits(usd=1_600))
    assert granted(store.do(authorize())).output_tokens == 300
    assert granted(store.do(authorize())).output_tokens == 300


# ---- settle ---------------------------------------------------------------------------------------------------------


def test_a_settlement_frees_what_was_not_used() -> None:
    store = opened(Limits(usd=10_000, calls=10, tokens=5_000))
    store.do(authorize())
    assert settle(store, "c1", Amounts(20, 1, 30)) == Settled("c1", HoldState.CAPTURED, Amounts(20, 1, 30), NO_AMOUNTS)
    run = store.account(USD)
    assert (run.held, run.captured, run.overrun) == (0, 20, 0)
    assert store.account(CALLS).captured == 1
    assert store.account(TOKENS).captured == 30
    proven(store)


def test_unknown_cost_is_charged_whole() -> None:
    store = opened()
    store.do(authorize())
    assert settled(settle(store, "c1", None)).captured == Amounts(3000, 1, 1100)
    assert store.books.holds["c1"].basis == "presumed"


def test_a_repeated_settlement_is_no_second_charge() -> None:
    for actual in (Amounts(20, 1, 30), None, Amounts(9_000, 1, 5)):
        store = opened()
        store.do(authorize())
        settle(store, "c1", actual)
        before = store.account(USD)
        assert settled(settle(store, "c1", actual)).repeated
        assert store.account(USD) == before
        proven(store)


def test_another_amount_for_a_settled_call_is_a_conflict() -> None:
    store = opened()
    store.do(authorize())
    settle(store, "c1", Amounts(20, 1, 30))
    assert isinstance(settle(store, "c1", Amounts(21, 1, 30)), Conflict)
    assert store.account(USD).captured == 20


@pytest.mark.parametrize("actual", [Amounts(3_500, 1, 10), Amounts(10, 1, 1_101)])
def test_museum_8_and_18_an_overrun_is_booked_in_full_and_stops_the_run_and_the_model(actual: Amounts) -> None:
    store = opened(Limits(usd=3_100, calls=10, tokens=1_200))
    store.do(OpenScope("run:r2", KEY, Limits(usd=10_000)))
    store.do(authorize())
    answer = settled(settle(store, "c1", actual))
    assert answer.overrun == Amounts(max(0, actual.usd - 3000), 0, max(0, actual.tokens - 1100))
    for name in (USD, CALLS, TOKENS):
        assert store.account(name).state is AccountState.OVERRUN
    assert store.account(KEY_USD).state is AccountState.OPEN
    assert store.account(KEY_USD).captured + store.account(KEY_USD).overrun == actual.usd
    assert denied(store.do(authorize("c2", model="m2"))).reason is Reason.OVERRUN
    quarantined = denied(store.do(authorize("c3", scopes=(KEY, "run:r2"))))
    assert (quarantined.reason, quarantined.scope) == (Reason.QUARANTINED, "model:m1")
    granted(store.do(authorize("c4", scopes=(KEY, "run:r2"), model="m2")))
    assert store.do(ClearModel("m1")) == Changed(count=1)
    assert store.do(ClearModel("m1")) == Changed(count=0)
    granted(store.do(authorize("c5", scopes=(KEY, "run:r2"))))
    proven(store)


def test_a_second_overrun_of_a_model_quarantines_it_once() -> None:
    store = opened()
    store.do(authorize("c1"))
    store.do(authorize("c2"))
    settle(store, "c1", Amounts(4_000, 1, 0))
    settle(store, "c2", Amounts(4_000, 1, 0))
    assert [line.kind for line in store.lines].count("quarantine") == 1
    proven(store)


def test_an_overrun_leaves_a_run_that_an_operator_stopped_as_it_is() -> None:
    store = opened()
    store.do(authorize())
    store.do(SetState(RUN, AccountState.STOPPED))
    settle(store, "c1", Amounts(4_000, 1, 0))
    assert store.account(USD).state is AccountState.STOPPED
    proven(store)


def test_an_overrun_is_refused_as_spent_money() -> None:
    store = opened(Limits(usd=3_100, calls=10))
    store.do(authorize())
    settle(store, "c1", Amounts(4_000, 1, 0))
    store.do(SetState(RUN, AccountState.OPEN))
    answer = denied(store.do(authorize("c2", model="m2")))
    assert (answer.reason, answer.captured, answer.limit) == (Reason.EXHAUSTED, 4_000, 3_100)


def test_an_overrun_leaves_less_for_the_other_runs_of_the_key() -> None:
    store = opened(Limits(usd=10_000), Limits(usd=10_000))
    store.do(OpenScope("run:r2", KEY, Limits()))
    store.do(authorize("c1"))
    settle(store, "c1", Amounts(6_000, 1, 0))
    path = (KEY, "run:r2")
    granted(store.do(authorize("c2", scopes=path, model="m2")))
    answer = denied(store.do(authorize("c3", scopes=path, model="m2")))
    assert (answer.reason, answer.account, answer.captured, answer.held) == (Reason.HELD, KEY_USD, 6_000, 3_000)
    settle(store, "c2", None, scopes=path)
    assert denied(store.do(authorize("c3", scopes=path, model="m2"))).reason is Reason.EXHAUSTED


def test_a_settlement_of_a_call_that_the_store_lost_is_booked_as_overrun() -> None:
    store = opened()
    answer = settled(settle(store, "lost", Amounts(500, 1, 60)))
    assert (answer.captured, answer.overrun) == (NO_AMOUNTS, Amounts(500, 1, 60))
    assert (store.account(USD).overrun, store.account(USD).state) == (500, AccountState.OVERRUN)
    assert settled(settle(store, "lost", Amounts(500, 1, 60))).repeated
    assert store.account(USD).overrun == 500
    proven(store)


def test_a_presumed_settlement_of_a_lost_call_books_what_was_held() -> None:
    store = opened()
    assert settled(settle(store, "lost", None)).overrun == Amounts(7, 1, 7)
    proven(store)


def test_a_lost_call_that_cost_nothing_stops_nothing() -> None:
    store = opened()
    settle(store, "lost", NO_AMOUNTS)
    assert store.account(USD).state is AccountState.OPEN
    proven(store)


def test_a_settlement_on_a_scope_that_the_store_lost_opens_it_with_nothing_to_spend() -> None:
    store = opened()
    settle(store, "lost", Amounts(500, 1, 60), scopes=(KEY, "run:lost"))
    lost = store.account("run:lost/usd/lifetime")
    assert (lost.limit, lost.overrun, lost.state) == (0, 500, AccountState.OVERRUN)
    assert denied(store.do(authorize("c1", scopes=(KEY, "run:lost")))).reason is Reason.OVERRUN
    assert store.do(OpenScope("run:lost", KEY, Limits(usd=1))) == Taken("run:lost", "")
    proven(store)


def test_a_negative_or_uncountable_amount_is_never_booked() -> None:
    for actual in (Amounts(-1, 1, 0), Amounts(0, 1, 2**63)):
        store = opened()
        store.do(authorize())
        with pytest.raises(BrokenInvariantError, match="I0"):
            settle(store, "c1", actual)
        # Nobody spends on an account whose books may be wrong.
        assert store.account(USD).state is AccountState.STOPPED
        assert store.account(USD).held == 3000
        proven(store)


# ---- void -----------------------------------------------------------------------------------------------------------


def test_a_void_gives_everything_back_the_call_too() -> None:
    store = opened()
    store.do(authorize())
    assert store.do(Void("c1", "w1", "not sent")) == Settled("c1", HoldState.VOID, NO_AMOUNTS, NO_AMOUNTS)
    assert store.account(USD).held == store.account(CALLS).held == 0
    assert settled(store.do(Void("c1", "w1", "not sent"))).repeated
    proven(store)


def test_only_its_own_worker_voids_a_hold() -> None:
    store = opened()
    store.do(authorize())
    assert isinstance(store.do(Void("c1", "w2", "not sent")), Conflict)
    assert store.account(USD).held == 3000


def test_a_captured_call_is_not_voided() -> None:
    store = opened()
    store.do(authorize())
    settle(store, "c1", None)
    assert isinstance(store.do(Void("c1", "w1", "not sent")), Conflict)


def test_a_void_of_an_unknown_call_keeps_a_late_authorize_from_being_granted() -> None:
    store = opened()
    assert settled(store.do(Void("c1", "w1", "gone"))).state is HoldState.VOID
    assert settled(store.do(Void("c1", "w1", "gone"))).repeated
    assert isinstance(store.do(authorize()), Conflict)
    assert store.account(USD).held == 0
    proven(store)


@pytest.mark.parametrize("actual", [None, Amounts(40, 1, 4)])
def test_a_settlement_after_a_void_is_booked_as_overrun(actual: Amounts | None) -> None:
    store = opened()
    store.do(authorize())
    store.do(Void("c1", "w1", "not sent"))
    assert settled(settle(store, "c1", actual)).overrun == (actual or Amounts(3000, 1, 1100))
    assert settled(settle(store, "c1", actual)).repeated
    proven(store)


@pytest.mark.parametrize("actual", [None, Amounts(40, 1, 4)])
def test_a_settlement_after_a_tombstone_is_booked_as_overrun(actual: Amounts | None) -> None:
    store = opened()
    store.do(Void("c1", "w1", "gone"))
    held = Amounts(50, 1, 5)
    assert settled(settle(store, "c1", actual, held=held)).overrun == (actual or held)
    proven(store)


# ---- expire ---------------------------------------------------------------------------------------------------------


def expired() -> MemoryStore:
    store = opened()
    store.do(authorize("c1"))
    store.do(authorize("c2", worker="w2"))
    store.dead = ("w1",)
    return store


def test_museum_26_the_holds_of_a_dead_worker_are_captured_whole_and_no_others() -> None:
    store = expired()
    assert store.do(Expire("w1")) == Changed(count=1, calls=("c1",))
    assert store.do(Expire("w1")) == Changed(count=0)
    run = store.account(USD)
    assert (run.held, run.captured) == (3000, 3000)
    assert store.books.holds["c1"].state == "expired"
    proven(store)


def test_a_worker_that_lives_is_not_expired() -> None:
    store = expired()
    assert isinstance(store.do(Expire("w2")), Conflict)
    assert store.account(USD).captured == 0


def test_a_worker_that_was_declared_dead_gets_no_new_hold() -> None:
    store = expired()
    store.do(Expire("w1"))
    assert isinstance(store.do(authorize("c3")), Conflict)
    granted(store.do(authorize("c4", worker="w2")))


def test_late_truth_lowers_the_capture_of_an_expired_hold() -> None:
    store = expired()
    store.do(Expire("w1"))
    assert settled(settle(store, "c1", Amounts(100, 1, 10), worker="w1+")).captured == Amounts(100, 1, 10)
    assert store.account(USD).captured == 100
    assert settled(settle(store, "c1", Amounts(100, 1, 10), worker="w1+")).repeated
    proven(store)


def test_late_truth_above_an_expired_hold_is_overrun() -> None:
    store = expired()
    store.do(Expire("w1"))
    assert settled(settle(store, "c1", Amounts(3_100, 1, 10), worker="w1+")).overrun.usd == 100
    assert (store.account(USD).captured, store.account(USD).overrun) == (3000, 100)
    proven(store)


def test_a_late_presumption_changes_nothing() -> None:
    store = expired()
    store.do(Expire("w1"))
    assert settled(settle(store, "c1", None, worker="w1+")) == Settled(
        "c1", HoldState.EXPIRED, Amounts(3000, 1, 1100), NO_AMOUNTS, repeated=True
    )


def test_a_worker_that_was_declared_dead_ends_nothing_under_its_old_name() -> None:
    store = expired()
    store.do(Expire("w1"))
    before = proven(store).account(USD)
    for operation in (Void("c1", "w1", "never dispatched"), Void("new", "w1", "never dispatched")):
        answer = store.do(operation)
        assert isinstance(answer, Conflict)
        assert answer.fenced
    answer = settle(store, "c1", Amounts(100, 1, 10))
    assert isinstance(answer, Conflict)
    assert answer.fenced
    assert store.account(USD) == before
    assert "new" not in store.books.holds


def test_an_expired_hold_is_not_voided_any_more() -> None:
    store = expired()
    store.do(Expire("w1"))
    # As if the fence had been lost.
    store.books.fenced.clear()
    assert isinstance(store.do(Void("c1", "w1", "never dispatched")), Conflict)
    proven(store)


# ---- adjust ---------------------------------------------------------------------------------------------------------


def test_evidence_lowers_a_presumed_capture() -> None:
    store = opened()
    store.do(authorize())
    settle(store, "c1", None)
    adjustment = Adjust("c1", Amounts(500, 1, 50), "invoice 7")
    assert settled(store.do(adjustment)).captured == Amounts(500, 1, 50)
    assert settled(store.do(adjustment)).repeated
    assert (store.books.holds["c1"].basis, store.books.holds["c1"].why) == ("adjusted", "invoice 7")
    assert settled(settle(store, "c1", None)).repeated
    assert store.account(USD).captured == 500
    proven(store)


def test_evidence_that_raises_a_capture_is_debt() -> None:
    store = opened(Limits(usd=6_000))
    store.do(authorize("c1"))
    settle(store, "c1", Amounts(500, 1, 50))
    store.do(authorize("c2"))
    answer = settled(store.do(Adjust("c1", Amounts(5_000, 1, 50), "invoice 7")))
    assert (answer.captured.usd, answer.overrun.usd) == (500, 4_500)
    assert store.account(USD).state is AccountState.OPEN
    store.do(Adjust("c1", Amounts(400, 1, 50), "invoice 8"))
    assert (store.account(USD).captured, store.account(USD).overrun) == (400, 0)
    proven(store)


def test_only_a_settled_call_is_adjusted() -> None:
    store = opened()
    store.do(authorize("c1"))
    store.do(Void("tomb", "w1", "gone"))
    for call_id in ("c1", "unknown", "tomb"):
        assert isinstance(store.do(Adjust(call_id, Amounts(1, 1, 1), "x")), Conflict)


def test_expired_and_voided_calls_are_adjusted_too() -> None:
    store = expired()
    store.do(Expire("w1"))
    store.do(Adjust("c1", Amounts(10, 1, 1), "log"))
    store.do(Void("c2", "w2", "not sent"))
    store.do(Adjust("c2", Amounts(20, 1, 2), "log"))
    run = store.account(USD)
    assert (run.held, run.captured, run.overrun) == (0, 10, 20)
    proven(store)


# ---- scopes, limits -------------------------------------------------------------------------------------------------


def test_museum_11_a_scope_is_opened_once_and_keeps_its_limits() -> None:
    store = opened(Limits(usd=10_000))
    store.do(authorize())
    again = store.do(OpenScope(RUN, KEY, Limits(usd=999_999)))
    assert isinstance(again, Opened)
    assert not again.created
    assert again.accounts[0].limit == 10_000
    assert again.accounts[0].held == 3000


def test_a_run_of_another_key_is_taken() -> None:
    store = opened()
    assert store.do(OpenScope(RUN, "key:other", Limits())) == Taken(RUN, KEY)


def test_tokens_are_counted_when_they_are_limited() -> None:
    store = opened()
    assert TOKENS not in store.books.names
    granted(store.do(authorize("c1")))
    changed = store.do(SetLimit(RUN, Unit.TOKENS, 1_500))
    assert isinstance(changed, Changed)
    assert [(a.unit, a.limit) for a in changed.accounts] == [("usd", 10_000), ("calls", 10), ("tokens", 1_500)]
    granted(store.do(authorize("c2")))
    assert store.account(TOKENS).held == 1_100
    settle(store, "c1", None)
    assert store.account(TOKENS).captured == 0
    proven(store)


@pytest.mark.parametrize("limits", [Limits(usd=-1), Limits(calls=2**63)])
def test_a_limit_is_never_negative_nor_uncountable(limits: Limits) -> None:
    store = MemoryStore()
    with pytest.raises(BrokenInvariantError, match="I0"):
        store.do(OpenScope(RUN, KEY, limits))
    with pytest.raises(BrokenInvariantError, match="I0"):
        opened().do(SetLimit(RUN, Unit.USD, -5))


def test_an_agent_that_renames_itself_runs_out_of_runs() -> None:
    store = MemoryStore()
    for number in range(3):
        answer = store.do(OpenScope(f"run:{number}", KEY, Limits(), runs_per_hour_max=3))
        assert isinstance(answer, Opened)
        store.clock.advance(60)
    refused = store.do(OpenScope("run:3", KEY, Limits(), runs_per_hour_max=3))
    assert refused == TooManyRuns(KEY, 3, NOON + 3600 * SECOND)
    assert isinstance(store.do(OpenScope("run:2", KEY, Limits(), runs_per_hour_max=3)), Opened)
    assert isinstance(store.do(OpenScope("run:3", "key:other", Limits(), runs_per_hour_max=3)), Opened)
    store.clock.advance(3600 - 180)
    assert isinstance(store.do(OpenScope("run:4", KEY, Limits(), runs_per_hour_max=3)), Opened)
    assert isinstance(store.do(OpenScope("run:5", KEY, Limits(), runs_per_hour_max=0)), TooManyRuns)


def test_museum_32_a_lower_limit_counts_from_the_next_call_on() -> None:
    store = opened(Limits(usd=10_000))
    store.do(authorize("c1"))
    changed = store.do(SetLimit(RUN, Unit.USD, 100))
    assert isinstance(changed, Changed)
    assert (changed.accounts[0].limit, changed.accounts[0].ceiling) == (100, 3000)
    assert denied(store.do(authorize("c2"))).reason is Reason.EXHAUSTED
    settle(store, "c1", Amounts(3000, 1, 0))
    assert store.account(USD).captured == 3000
    store.do(SetLimit(RUN, Unit.USD, 20_000))
    granted(store.do(authorize("c2")))
    store.do(SetLimit(RUN, Unit.USD, None))
    assert (store.account(USD).limit, store.account(USD).ceiling) == (None, None)
    proven(store)


def test_a_limit_or_a_state_of_nobody_is_a_conflict() -> None:
    store = opened()
    assert isinstance(store.do(SetLimit("run:x", Unit.USD, 1)), Conflict)
    assert isinstance(store.do(SetState("run:x", AccountState.STOPPED)), Conflict)


# ---- broken invariants ----------------------------------------------------------------------------------------------


def test_books_that_were_tampered_with_stop_the_account() -> None:
    store = opened()
    store.do(authorize())
    store.books.names[USD].held = 5
    with pytest.raises(BrokenInvariantError, match="I1"):
        settle(store, "c1", NO_AMOUNTS)
    assert store.account(USD).state is AccountState.STOPPED


def test_a_ceiling_below_what_is_held_stops_the_account() -> None:
    store = opened()
    store.books.names[USD].ceiling = 10
    with pytest.raises(BrokenInvariantError, match="I2"):
        store.do(authorize())
    assert store.account(CALLS).state is AccountState.STOPPED
