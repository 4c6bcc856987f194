"""What one schedule is made of, drawn from its seed."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

FAULTS = (
    "crash",  # a gateway is killed between any two of its callbacks, and another one starts
    "pause",  # a gateway is stopped, its connection perhaps cut, and woken
    "cut",  # the database ends the session of a gateway
    "request_lost",
    "request_late",
    "reply_lost",
    "outage",  # the database is gone for a while, with everything that was under way
    "failover",  # the same, and the new primary has another clock
    "readonly",  # the database refuses to write
    "slow",
    "clock",  # the clock of the database jumps forward or back
    "leave",  # clients hang up
    "cancel",  # the task of a call is cancelled between any two callbacks of its gateway
    "limits",  # an operator raises limits, and lowers them below what is used
    "states",  # an operator stops and resumes runs
    "errors",  # the provider refuses, fails, hangs, cuts, forgets the usage
    "periods",  # budgets that come anew by calendar, and windows that roll
    "lying",  # the provider bills more than its bound
)
TEAM = "team:t"
"""Pays for every call beside its run and key."""
CALM = frozenset({"leave", "cancel", "errors"})
"""What may happen while lost wake-ups are looked for: nobody else gives money back then."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The size of the world and what happens to it."""

    seed: int
    gateways: int
    agents: int
    runs: int
    calls_per_agent: int
    storm_seconds: float
    wait_seconds_max: float
    waiters_max: int
    room: float
    """How many full calls a run's cap has room for."""
    has_spare: bool
    """Whether there is another upstream to ask when the first one fails."""
    faults: frozenset[str]
    is_watched: bool
    """Whether lost wake-ups are looked for: one gateway, no regular second tries."""

    def without(self, fault: str) -> Plan:
        """Give the same plan with one kind of fault less."""
        return replace(self, faults=self.faults - {fault})

    def smaller(self) -> list[Plan]:
        """Give plans with fewer agents, gateways and runs, the smallest first."""
        return [
            replace(self, agents=agents, gateways=gateways, runs=runs)
            for agents in (1, 2, 4, 8)
            for gateways in (1, 2, 3)
            for runs in (1, self.runs)
        ]

    def is_smaller_than(self, other: Plan) -> bool:
        """Say whether nothing of this plan is more and something is less."""
        mine, theirs = (self.agents, self.gateways, self.runs), (other.agents, other.gateways, other.runs)
        return mine != theirs and all(a <= b for a, b in zip(mine, theirs, strict=True))


def plan_of(seed: int) -> Plan:
    """Draw the plan of a seed."""
    rng = random.Random(f"{seed}/plan")
    is_watched = rng.random() < 0.15
    likely = rng.choice((0.0, 0.2, 0.5, 0.9))
    faults = frozenset(fault for fault in FAULTS if rng.random() < (likely / 2 if fault == "lying" else likely))
    agents = rng.choice((2, 4, 8, 16, 32))
    return Plan(
        seed=seed,
        gateways=1 if is_watched else rng.randint(1, 5),
        agents=agents,
        runs=rng.randint(1, 3),
        calls_per_agent=rng.randint(2, max(4, 120 // agents)),
        storm_seconds=rng.choice((5.0, 20.0, 60.0)),
        wait_seconds_max=30.0 if is_watched else rng.choice((0.0, 1.0, 5.0, 15.0)),
        waiters_max=rng.choice((2, 64, 64)),
        room=rng.choice((1.5, 4.0, 12.0, 40.0)),
        has_spare=rng.random() < 0.5,
        faults=faults & CALM if is_watched else faults,
        is_watched=is_watched,
    )
