"""Every reason for which a drill fails, each from measurements made by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bursar.drill.agents import Attempt, Outcome
from bursar.drill.places import STORE_FAULTS
from bursar.drill.report import as_json, facts
from bursar.drill.scenarios import FAULT_NAMES, KILL, SERIES, WORKER_FAULTS, Scenario, calls, dollars, with_faults
from bursar.drill.verdict import Balance, BilledCall, Look, Measured, Verdict, judge, percent_of, usd

DOLLARS = replace(dollars(1_000_000_000), agents=2)
CALLS = replace(calls(2), agents=2)

# Two calls of 50 cents and 48 cents; then both agents are told that the cap is spent.
GOOD = Measured(
    scope="run:r",
    attempts=(
        Attempt(0, 0, 200, 90, Outcome.ANSWERED, 200),
        Attempt(1, 0, 210, 95, Outcome.ANSWERED, 200),
        Attempt(0, 1, 300, 4, Outcome.EXHAUSTED, 429, "cap_exhausted"),
        Attempt(1, 1, 310, 6, Outcome.EXHAUSTED, 429, "cap_exhausted"),
    ),
    till=(BilledCall(100, 500_000_000), BilledCall(110, 480_000_000)),
    balances=(
        Balance("run:r", "usd", 1_000_000_000, 980_000_000, 0, 0),
        Balance("run:r", "calls", None, 2, 0, 0),
        Balance("key:drill", "usd", None, 980_000_000, 0, 0),
    ),
    probes=(Attempt(0, 2, 400, 2_345, Outcome.EXHAUSTED, 429, "cap_exhausted"),),
    holds_open=0,
    audit=(),
    looks=(Look(500_000_000, 700_000_000), Look(980_000_000, 980_000_000)),
    blows=(),
    seconds=3,
)


def failed(verdict: Verdict) -> list[str]:
    return [check.name for check in verdict.checks if not check.ok]


def balance(**changes: int) -> tuple[Balance, ...]:
    return (replace(GOOD.balances[0], **changes), *GOOD.balances[1:])


def test_a_storm_in_which_all_is_well_passes() -> None:
    verdict = judge(DOLLARS, GOOD)
    assert verdict.passed
    assert verdict.figures.used_before_refusal == 980_000_000
    assert verdict.figures.first_refusal_after_calls == 2
    assert verdict.figures.refusal_us_median == 2_345
    assert verdict.figures.over == 0


def test_a_cap_in_calls_is_measured_in_calls() -> None:
    verdict = judge(CALLS, GOOD)
    assert verdict.passed
    assert (verdict.figures.used, verdict.figures.cap, verdict.figures.unit) == (2, 2, "calls")


def test_one_nanodollar_over_the_cap_fails() -> None:
    till = (BilledCall(100, 500_000_000), BilledCall(110, 500_000_001))
    measured = replace(
        GOOD, till=till, balances=balance(captured=1_000_000_001), looks=(Look(1_000_000_001, 1_000_000_001),)
    )
    verdict = judge(DOLLARS, measured)
    assert failed(verdict) == ["the cap holds"]
    assert verdict.figures.over == 1
    assert verdict.figures.calls_over == 1


def test_one_call_over_the_cap_fails() -> None:
    assert failed(judge(replace(CALLS, cap_calls=1), GOOD)) == ["the cap holds"]


def test_a_cap_that_refuses_while_there_is_money_fails() -> None:
    early = tuple(replace(attempt, ended_at_us=attempt.ended_at_us - 195) for attempt in GOOD.attempts)
    verdict = judge(DOLLARS, replace(GOOD, attempts=early))
    assert failed(verdict) == ["the cap is usable"]
    assert verdict.figures.used_before_refusal == 500_000_000


def test_in_trouble_it_is_the_books_that_must_be_full() -> None:
    trouble = replace(DOLLARS, hang_up_percent=5)
    assert judge(trouble, replace(GOOD, balances=balance(captured=980_000_000))).passed
    half = replace(GOOD, till=GOOD.till[:1], looks=(), balances=balance(captured=899_999_999))
    assert failed(judge(trouble, half)) == ["the cap is usable"]
    assert judge(trouble, replace(half, balances=balance(captured=900_000_000))).passed


def test_a_cap_that_nobody_hears_of_fails() -> None:
    answered = tuple(replace(attempt, outcome=Outcome.ANSWERED) for attempt in GOOD.attempts)
    assert failed(judge(DOLLARS, replace(GOOD, attempts=answered))) == ["the cap is usable", "every agent stops"]


def test_an_agent_that_is_never_refused_fails() -> None:
    assert failed(judge(DOLLARS, replace(GOOD, attempts=GOOD.attempts[:3]))) == ["every agent stops"]


def test_an_agent_that_never_reports_fails() -> None:
    assert failed(judge(replace(DOLLARS, agents=3), GOOD)) == ["every agent stops"]


def test_a_refused_agent_that_tries_again_fails() -> None:
    again = replace(GOOD.attempts[3], ended_at_us=320)
    verdict = judge(DOLLARS, replace(GOOD, attempts=(*GOOD.attempts, again)))
    assert failed(verdict) == ["every agent stops"]
    assert verdict.figures.attempts_per_refused_agent_max == 2


def test_a_spent_cap_that_lets_somebody_through_later_fails() -> None:
    probes = (*GOOD.probes, replace(GOOD.probes[0], outcome=Outcome.ANSWERED, code=""))
    assert failed(judge(DOLLARS, replace(GOOD, probes=probes))) == ["a spent cap stays spent"]


def test_an_agent_that_gives_up_on_held_money_fails_unless_there_was_trouble() -> None:
    held = replace(GOOD.attempts[3], outcome=Outcome.HELD, code="cap_held")
    measured = replace(GOOD, attempts=(*GOOD.attempts[:3], held))
    assert failed(judge(DOLLARS, measured)) == ["every agent stops"]
    assert judge(replace(DOLLARS, hang_up_percent=5), measured).passed


def test_money_that_stays_held_fails() -> None:
    assert failed(judge(DOLLARS, replace(GOOD, balances=balance(held=1)))) == ["nothing stays held"]
    assert failed(judge(DOLLARS, replace(GOOD, holds_open=1))) == ["nothing stays held"]


def test_something_held_on_another_account_fails_too() -> None:
    balances = (*GOOD.balances[:2], replace(GOOD.balances[2], held=1))
    assert failed(judge(DOLLARS, replace(GOOD, balances=balances))) == ["nothing stays held"]


def test_books_that_do_not_balance_fail() -> None:
    verdict = judge(DOLLARS, replace(GOOD, audit=("run:r is off by 3",)))
    assert failed(verdict) == ["the books balance"]
    assert "off by 3" in next(check.found for check in verdict.checks if not check.ok)


@pytest.mark.parametrize("captured", [979_999_999, 980_000_001])
def test_books_that_differ_from_the_bill_by_a_nanodollar_fail(captured: int) -> None:
    assert failed(judge(DOLLARS, replace(GOOD, balances=balance(captured=captured)))) == ["the books equal the bill"]


def test_in_trouble_the_books_may_say_more_than_the_bill_but_never_less() -> None:
    trouble = replace(DOLLARS, hang_up_percent=5)
    assert judge(trouble, replace(GOOD, balances=balance(captured=990_000_000))).passed
    assert failed(judge(trouble, replace(GOOD, balances=balance(captured=979_999_999)))) == ["the books cover the bill"]


def test_an_overrun_fails() -> None:
    overrun = balance(captured=979_999_999, overrun=1)
    assert failed(judge(DOLLARS, replace(GOOD, balances=overrun))) == ["the books equal the bill"]
    assert failed(judge(replace(DOLLARS, hang_up_percent=5), replace(GOOD, balances=balance(overrun=1)))) == [
        "the books cover the bill"
    ]


def test_a_run_without_an_account_fails() -> None:
    assert failed(judge(DOLLARS, replace(GOOD, balances=()))) == ["the books equal the bill"]


def test_a_bill_that_was_not_covered_for_a_moment_fails() -> None:
    measured = replace(GOOD, looks=(*GOOD.looks, Look(980_000_000, 979_999_999)))
    assert failed(judge(DOLLARS, measured)) == ["the bill is covered at every look"]


@pytest.mark.parametrize("outcome", [Outcome.ERROR, Outcome.BROKEN])
def test_trouble_fails_unless_it_was_ordered(outcome: Outcome) -> None:
    measured = replace(GOOD, attempts=(replace(GOOD.attempts[0], outcome=outcome), *GOOD.attempts[1:]))
    assert failed(judge(DOLLARS, measured)) == ["no trouble but what was ordered"]
    assert judge(replace(DOLLARS, hang_up_percent=5), measured).passed


def test_a_refusal_for_another_reason_fails_even_in_trouble() -> None:
    odd = replace(GOOD.attempts[3], outcome=Outcome.REFUSED, code="unpriced")
    measured = replace(GOOD, attempts=(*GOOD.attempts[:3], odd))
    verdict = judge(replace(DOLLARS, hang_up_percent=5), measured)
    assert failed(verdict) == ["no trouble but what was ordered"]
    assert "unpriced 1x" in verdict.checks[-1].found


def test_a_call_without_an_answer_fails_even_in_trouble() -> None:
    late = (replace(GOOD.attempts[0], outcome=Outcome.TIMEOUT), *GOOD.attempts[1:])
    measured = replace(GOOD, attempts=late)
    assert failed(judge(replace(DOLLARS, hang_up_percent=5), measured)) == ["no trouble but what was ordered"]


def test_trouble_that_was_ordered_and_did_not_come_fails() -> None:
    assert failed(judge(replace(DOLLARS, blows=(KILL, KILL)), replace(GOOD, blows=(KILL,)))) == [
        "no trouble but what was ordered"
    ]


def test_amounts_are_shown_exactly_and_shares_are_never_rounded_up() -> None:
    assert usd(1_000_000_000) == "$1.00"
    assert usd(1_234_500_000) == "$1.2345"
    assert usd(1_234_567_891) == "$1.234567891"
    assert usd(0) == "$0.00"
    assert percent_of(999_999_999, 1_000_000_000) == "99.9%"
    assert percent_of(5, 0) == "0.0%"


def test_a_verdict_reads_well_and_is_complete_as_json() -> None:
    verdict = judge(replace(DOLLARS, blows=(KILL,)), replace(GOOD, blows=(KILL,)))
    lines = dict(facts(verdict))
    assert lines["cap"] == "$1.00"
    assert lines["the provider billed"] == "$0.98 for 2 calls"
    assert lines["refusals"] == "2, 1 attempt per refused agent; asked again, refused in 2.3 ms (median)"
    assert lines["first refusal"] == "after call 2, with 98.0% of the cap used"
    assert lines["trouble, by order"] == "1 kill_worker"
    document = as_json([verdict], {"seed": 7})
    assert document["passed"] is True
    assert document["settings"] == {"seed": 7}
    assert document["scenarios"][0]["figures"]["till_nanodollars"] == 980_000_000
    assert set(document["versions"]) >= {"bursar", "python"}


def test_scenarios_with_faults_order_what_was_named() -> None:
    scenario = with_faults(DOLLARS, FAULT_NAMES)
    assert scenario.hang_up_percent
    assert scenario.blows
    assert sum(fault.percent for fault in scenario.faults) < 100
    assert with_faults(DOLLARS, ()) == DOLLARS
    one = with_faults(DOLLARS, ("status_500",))
    assert [fault.status for fault in one.faults] == [500]
    assert not one.blows
    assert scenario.blows == WORKER_FAULTS
    assert with_faults(replace(DOLLARS, store="postgres"), FAULT_NAMES).blows == (*WORKER_FAULTS, *STORE_FAULTS)
    with pytest.raises(KeyError, match="gremlins"):
        with_faults(DOLLARS, ("gremlins",))


def test_the_series_tries_both_units_and_trouble() -> None:
    assert {scenario.cap_calls is None for scenario in SERIES} == {True, False}
    assert [scenario.name for scenario in SERIES if scenario.has_trouble] == ["trouble"]
    assert all(isinstance(scenario, Scenario) for scenario in SERIES)


def test_a_tiny_cap_may_be_left_partly_unused() -> None:
    assert dollars(1_000_000_000).usable_percent_min == 90
    assert dollars(200_000_000).usable_percent_min == 70
    assert dollars(10_000_000).usable_percent_min == 0
    assert dollars(0).usable_percent_min == 0
