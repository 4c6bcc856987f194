"""From what was measured in a storm to pass or fail, with the evidence; pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from bursar.drill.agents import Attempt, Outcome
from bursar.drill.scenarios import Scenario

_REFUSALS = (Outcome.EXHAUSTED, Outcome.HELD, Outcome.REFUSED)
_TROUBLE = (Outcome.ERROR, Outcome.BROKEN)


@dataclass(frozen=True, slots=True)
class Balance:
    """One account of the gateway when the storm is over, in its own unit."""

    scope: str
    unit: str
    limit: int | None
    captured: int
    held: int
    overrun: int


@dataclass(frozen=True, slots=True)
class Look:
    """The till, and right after it what the gateway had booked and held for the run, in nanodollars."""

    till: int
    booked: int
    at_us: int = 0
    used: int = 0
    """Of the cap, as the till has it, in the unit of the cap; so are the next two."""
    captured: int | None = None
    held: int | None = None
    """None where the books of the gateway are not seen; then `booked` says nothing either."""
    in_flight: int = 0
    refusals: int = 0


@dataclass(frozen=True, slots=True)
class Struck:
    """What befell workers or store, from when until it was over, in microseconds since 1970."""

    name: str
    from_us: int
    to_us: int


@dataclass(frozen=True, slots=True)
class BilledCall:
    """One line of the provider's till."""

    at_us: int
    nanodollars: int


