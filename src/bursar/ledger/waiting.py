"""Calls that wait for money which others hold: first come, first served, per account."""

from __future__ import annotations

import asyncio
from bisect import insort
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from operator import attrgetter

from bursar.ledger.account import Authorize, Denied, Granted, Reason

TICK_SECONDS = 0.05
"""How often the first of each line tries again: settlements of other processes are not seen otherwise."""

Ask = Callable[[Authorize], Awaitable[Granted | Denied]]


class _Waiter:
    __slots__ = ("op", "ticket", "turn")

    def __init__(self, op: Authorize, ticket: int) -> None:
        self.op = op
        self.ticket = ticket
        self.turn = asyncio.Event()


@dataclass(slots=True)
class _Line:
    """Who waits for one account, in the order of their tickets, and what the first was told last."""

    denied: Denied
    waiters: list[_Waiter] = field(default_factory=list)


class Queues:
    """The lines of one process. Only the first of a line tries; whoever leaves a line lets the next one try."""

    def __init__(self, waiters_max: int) -> None:
        self.count = 0
        self._waiters_max = waiters_max
        self._tickets = 0
        self._lines: dict[str, dict[str, _Line]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def ahead_of(self, op: Authorize) -> Denied | None:
        """Give what the line ahead of this call was told, when there is one that it has to join the end of."""
        if not self._lines:
            return None
        for scope in op.scopes + op.also:
            for line in self._lines.get(scope, {}).values():
                # A call that costs nothing does not wait behind those that do.
                if op.ask.amounts(op.ask.tokens_wanted).of(line.denied.unit):
                    return line.denied
        return None

    async def wait_turn(self, op: Authorize, denied: Denied, ask: Ask, seconds_max: float) -> Granted | Denied:
        """Wait in the line of the account that denied, and try when it is this call's turn; at the end once more."""
        if self.count >= self._waiters_max:
            return denied
        self._tickets += 1
        waiter = _Waiter(op, self._tickets)
        in_line = replace(op, is_in_line=True)
        deadline = asyncio.get_running_loop().time() + seconds_max
        self.count += 1
        try:
            while await self._is_called(waiter, denied, deadline):
                answer = await ask(in_line)
                if isinstance(answer, Granted) or answer.reason is not Reason.HELD:
                    return answer
                if answer.account != denied.account:
                    self._leave(waiter, denied)
                denied = answer
        finally:
            self.count -= 1
            self._leave(waiter, denied)
        return await ask(replace(op, is_last_try=True))

    def wake(self, scopes: Iterable[str]) -> None:
        """Let the first of every line of these scopes try: money came back."""
        if self._lines:
            for scope in scopes:
                self._call_first(self._lines.get(scope, {}).values())

    async def _is_called(self, waiter: _Waiter, denied: Denied, deadline: float) -> bool:
        """Stand in line until called, or until the deadline; never cuts short an authorize that is under way."""
        line = self._lines.setdefault(denied.scope, {}).setdefault(denied.account, _Line(denied))
        line.denied = denied
        if waiter not in line.waiters:
            insort(line.waiters, waiter, key=attrgetter("ticket"))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)
        try:
            async with asyncio.timeout_at(deadline):
                await waiter.turn.wait()
        except TimeoutError:
            return False
        # Cleared before the try: money that comes back during the try calls again.
        waiter.turn.clear()
        return True

    def _leave(self, waiter: _Waiter, denied: Denied) -> None:
        lines = self._lines[denied.scope]
        line = lines[denied.account]
        line.waiters.remove(waiter)
        if line.waiters:
            line.waiters[0].turn.set()
            return
        del lines[denied.account]
        if not lines:
            del self._lines[denied.scope]

    def _tick(self) -> None:
        self._timer = None
        for lines in self._lines.values():
            self._call_first(lines.values())
        if self._lines:
            self._timer = asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)

    def _call_first(self, lines: Iterable[_Line]) -> None:
        for line in lines:
            line.waiters[0].turn.set()
