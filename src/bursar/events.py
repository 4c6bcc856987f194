"""What happened, in ids and amounts: logs, metrics and people are told from these and from nothing else."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass

_log = logging.getLogger("bursar")


@dataclass(frozen=True, slots=True)
class CallGranted:
    """A hold was taken; the call goes out."""

    call_id: str
    run: str
    key: str
    upstream: str
    model: str
    held_nanodollars: int
    output_tokens_max: int
    was_clamped: bool


@dataclass(frozen=True, slots=True)
class CallDenied:
    """No funds: the call was refused and nothing was sent."""

    call_id: str
    run: str
    key: str
    model: str
    reason: str
    account: str
    unit: str
    limit: int
    captured: int
    held: int
    asked: int
    status: int = 0
    """What the client got."""


@dataclass(frozen=True, slots=True)
class CallRefused:
    """The call could not be read, priced or placed, or the ledger cannot write; nothing was sent."""

    call_id: str
    run: str
    key: str
    status: int
    code: str


@dataclass(frozen=True, slots=True)
class CallSettled:
    """A hold has ended in the books."""

    call_id: str
    run: str
    key: str
    model: str
    state: str
    captured_nanodollars: int
    overrun_nanodollars: int
    why: str
    held_nanodollars: int = 0
    captured_tokens: int = 0
    overrun_tokens: int = 0
    held_tokens: int = 0


Event = CallGranted | CallDenied | CallRefused | CallSettled
Listener = Callable[[Event], None]


class EventBus:
    """Hands every event to every listener, in order, in the process where it happened."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = [_log_event]

    def subscribe(self, listener: Listener) -> None:
        """Add a listener; it must not block and must not raise."""
        self._listeners.append(listener)

    @property
    def has_listeners(self) -> bool:
        """Whether anybody but a silent log hears what is told; where not, an event need not be made."""
        return len(self._listeners) > 1 or _log.isEnabledFor(logging.INFO)

    def emit(self, event: Event) -> None:
        """Tell all listeners."""
        for listener in self._listeners:
            listener(event)


def _log_event(event: Event) -> None:
    if isinstance(event, CallSettled) and (event.overrun_nanodollars or event.overrun_tokens):
        _log.error(
            "overrun: %s cost %d nanodollars and %d tokens, %d and %d were held; its run is stopped, and %s is let "
            "through no more until `bursar prices clear %s`: %s",
            event.call_id,
            event.captured_nanodollars + event.overrun_nanodollars,
            event.captured_tokens + event.overrun_tokens,
            event.held_nanodollars,
            event.held_tokens,
            event.model,
            event.model,
            asdict(event),
        )
    elif _log.isEnabledFor(logging.INFO):
        _log.info("%s %s", type(event).__name__, asdict(event))
