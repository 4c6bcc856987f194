"""Counts of tokens for clients: free, so without a hold, but not for a stopped run and not without a limit."""

from __future__ import annotations

from collections.abc import Iterable

from bursar.dialects.free import FreeRequest
from bursar.ledger.account import AccountState, Denied, Reason
from bursar.ledger.store import Store
from bursar.proxy import Failure
from bursar.upstream.client import NotSentError, UnansweredError, Upstream
from bursar.upstream.free import FreeAnswer

IN_FLIGHT_MAX = 64
"""How many counts a worker has under way at once; they must not crowd out what is paid for."""

_REASONS = {AccountState.STOPPED: Reason.STOPPED, AccountState.OVERRUN: Reason.OVERRUN}


class Counts:
    """Passes counts on, as long as nobody on the account path is stopped."""

    def __init__(self, store: Store, upstream: Upstream) -> None:
        self._store = store
        self._upstream = upstream
        self._in_flight = 0

    async def ask(self, free: FreeRequest, scopes: Iterable[str]) -> FreeAnswer | Denied | Failure:
        """Give the provider's answer, or why there is none; raises LedgerUnavailableError."""
        for scope in scopes:
            for account in await self._store.accounts(scope):
                if account.state in _REASONS:
                    return Denied(_REASONS[account.state], scope, account.id, account.unit)
        if self._in_flight >= IN_FLIGHT_MAX:
            return Failure(429, "too_many_counts", f"{IN_FLIGHT_MAX} counts are under way; try again")
        self._in_flight += 1
        try:
            return await self._upstream.ask_free(free)
        except NotSentError as error:
            return Failure(502, "upstream_unreachable", str(error))
        except UnansweredError as error:
            return Failure(502, "upstream_silent", str(error))
        finally:
            self._in_flight -= 1