@dataclass(frozen=True, slots=True)
class Measured:
    """Everything that a storm left behind."""

    scope: str
    """The scope of the run, as the gateway's accounts name it."""
    attempts: tuple[Attempt, ...]
    probes: tuple[Attempt, ...]
    """What refused agents got that asked once more when all was quiet."""
    till: tuple[BilledCall, ...]
    balances: tuple[Balance, ...]
    holds_open: int
    audit: tuple[str, ...]
    """What the replay of the books found wrong."""
    looks: tuple[Look, ...]
    blows: tuple[str, ...]
    """What befell workers and store."""
    seconds: int
    holds_expired: int = 0
    """Holds of workers that were declared dead, captured whole."""
    began_at_us: int = 0
    struck: tuple[Struck, ...] = ()
    """The blows, with their times."""
    has_books: bool = True
    """Whether the gateway's books were seen; else balances, holds and audit say nothing."""

    @property
    def till_nanodollars(self) -> int:
        """Give what the provider bills for the storm."""
        return sum(line.nanodollars for line in self.till)

    def balance(self, unit: str) -> Balance:
        """Give the run's account in this unit; an account that is missing counts as empty."""
        for balance in self.balances:
            if balance.scope == self.scope and balance.unit == unit:
                return balance
        return Balance(self.scope, unit, None, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must be so, and what was found."""

    name: str
    ok: bool
    found: str


@dataclass(frozen=True, slots=True)
class Figures:
    """The numbers that people ask for."""

    cap: int
    unit: str
    """`usd` (then all amounts are nanodollars) or `calls`."""
    till_calls: int
    till_nanodollars: int
    used: int
    """Of the cap, in its unit, as the till has it."""
    over: int
    calls_over: int
    used_before_refusal: int | None
    """What the till had, in the unit of the cap, when the first call was refused because the cap was spent."""
    first_refusal_after_calls: int | None
    refusals: int
    refusal_us_median: int | None
    """Of refused agents that asked again when all was quiet; in the storm a refusal may wait its turn first."""
    attempts_per_refused_agent_max: int
    held: int
    """Nanodollars that are still held when nothing is in flight."""
    holds_open: int
    captured_nanodollars: int
    overrun_nanodollars: int
    outcomes: dict[str, int]
    codes: dict[str, int]
    blows: dict[str, int]
    seconds: int
    holds_expired: int = 0
    """Of workers that were declared dead, captured whole."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Pass or fail of one scenario."""

    scenario: Scenario
    figures: Figures
    checks: tuple[Check, ...]
    measured: Measured
    """What it was judged from."""

    @property
    def passed(self) -> bool:
        """Whether everything was as it must be."""
        return all(check.ok for check in self.checks)


def judge(scenario: Scenario, measured: Measured) -> Verdict:
    """Compare what was measured with what the cap promises."""
    figures = _figures(scenario, measured)
    of_the_books = (
        _nothing_is_held(measured, figures),
        _books_balance(measured),
        _captured_is_billed(scenario, figures),
        _always_covered(measured),
    )
    checks = (
        _cap_holds(figures),
        _cap_is_usable(scenario, measured, figures),
        _agents_stop(scenario, measured, figures),
        _spent_stays_spent(measured),
        *(of_the_books if measured.has_books else ()),
        _nothing_unordered(scenario, measured),
    )
    return Verdict(scenario, figures, checks, measured)


# ---- figures --------------------------------------------------------------------------------------------------------


def _figures(scenario: Scenario, measured: Measured) -> Figures:
    in_calls = scenario.cap_calls is not None
    cap = scenario.cap_calls if scenario.cap_calls is not None else scenario.cap_nanodollars or 0
    used = len(measured.till) if in_calls else measured.till_nanodollars
    exhausted = [attempt for attempt in measured.attempts if attempt.outcome is Outcome.EXHAUSTED]
    first = min((attempt.ended_at_us for attempt in exhausted), default=None)
    before = [line for line in measured.till if first is not None and line.at_us <= first]
    refused = sorted(attempt.took_us for attempt in measured.probes)
    account = measured.balance("usd")
    return Figures(
        cap=cap,
        unit="calls" if in_calls else "usd",
        till_calls=len(measured.till),
        till_nanodollars=measured.till_nanodollars,
        used=used,
        over=max(0, used - cap),
        calls_over=max(0, used - cap) if in_calls else _calls_over(measured.till, cap),
        used_before_refusal=None if first is None else _size(before, in_calls),
        first_refusal_after_calls=None if first is None else len(before),
        refusals=sum(attempt.outcome in _REFUSALS for attempt in measured.attempts),
        refusal_us_median=refused[len(refused) // 2] if refused else None,
        attempts_per_refused_agent_max=_attempts_max(exhausted),
        held=sum(
            balance.held for balance in measured.balances if balance.unit == "usd" and balance.scope == measured.scope
        ),
        holds_open=measured.holds_open,
        captured_nanodollars=account.captured,
        overrun_nanodollars=account.overrun,
        outcomes=dict(Counter(str(attempt.outcome) for attempt in measured.attempts)),
        codes=dict(Counter(attempt.code for attempt in measured.attempts if attempt.code)),
        blows=dict(Counter(measured.blows)),
        seconds=measured.seconds,
        holds_expired=measured.holds_expired,
    )


def _size(lines: Sequence[BilledCall], in_calls: bool) -> int:
    return len(lines) if in_calls else sum(line.nanodollars for line in lines)


def _calls_over(till: Sequence[BilledCall], cap: int) -> int:
    """Count the calls that were billed when, or after, the till passed the cap."""
    total = over = 0
    for line in sorted(till, key=lambda line: line.at_us):
        total += line.nanodollars
        over += total > cap
    return over


def _attempts_max(exhausted: Sequence[Attempt]) -> int:
    per_call = Counter((attempt.agent, attempt.call) for attempt in exhausted)
    return max(per_call.values(), default=0)


# ---- checks ---------------------------------------------------------------------------------------------------------


def _cap_holds(figures: Figures) -> Check:
    found = "not passed" if not figures.over else f"passed by {shown(figures.over, figures.unit)}"
    return Check("the cap holds", figures.over == 0, found)


def _cap_is_usable(scenario: Scenario, measured: Measured, figures: Figures) -> Check:
    name = "the cap is usable"
    if figures.used_before_refusal is None:
        return Check(name, False, "no agent was ever told that the cap is spent")
    if scenario.has_trouble:
        # What cannot be known is booked whole, so it is the books that have to be full when a call is refused.
        booked = measured.balance(figures.unit).captured
        enough = booked * 100 >= scenario.usable_percent_min * figures.cap
        found = f"{percent_of(booked, figures.cap)} booked when all is over"
        return Check(name, enough, f"{found}, at least {scenario.usable_percent_min}% wanted")
    percent = percent_of(figures.used_before_refusal, figures.cap)
    enough = figures.used_before_refusal * 100 >= scenario.usable_percent_min * figures.cap
    return Check(
        name, enough, f"{percent} used before the first refusal, at least {scenario.usable_percent_min}% wanted"
    )


def _agents_stop(scenario: Scenario, measured: Measured, figures: Figures) -> Check:
    name = "every agent stops"
    last: dict[int, Attempt] = {}
    for attempt in measured.attempts:
        last[attempt.agent] = attempt
    unstopped = sum(attempt.outcome not in _REFUSALS for attempt in last.values()) + scenario.agents - len(last)
    if unstopped:
        return Check(name, False, f"{unstopped} of {scenario.agents} agents were never refused")
    held = sum(attempt.outcome is Outcome.HELD for attempt in last.values())
    if held and not scenario.has_trouble:
        return Check(name, False, f"{held} agents gave up while the cap was only held, not spent")
    most = figures.attempts_per_refused_agent_max
    return Check(name, most == 1, f"attempts per refused agent: {most}")


def _spent_stays_spent(measured: Measured) -> Check:
    let_through = sum(attempt.outcome is not Outcome.EXHAUSTED for attempt in measured.probes)
    asked = f"{len(measured.probes)} refused agents asked again"
    found = f"{asked}, {let_through} got something else than a refusal" if let_through else f"{asked}, all were refused"
    return Check("a spent cap stays spent", not let_through, found)


def _nothing_is_held(measured: Measured, figures: Figures) -> Check:
    leftover = [balance for balance in measured.balances if balance.held]
    found = f"{figures.holds_open} holds open, {len(leftover)} accounts with something held"
    return Check("nothing stays held", not leftover and not figures.holds_open, found)


def _books_balance(measured: Measured) -> Check:
    found = "; ".join(measured.audit[:3]) or "the replay of the entries gives the same balances"
    return Check("the books balance", not measured.audit, found)


def _captured_is_billed(scenario: Scenario, figures: Figures) -> Check:
    captured, till = figures.captured_nanodollars, figures.till_nanodollars
    if scenario.has_trouble:
        ok = captured >= till and not figures.overrun_nanodollars
        return Check("the books cover the bill", ok, f"booked {usd(captured)}, billed {usd(till)}")
    found = f"booked {usd(captured)}, billed {usd(till)}, overrun {usd(figures.overrun_nanodollars)}"
    return Check("the books equal the bill", captured == till and not figures.overrun_nanodollars, found)


def _always_covered(measured: Measured) -> Check:
    short = [look.till - look.booked for look in measured.looks if look.till > look.booked]
    found = f"{len(measured.looks)} looks during the storm"
    if short:
        found += f", {len(short)} of them short, by up to {usd(max(short))}"
    return Check("the bill is covered at every look", not short, found)


def _nothing_unordered(scenario: Scenario, measured: Measured) -> Check:
    name = "no trouble but what was ordered"
    missing = Counter(scenario.blows) - Counter(measured.blows)
    if missing:
        return Check(name, False, f"was ordered and did not take place: {', '.join(sorted(missing))}")
    timeouts = sum(attempt.outcome is Outcome.TIMEOUT for attempt in measured.attempts)
    if timeouts:
        return Check(name, False, f"{timeouts} calls got no answer in time")
    odd = Counter(attempt.code for attempt in measured.attempts if attempt.outcome is Outcome.REFUSED)
    if odd:
        return Check(name, False, "refused for other reasons: " + ", ".join(f"{code} {n}x" for code, n in odd.items()))
    errors = sum(attempt.outcome in _TROUBLE for attempt in measured.attempts)
    if errors and not scenario.has_trouble:
        return Check(name, False, f"{errors} calls failed though nothing was ordered to fail")
    return Check(name, True, f"{errors} calls failed by order" if errors else "every call was answered or refused")


# ---- wording --------------------------------------------------------------------------------------------------------


def usd(nanodollars: int) -> str:
    """Give an exact amount for people: dollars, and two decimals or as many as are needed."""
    whole, rest = divmod(nanodollars, 1_000_000_000)
    decimals = f"{rest:09d}".rstrip("0")
    return f"${whole}.{decimals:0<2}"


def shown(value: int, unit: str) -> str:
    """Give an amount in the unit of a cap for people."""
    return usd(value) if unit == "usd" else f"{value} call{'s' * (value != 1)}"


def percent_of(part: int, whole: int) -> str:
    """Give a share with one decimal, rounded down, so that 99.99 never reads as 100."""
    if whole == 0:
        return "0.0%"
    tenths = part * 1_000 // whole
    return f"{tenths // 10}.{tenths % 10}%"
