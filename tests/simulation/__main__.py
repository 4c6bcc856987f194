"""The long form: `python -m tests.simulation --schedules 10000 --seed 1`, and the way to repeat a seed that failed."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from sim_plan import Plan, plan_of
from sim_world import Outcome, run_schedule

SHOWN_MAX = 5


def shrunk(plan: Plan) -> Plan:
    """Take away every fault, and as many agents and gateways, as the failure does not need."""
    for fault in sorted(plan.faults):
        smaller = plan.without(fault)
        plan = smaller if run_schedule(smaller).violations else plan
    for smaller in plan.smaller():
        plan = smaller if smaller.is_smaller_than(plan) and run_schedule(smaller).violations else plan
    return plan


def show(outcome: Outcome, *, shrinks: bool) -> None:
    """Say what failed, and how to see it again."""
    seed = outcome.plan.seed
    print(f"seed {seed} failed ({len(outcome.violations)} violations): {outcome.plan}")
    for violation in outcome.violations[:SHOWN_MAX]:
        print(f"    {violation}")
    print(f"    again: python -m tests.simulation --schedules 1 --seed {seed}")
    if shrinks:
        small = shrunk(outcome.plan)
        print(f"    fails as well: gateways {small.gateways}, agents {small.agents}, faults {sorted(small.faults)}")


def main() -> int:
    """Run schedules; the exit status is 1 when one failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--schedules", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=1, help="the first seed; the others follow")
    parser.add_argument("--shrink", action="store_true", help="look for a smaller schedule that fails as well")
    given = parser.parse_args()
    # What the gateways log about crashes and cut connections is what was done to them.
    logging.disable(logging.CRITICAL)
    began, failed, counts = time.monotonic(), 0, dict[str, int]()
    for number in range(given.schedules):
        outcome = run_schedule(plan_of(given.seed + number))
        for what, count in outcome.counts.items():
            counts[what] = counts.get(what, 0) + count
        if outcome.violations:
            failed += 1
            show(outcome, shrinks=given.shrink)
        if (number + 1) % 500 == 0:
            seconds = time.monotonic() - began
            print(f"{number + 1} schedules in {seconds:.0f} s, {failed} failed", flush=True)
    print(f"{given.schedules} schedules from seed {given.seed}: {failed} failed")
    print(", ".join(f"{what} {count}" for what, count in sorted(counts.items())))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
