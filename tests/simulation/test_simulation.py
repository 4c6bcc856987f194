"""Many gateways, one ledger, a provider with a till, and every fault we can think of: no schedule breaks the cap."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import pytest
from sim_plan import FAULTS, plan_of
from sim_world import Outcome, run_schedule

SEEDS = Path(__file__).with_name("seeds.txt")
SCHEDULES = 150
FIRST = 1


def kept_seeds() -> list[int]:
    """Give every seed that ever failed."""
    lines = SEEDS.read_text().splitlines()
    return [int(line.split()[0]) for line in lines if line and not line.startswith("#")]


@lru_cache(maxsize=SCHEDULES)
def outcome_of(seed: int) -> Outcome:
    """Run a schedule once for all tests of this file."""
    return run_schedule(plan_of(seed))


def repeat(seed: int) -> str:
    return f"python -m tests.simulation --schedules 1 --seed {seed}"


@pytest.mark.parametrize("first", range(FIRST, FIRST + SCHEDULES, 25))
def test_no_schedule_takes_more_than_the_caps_or_leaves_money_held(first: int) -> None:
    for seed in range(first, first + 25):
        outcome = outcome_of(seed)
        assert not outcome.violations, f"seed {seed}: {outcome.violations[:3]}; repeat it with: {repeat(seed)}"


@pytest.mark.parametrize("seed", kept_seeds())
def test_what_once_failed_does_not_fail_again(seed: int) -> None:
    outcome = run_schedule(plan_of(seed))
    assert not outcome.violations, f"seed {seed}: {outcome.violations[:3]}; repeat it with: {repeat(seed)}"


def test_a_seed_gives_the_same_schedule_again() -> None:
    for seed in range(FIRST, FIRST + 10):
        assert outcome_of(seed).digest == run_schedule(plan_of(seed)).digest, f"seed {seed}"


def test_the_schedules_do_what_they_are_meant_to() -> None:
    seen: dict[str, int] = {}
    faults: set[str] = set()
    for seed in range(FIRST, FIRST + SCHEDULES):
        outcome = outcome_of(seed)
        faults |= outcome.plan.faults
        for what, count in outcome.counts.items():
            seen[what] = seen.get(what, 0) + count
    assert faults == set(FAULTS)
    rare = {
        "hold captured presumed",
        "hold expired presumed",
        "hold void",
        "fenced",
        "crashes",
        "pauses",
        "unavailable",
    }
    rare |= {"denied held", "denied exhausted", "denied stopped", "left", "gone", "broken", "failed upstream_silent"}
    assert {what: seen.get(what, 0) for what in rare if seen.get(what, 0) < 5} == {}
    assert seen["dispatched"] > 5 * SCHEDULES
