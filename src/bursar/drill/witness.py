"""Who says what the provider bills: a till in this process, or somebody who asks one elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from bursar.drill.till import Till
from bursar.drill.verdict import BilledCall


@dataclass(frozen=True, slots=True)
class Seen:
    """The sums of a till at one moment."""

    calls: int = 0
    nanodollars: int = 0
    in_flight: int = 0


class Witness(Protocol):
    """What the provider bills for a storm, asked of anybody but the gateway."""

    async def look(self) -> Seen:
        """Give the sums as they are now."""
        ...

    async def lines(self) -> tuple[BilledCall, ...]:
        """Give every billed call."""
        ...


class OwnTill:
    """The till of a fake provider in this process, which nobody else uses."""

    def __init__(self, till: Till) -> None:
        self._till = till

    async def look(self) -> Seen:
        """Give the sums as they are now."""
        return Seen(self._till.total.calls, self._till.total.nanodollars, self._till.in_flight)

    async def lines(self) -> tuple[BilledCall, ...]:
        """Give every billed call."""
        return tuple(BilledCall(line.at_us, line.nanodollars) for line in self._till.ledger)
