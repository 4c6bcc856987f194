"""The instant as whole microseconds since 1970 in UTC, and who may ask for it."""

from __future__ import annotations

import time
from typing import NewType, Protocol

Instant = NewType("Instant", int)
"""Microseconds since 1970-01-01T00:00Z."""

SECOND = 1_000_000


class Clock(Protocol):
    """Tells the time; tests bring their own."""

    def now(self) -> Instant:
        """Give the instant."""
        ...


class SystemClock:
    """The machine's wall clock."""

    def now(self) -> Instant:
        """Give the instant."""
        return Instant(time.time_ns() // 1_000)
