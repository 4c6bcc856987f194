"""The ledger as the money path sees it. This module is the only mint of `OpenHold`."""

from __future__ import annotations

from bursar.call import Usage
from bursar.ledger.account import Amounts, Denied, Granted, Settled
from bursar.ledger.store import Store
from bursar.money import Money
from bursar.pricing.quote import Quote

_SEAL = object()


class OpenHold:
    """Money set aside for one dispatch of one call; used as `async with hold:` it always ends captured or void.

    Left without `capture` or `void` it is captured whole if it was dispatched and voided if it was not.
    """

    quote: Quote
    granted: Granted
    worker: str
    dispatched: bool
    settled: Settled | None

    def dispatch(self) -> None:
        """Mark the one dispatch that this hold pays for; a second one raises BrokenInvariantError."""
        raise NotImplementedError

    def capture(self, cost: Money, usage: Usage) -> None:
        """Say what the call did cost; it is booked when the `async with` block is left."""
        raise NotImplementedError

    def presume(self, why: str) -> None:
        """Say that the cost is not known; the whole hold is booked."""
        raise NotImplementedError

    def void(self, proof: str) -> None:
        """Say that nothing was billed, and why that is certain."""
        raise NotImplementedError

    async def __aenter__(self) -> OpenHold:
        raise NotImplementedError

    async def __aexit__(self, *exc: object) -> None:
        raise NotImplementedError


class Ledger:
    """Authorizes quotes on a store, lets calls wait their turn, and owns every settlement until it is written."""

    def __init__(self, store: Store, wait_seconds_max: float) -> None:
        raise NotImplementedError

    async def authorize(self, quote: Quote, call_id: str, scopes: tuple[str, ...]) -> OpenHold | Denied:
        """Set the quote aside on all scopes; wait, bounded, while others hold what is missing.

        Raises LedgerUnavailableError. When the caller is cancelled while it waits, nothing stays taken.
        """
        raise NotImplementedError

    async def drain(self) -> None:
        """Wait until every settlement that this ledger owns is written."""
        raise NotImplementedError


def _held(granted: Granted) -> Amounts:
    return granted.held
