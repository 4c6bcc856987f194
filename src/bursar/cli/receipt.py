"""The receipt of a run: what it cost of what it might cost, for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bursar.cli.common import usd
from bursar.events import CallDenied, CallGranted, CallRefused, CallSettled, Event
from bursar.ledger.account import Account, HoldState, Reason, Unit
from bursar.money import Money

SERVER_ERROR = 500
# No wait ends these, so they are the end of a run that is to stop at its cap.
_FINAL = frozenset({Reason.EXHAUSTED.value, Reason.STOPPED.value, Reason.OVERRUN.value})


@dataclass(slots=True)
class Tally:
    """What this gateway saw of one run; the books know the totals, this knows the session."""

    run: str
    calls: int = 0
    refused: int = 0
    refused_with: dict[int, int] = field(default_factory=dict)
    """How many calls were refused, by status."""
    failed: int = 0
    presumed: int = 0
    presumed_nanodollars: int = 0
    in_flight: int = 0
    has_hit_the_cap: bool = False

    def note(self, event: Event) -> None:
        """Count one event; those of other runs are not ours."""
        if event.run != self.run:
            return
        match event:
            case CallGranted():
                self.calls += 1
                self.in_flight += 1
            case CallSettled():
                self.in_flight -= 1
                # The reason of a void says why nothing was billed.
                if event.why and event.state != HoldState.VOID:
                    self.presumed += 1
                    self.presumed_nanodollars += event.captured_nanodollars
            case CallDenied():
                self._refuse(event.status)
                self.has_hit_the_cap = self.has_hit_the_cap or event.reason in _FINAL
            case CallRefused() if event.status >= SERVER_ERROR:
                self.failed += 1
            case CallRefused():
                self._refuse(event.status)

    def _refuse(self, status: int) -> None:
        self.refused += 1
        self.refused_with[status] = self.refused_with.get(status, 0) + 1


@dataclass(frozen=True, slots=True)
class Receipt:
    """One run at the end of one session."""

    run: str
    accounts: Sequence[Account]
    tally: Tally
    seconds: float
    exit_status: int
    was_stopped: bool
    """Whether `--stop` ended the command at the cap."""

    def _account(self, unit: Unit) -> Account | None:
        return next((account for account in self.accounts if account.unit is unit), None)

    def facts(self) -> dict[str, object]:
        """Give the receipt as JSON takes it; amounts in USD are exact decimal strings."""
        money, calls, tokens = (self._account(unit) for unit in Unit)
        return {
            "run": self.run,
            "exit_status": self.exit_status,
            "stopped_at_cap": self.was_stopped,
            "seconds": round(self.seconds, 3),
            "spent_usd": _usd(money, "captured"),
            "cap_usd": _usd(money, "limit"),
            "held_usd": _usd(money, "held"),
            "overrun_usd": _usd(money, "overrun"),
            "calls": calls.captured if calls else None,
            "cap_calls": calls.limit if calls else None,
            "tokens": tokens.captured if tokens else None,
            "cap_tokens": tokens.limit if tokens else None,
            "session": {
                "calls": self.tally.calls,
                "refused": self.tally.refused,
                "refused_with": {str(status): count for status, count in sorted(self.tally.refused_with.items())},
                "failed": self.tally.failed,
                "presumed": self.tally.presumed,
                "in_flight": self.tally.in_flight,
                "presumed_usd": str(Money(self.tally.presumed_nanodollars)),
            },
            "resume": self.resume(),
        }

    def lines(self) -> list[str]:
        """Give the receipt for people."""
        money, calls, tokens = (self._account(unit) for unit in Unit)
        spent = [
            f"spent {usd(money.captured)}{_of(usd(money.limit), money.limit)}" if money else "",
            f"{calls.captured}{_of(str(calls.limit), calls.limit)} calls" if calls else "",
            f"{tokens.captured}{_of(str(tokens.limit), tokens.limit)} tokens" if tokens else "",
        ]
        lines = [f"run {self.run}: {', '.join(part for part in spent if part)}, in {_duration(self.seconds)}"]
        if self.was_stopped:
            lines.append("the command was ended at the cap (--stop)")
        if self.tally.refused:
            lines.append(f"{_calls(self.tally.refused)} refused, nothing sent")
        if self.tally.failed:
            lines.append(f"{_calls(self.tally.failed)} failed on the way to the provider or back")
        if self.tally.presumed:
            amount = usd(self.tally.presumed_nanodollars)
            lines.append(
                f"{_calls(self.tally.presumed)} booked whole ({amount}), because what they did cost is not known"
            )
        if money and money.held:
            lines.append(f"{usd(money.held)} is still held by calls in flight elsewhere")
        if money and money.overrun:
            lines.append(
                f"OVERRUN of {usd(money.overrun)}: a call cost more than was held for it; the run is stopped, "
                f"see `bursar runs show {self.run}`"
            )
        return [*lines, f"resume with: {self.resume()}"]

    def resume(self) -> str:
        """Give the command that goes on with this run."""
        return f"bursar run --run {self.run} -- COMMAND"


def _usd(account: Account | None, what: str) -> str | None:
    value: int | None = getattr(account, what, None)
    return None if value is None else str(Money(value))


def _of(shown: str, limit: int | None) -> str:
    return "" if limit is None else f" of {shown}"


def _calls(count: int) -> str:
    return f"{count} call{'' if count == 1 else 's'}"


def _duration(seconds: float) -> str:
    whole = int(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours:
        return f"{hours}h {minutes:02d}m"
    return f"{minutes}m {whole % 60:02d}s" if minutes else f"{seconds:.1f}s"
