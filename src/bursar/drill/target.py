"""A gateway that runs already, and who bears witness of what it let through: the till of a provider elsewhere."""

from __future__ import annotations

import random
from types import TracebackType
from typing import Any, Self

import aiohttp

from bursar.drill.agents import Manner, Purse
from bursar.drill.gateway import Books, Ledger
from bursar.drill.manners import Kind
from bursar.drill.places import CannotRunError
from bursar.drill.till import LEDGER_ROWS_MAX
from bursar.drill.verdict import Balance, BilledCall
from bursar.drill.witness import Seen

ASK_SECONDS_MAX = 10.0


class NoBooks:
    """Stands where the books of a gateway are not seen."""

    async def balances(self) -> tuple[Balance, ...]:
        """Give none."""
        return ()

    async def books(self) -> Books:
        """Give empty ones."""
        return Books((), 0, ())


class RunningGateway:
    """A gateway that somebody else runs: it can be asked and not be struck, and its books stay closed."""

    has_books = False
    scope = ""

    def __init__(self, kind: Kind, target: str, run: str, key: str, cap: str, purse: Purse | None = None) -> None:
        self.base_urls: tuple[str, ...] = (kind.base_url(target, run),)
        self.key = key
        self.manner: Manner = kind.manner(run, key, cap)
        self.purse: Purse | None = purse
        self.ledger: Ledger = NoBooks()

    async def strike(self, blow: str, rng: random.Random) -> bool:
        """Do nothing."""
        return False


class FarTill:
    """The till of `bursar drill provider`; what it had before the storm does not count."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/").removesuffix("/till")
        self._session: aiohttp.ClientSession | None = None
        self._before = Seen()

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ASK_SECONDS_MAX))
        try:
            self._before = await self.look()
        except BaseException:
            await self._session.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def look(self) -> Seen:
        """Give the sums since the storm began; raises CannotRunError."""
        fields = await self._asked("/till")
        try:
            calls, nanodollars, in_flight = (int(fields[name]) for name in ("calls", "nanodollars", "in_flight"))
        except (KeyError, TypeError, ValueError):
            raise CannotRunError(f"what answers at {self._url}/till is no till of `bursar drill provider`") from None
        return Seen(calls - self._before.calls, nanodollars - self._before.nanodollars, in_flight)

    async def lines(self) -> tuple[BilledCall, ...]:
        """Give every call that was billed since the storm began; raises CannotRunError."""
        calls = (await self.look()).calls
        rows = (await self._asked(f"/till?ledger={min(calls, LEDGER_ROWS_MAX)}"))["ledger"] if calls else []
        return tuple(BilledCall(row["at_us"], row["nanodollars"]) for row in rows)

    async def _asked(self, path: str) -> Any:
        if self._session is None:
            raise CannotRunError("the till was not opened")
        try:
            async with self._session.get(self._url + path) as reply:
                return await reply.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError, OSError) as error:
            message = f"no till at {self._url}: {str(error) or type(error).__name__}; `bursar drill provider` is one"
            raise CannotRunError(message) from None
