"""Faults as data: what can go wrong between a gateway and a provider, how often, and whether it is billed."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum


class FaultKind(StrEnum):
    """One way in which an answer can go wrong."""

    STATUS = "status"
    """An error status instead of an answer."""
    HANG = "hang"
    """The request is taken and nothing is ever sent."""
    CUT_HEAD = "cut_head"
    """The connection is reset before the head."""
    CUT_MIDDLE = "cut_middle"
    """The connection is reset in the middle of the body."""
    TRUNCATE = "truncate"
    """The connection is closed in good order in the middle of the body."""
    NO_USAGE = "no_usage"
    LYING_USAGE = "lying_usage"
    """The usage, and the bill, say more than the output bound allows."""
    GARBAGE_USAGE = "garbage_usage"
    SLOW = "slow"
    """The body comes at a crawl."""
    HUGE = "huge"
    """The answer is as long as the bound allows."""
    GZIP = "gzip"
    """The body comes compressed when the client takes that."""


# An error status is not billed, unless the fault says so; whatever was taken on otherwise is (BILLING: a request that
# was on track to succeed is charged even when its client or its connection is gone).
_UNBILLED = frozenset({FaultKind.STATUS})


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: how often it strikes by chance (`percent`), or how many of the next calls it strikes (`count`)."""

    kind: FaultKind
    percent: int = 0
    count: int = 0
    status: int = 500
    billed: bool | None = None
    """None: as providers do (an error status is not billed, everything else is)."""

    @property
    def is_billed(self) -> bool:
        """Tell whether the provider bills a call that this fault strikes."""
        return self.kind not in _UNBILLED if self.billed is None else self.billed

    @property
    def name(self) -> str:
        """Give the name that people see: the kind, with the status where there is one."""
        return f"status_{self.status}" if self.kind is FaultKind.STATUS else str(self.kind)

    @classmethod
    def from_json(cls, fields: dict[str, object]) -> Fault:
        """Read a fault from its JSON form; raises ValueError or TypeError when there is no such fault."""
        return cls(**{**fields, "kind": FaultKind(fields.get("kind"))})  # type: ignore[arg-type]


@dataclass(slots=True)
class Dice:
    """Decides, call by call and repeatably, which fault strikes."""

    rng: random.Random
    by_chance: tuple[Fault, ...] = ()
    scripted: deque[Fault] = field(default_factory=deque)

    def script(self, faults: Iterable[Fault]) -> None:
        """Let each fault strike the next `count` calls, in this order; one with a percentage joins the chances."""
        for fault in faults:
            self.scripted.extend([fault] * fault.count)
            if fault.percent:
                self.by_chance = (*self.by_chance, fault)

    def throw(self) -> Fault | None:
        """Give the fault that strikes the next call, or None."""
        if self.scripted:
            return self.scripted.popleft()
        if not self.by_chance:
            return None
        roll = self.rng.randrange(100)
        for fault in self.by_chance:
            if roll < fault.percent:
                return fault
            roll -= fault.percent
        return None


# The faults of the provider that `bursar drill --faults NAMES` knows, each at the share in which the storm has it.
NAMED_FAULTS: dict[str, Fault] = {
    "status_400": Fault(FaultKind.STATUS, percent=3, status=400),
    "status_401": Fault(FaultKind.STATUS, percent=3, status=401),
    "status_429": Fault(FaultKind.STATUS, percent=3, status=429),
    "status_500": Fault(FaultKind.STATUS, percent=3, status=500),
    "status_500_billed": Fault(FaultKind.STATUS, percent=3, status=500, billed=True),
    "status_503": Fault(FaultKind.STATUS, percent=3, status=503),
    "status_529": Fault(FaultKind.STATUS, percent=3, status=529),
    "cut_head": Fault(FaultKind.CUT_HEAD, percent=3),
    "cut_middle": Fault(FaultKind.CUT_MIDDLE, percent=3),
    "truncate": Fault(FaultKind.TRUNCATE, percent=3),
    "no_usage": Fault(FaultKind.NO_USAGE, percent=3),
    "garbage_usage": Fault(FaultKind.GARBAGE_USAGE, percent=3),
    "slow": Fault(FaultKind.SLOW, percent=3),
    "huge": Fault(FaultKind.HUGE, percent=3),
    "gzip": Fault(FaultKind.GZIP, percent=3),
}
