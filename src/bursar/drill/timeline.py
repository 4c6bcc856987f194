"""The time line of a storm: till, booked and held against the cap, what was refused, and what befell it; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from bursar.drill.agents import Attempt, Outcome
from bursar.drill.scenarios import Scenario
from bursar.drill.verdict import Measured

T = TypeVar("T")
MOMENTS_MAX = 600
_TROUBLE = frozenset({Outcome.ERROR, Outcome.BROKEN, Outcome.HUNG_UP, Outcome.TIMEOUT})


@dataclass(frozen=True, slots=True)
class Moment:
    """One look at the storm; amounts are in the unit of the cap."""

    ms: int
    """Since the storm began."""
    till: int
    captured: int | None
    """What the gateway had booked and, beside it, held; None where its books are not seen."""
    held: int | None
    in_flight: int
    """Requests that the provider was answering."""
    refusals: int
    """Until then, because the cap was spent."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened in a storm, from when until when."""

    name: str
    from_ms: int
    to_ms: int


@dataclass(frozen=True, slots=True)
class Timeline:
    """How one storm went."""

    name: str
    cap: int
    unit: str
    """`usd` (then all amounts are nanodollars) or `calls`."""
    moments: tuple[Moment, ...]
    blows: tuple[Mark, ...]
    """What befell workers and store."""
    troubles: tuple[Mark, ...]
    """Answers that agents did not get, or not whole: of the provider, of the way, or because they left."""


def timeline(scenario: Scenario, measured: Measured) -> Timeline:
    """Put what was seen in a storm in order of time; looks that are too many are thinned out evenly."""
    began = measured.began_at_us
    calls = scenario.cap_calls
    moments = tuple(
        Moment(_ms(look.at_us, began), look.used, look.captured, look.held, look.in_flight, look.refusals)
        for look in measured.looks
    )
    return Timeline(
        name=scenario.name,
        cap=calls if calls is not None else scenario.cap_nanodollars or 0,
        unit="usd" if calls is None else "calls",
        moments=thinned(moments, MOMENTS_MAX),
        blows=tuple(Mark(blow.name, _ms(blow.from_us, began), _ms(blow.to_us, began)) for blow in measured.struck),
        troubles=thinned(tuple(_trouble(attempt, began) for attempt in _failed(measured.attempts)), MOMENTS_MAX),
    )


def thinned(items: tuple[T, ...], most: int) -> tuple[T, ...]:
    """Give at most so many of these, evenly, with the first and the last."""
    if len(items) <= most:
        return items
    return tuple(items[number * (len(items) - 1) // (most - 1)] for number in range(most))


def _failed(attempts: Sequence[Attempt]) -> list[Attempt]:
    return sorted(
        (attempt for attempt in attempts if attempt.outcome in _TROUBLE), key=lambda attempt: attempt.ended_at_us
    )


def _trouble(attempt: Attempt, began: int) -> Mark:
    ended = _ms(attempt.ended_at_us, began)
    return Mark(f"{attempt.outcome}".replace("_", " "), ended, ended)


def _ms(at_us: int, began: int) -> int:
    return max(0, at_us - began) // 1_000
