"""Budget periods: calendar hours, days, weeks and months in a named time zone, rolling windows, and lifetime.

Reads the time zone database and no clock: every instant comes from the store.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

from bursar.clock import SECOND, Instant

LIFETIME = "lifetime"
FOREVER = 2**63 - 1
ROLLING_SLOTS = 12
"""A rolling window is counted in so many slots. A slot leaves as a whole and only when all of it is out of the window,
so what may be spent in any stretch as long as the window never passes the limit; money comes back up to 1/12 later."""
WINDOW_SECONDS_MIN = 12
WINDOW_SECONDS_MAX = 366 * 86_400
KINDS = ("hour", "day", "week", "month")

_ROLLING = re.compile(r"rolling[ -]([1-9][0-9]{0,8})([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class PeriodError(ValueError):
    """Not a period, or not a time zone that this machine knows."""


class Slot(NamedTuple):
    """A stretch of time that one account row counts: from `starts_at` up to and without `ends_at`."""

    starts_at: int
    ends_at: int


def period_spec(text: str, zone: str = "UTC") -> str:
    """Give the ledger's name of a period as people write it; raises PeriodError.

    `day` in Europe/Berlin is `day@Europe:Berlin`, `rolling 5h` is `rolling-5h`, none or `lifetime` is `lifetime`.
    """
    if text in ("", LIFETIME):
        return LIFETIME
    rolling = _ROLLING.fullmatch(text)
    if rolling is not None:
        seconds = int(rolling[1]) * _SECONDS[rolling[2]]
        if not WINDOW_SECONDS_MIN <= seconds <= WINDOW_SECONDS_MAX:
            raise PeriodError(f"a rolling window is from {WINDOW_SECONDS_MIN}s to 366d long, not {text!r}")
        return f"rolling-{rolling[1]}{rolling[2]}"
    if text not in KINDS:
        raise PeriodError(f"{text!r} is not a period; write hour, day, week, month, or for example 'rolling 5h'")
    if zone == "UTC":
        return text
    _zone(zone)
    return f"{text}@{zone.replace('/', ':')}"


def is_spec(spec: str) -> bool:
    """Say whether this is a period in the ledger's form."""
    kind, _, zone = spec.partition("@")
    try:
        return period_spec(kind, zone.replace(":", "/") or "UTC") == spec
    except PeriodError:
        return False


def people(spec: str) -> str:
    """Give a period of the ledger as people write it: `day (Europe/Berlin)`, `rolling 5h`."""
    kind, _, zone = spec.partition("@")
    named = kind.replace("-", " ")
    return f"{named} ({zone.replace(':', '/')})" if zone else named


def spec_of(period: str) -> str:
    """Give the period without the start of its slot."""
    return period.partition(" ")[0]


def slot_of(spec: str, now: Instant) -> Slot:
    """Give the slot that an instant is in."""
    if spec == LIFETIME:
        return Slot(0, FOREVER)
    width = slot_microseconds(spec)
    if width:
        start = now - now % width
        return Slot(start, start + width)
    kind, _, zone = spec.partition("@")
    return _calendar(kind, zone.replace(":", "/") or "UTC", now // (60 * SECOND))


def named(spec: str, starts_at: int) -> str:
    """Give the name of a slot: `day@Europe:Berlin 2026-11-22T23:00:00Z`; lifetime has no slots."""
    if spec == LIFETIME:
        return LIFETIME
    return f"{spec} {_EPOCH + timedelta(microseconds=starts_at):%Y-%m-%dT%H:%M:%SZ}"


@lru_cache(maxsize=1024)
def window_microseconds(spec: str) -> int:
    """Give the length of a rolling window; 0 for everything else."""
    rolling = _ROLLING.fullmatch(spec)
    return 0 if rolling is None else int(rolling[1]) * _SECONDS[rolling[2]] * SECOND


def slot_microseconds(spec: str) -> int:
    """Give the length of one slot of a rolling window, in whole seconds; 0 for everything else."""
    window = window_microseconds(spec)
    return -(-window // (ROLLING_SLOTS * SECOND)) * SECOND


@lru_cache(maxsize=4096)
def _calendar(kind: str, zone: str, minute: int) -> Slot:
    """Give the calendar period around a minute. Offsets of the present are whole minutes, so no slot splits one."""
    tz = _zone(zone)
    local = (_EPOCH + timedelta(minutes=minute)).astimezone(tz)
    if kind == "hour":
        # By elapsed time, not by the face of the clock: where an hour comes twice, each has a budget of its own.
        start = local.astimezone(UTC) - timedelta(minutes=local.minute)
        return Slot(_micros(start), _micros(start + timedelta(hours=1)))
    midnight = datetime(local.year, local.month, local.day)
    if kind == "day":
        return Slot(_at(midnight, tz), _at(midnight + timedelta(days=1), tz))
    if kind == "week":
        monday = midnight - timedelta(days=midnight.weekday())
        return Slot(_at(monday, tz), _at(monday + timedelta(days=7), tz))
    first = midnight.replace(day=1)
    return Slot(_at(first, tz), _at((first + timedelta(days=32)).replace(day=1), tz))


def _at(wall: datetime, tz: ZoneInfo) -> int:
    """Give the first instant at which the clocks of a zone show this wall time or, where it is skipped, a later one."""
    before = wall.replace(tzinfo=tz, fold=0)
    instant = before.astimezone(UTC)
    if instant.astimezone(tz).replace(tzinfo=None) == wall:
        return _micros(instant)
    # The wall time does not exist: the clocks jump over it, from the one offset to the other.
    skipped_to = wall.replace(tzinfo=tz, fold=1)
    return _micros(_first_after(min(instant, skipped_to.astimezone(UTC)), wall, tz))


def _first_after(low: datetime, wall: datetime, tz: ZoneInfo) -> datetime:
    """Find the minute at which the clocks pass a wall time that they skip; it is within a day after `low`."""
    high = low + timedelta(days=1, hours=1)
    while high - low > timedelta(minutes=1):
        middle = low + timedelta(minutes=(high - low) // timedelta(minutes=2))
        if middle.astimezone(tz).replace(tzinfo=None) < wall:
            low = middle
        else:
            high = middle
    return high


def _micros(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)


@lru_cache(maxsize=256)
def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise PeriodError(f"{name!r} is not a time zone; write for example Europe/Berlin") from error
