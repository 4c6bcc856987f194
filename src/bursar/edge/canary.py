"""The canary: a call with nothing left to spend, through the gateway's own listener, that must be refused.

It goes the way of every call: connection, HTTP, key, run, quote, authorize. Behind it is an upstream that nobody else
can name and nothing may reach. If it is reached, or the answer is anything but the refusal of a spent cap, this process
lets no call through until a later one is refused as it must be.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import logging
import secrets
import socket
import weakref
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum

from bursar.clock import SECOND, Clock, Instant
from bursar.edge.callers import ANY_MODEL, Caller, digest, new_run_secret
from bursar.ledger.account import AccountState, Limits, Opened, OpenScope, SetLimit, SetState
from bursar.ledger.books import OWN_RUN_PREFIX, RUN_PREFIX
from bursar.ledger.store import LedgerUnavailableError, Store
from bursar.money import BrokenInvariantError
from bursar.upstream.fetch import Fetched, FetchError, fetch

_log = logging.getLogger("bursar.canary")

KIND = "canary"
"""Of what the outbox is told."""
NAME = "@canary"
"""Of the key, which no key of a person can have."""
RUN_SCOPE = f"{OWN_RUN_PREFIX}canary"
RUN = RUN_SCOPE.removeprefix(RUN_PREFIX)
KEY_SCOPE = f"key:{NAME}"
BY = "canary"
LOOPBACK = "127.0.0.1"
ANSWER_SECONDS_MAX = 20.0
AGAIN_SECONDS = 2.0
"""Until the next one, after one that proved nothing."""
VISIT_SECONDS_MAX = 10.0
_EMPTY = Limits(usd=0, calls=0)


class CanaryRedError(LedgerUnavailableError):
    """Enforcement is not proven any more, so no call is let through."""


class State(StrEnum):
    """What the last canary that proved anything has proved."""

    UNPROVEN = "unproven"
    GREEN = "green"
    RED = "red"


class Trap:
    """The upstream that nothing may reach: a server of this process that knows its own calls by their key."""

    def __init__(self, reached: Callable[[], None]) -> None:
        """Take a free port, so that the address is known before anybody could call it."""
        self.token = secrets.token_urlsafe(30)
        self._reached = reached
        self._socket = socket.create_server((LOOPBACK, 0))
        self._server: asyncio.Server | None = None
        weakref.finalize(self, self._socket.close)

    @property
    def url(self) -> str:
        """Give its base URL."""
        return f"http://{LOOPBACK}:{self._socket.getsockname()[1]}"

    async def open(self) -> None:
        """Begin to listen for what must not come."""
        self._server = await asyncio.start_server(self._visited, sock=self._socket)

    async def close(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _visited(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(VISIT_SECONDS_MAX):
                head = await reader.readuntil(b"\r\n\r\n")
                # Whoever else looks for open ports on this machine has no key to show.
                if self.token.encode() in head:
                    self._reached()
                writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError, TimeoutError):
            pass
        finally:
            writer.close()


class Canary:
    """Proves again and again that this process refuses a call with nothing left; lives as long as the process."""

    def __init__(
        self, store: Store, clock: Clock, every_seconds: float, heard: Callable[[bool, Instant], None]
    ) -> None:
        """Prepare; nothing is sent before `begin`."""
        self.state = State.UNPROVEN
        self.why = "no canary was sent yet"
        self.proven_at: Instant | None = None
        self._store = store
        self._clock = clock
        self._every_seconds = every_seconds
        self._heard = heard
        self._trap = Trap(self._on_reached)
        # No caller can name an upstream that nobody was told of.
        self.upstream = f"{NAME}-{secrets.token_hex(16)}"
        self.model = self.upstream.removeprefix("@")
        self._secret = new_run_secret()
        self._caller = Caller(NAME, RUN, _EMPTY, ANY_MODEL)
        self._url = ""
        self._task: asyncio.Task[None] | None = None
        self._has_answer = asyncio.Event()
        self._has_answer.set()
        self._hurry = asyncio.Event()
        self._is_opened = self._was_reached = False
        self._told = State.GREEN

    # ---- what the gateway is wired with -----------------------------------------------------------------------------

    @property
    def provider_keys(self) -> dict[str, str]:
        """Give the key by which the upstream knows what reaches it, by its name."""
        return {self.upstream: self._trap.token}

    @property
    def upstream_url(self) -> str:
        """Give where the upstream is that must not be reached."""
        return self._trap.url

    @property
    def callers(self) -> dict[str, Caller]:
        """Give who calls, by the digest of its secret, as the keys of the settings."""
        return {digest(self._secret): self._caller}

    # ---- what calls and people see ----------------------------------------------------------------------------------

    async def let_through(self, caller: Caller) -> None:
        """Wait for the first answer where one is to come; raises CanaryRedError while calls may not be sent."""
        if caller is self._caller:
            return
        if not self._has_answer.is_set():
            await self._has_answer.wait()
        if self.state is State.RED:
            raise CanaryRedError(self.why)

    def trouble(self) -> dict[str, str]:
        """Give what keeps the gateway from being ready; nothing where the cap is proven."""
        if self.state is State.GREEN:
            return {}
        status = "canary red" if self.state is State.RED else "the cap is not proven yet"
        return {"status": status, "why": self.why}

    def facts(self) -> dict[str, object]:
        """Give what `/readyz` says of it."""
        return {"canary": str(self.state), "cap_proven_at": None if self.proven_at is None else iso(self.proven_at)}

    # ---- life -------------------------------------------------------------------------------------------------------

    def expect(self) -> None:
        """Have calls wait until the first answer is there; a `begin` has to follow."""
        self._has_answer.clear()

    async def begin(self, url: str) -> None:
        """Send the first one to this base URL and wait for what becomes of it; then one every so often."""
        self._url = url
        await self._trap.open()
        await self.prove()
        self._task = asyncio.create_task(self._keep_proving())
        self._task.add_done_callback(self._on_ended)

    async def end(self) -> None:
        """Send no more; what was proven stays so for the calls that are being finished."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        await self._trap.close()

    def hurry(self) -> None:
        """Have the next one sent at once: something about this process has changed."""
        self._hurry.set()

    async def _keep_proving(self) -> None:
        while True:
            is_good = self.state is State.GREEN and not self.why
            with suppress(TimeoutError):
                async with asyncio.timeout(self._every_seconds if is_good else min(self._every_seconds, AGAIN_SECONDS)):
                    await self._hurry.wait()
            self._hurry.clear()
            await self.prove()

    def _on_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            self._turn(State.RED, f"the canary itself has failed: {task.exception()!r}")

    # ---- one canary -------------------------------------------------------------------------------------------------

    async def prove(self) -> None:
        """Send one and draw the conclusion."""
        try:
            if not self._is_opened:
                await self._open()
            self._was_reached = False
            # A process that was stopped for a while finds its time over, whatever the answer would have been.
            answer = await self._ask() or await self._ask()
            self._conclude(answer)
            if self.state is not self._told and self.state is not State.UNPROVEN:
                await self._tell()
        except LedgerUnavailableError as error:
            self._unsure(f"the ledger is unavailable: {error}")
        except BrokenInvariantError as error:
            self._turn(State.RED, f"the ledger is in contradiction with itself: {error}")
        finally:
            self._has_answer.set()

    async def _open(self) -> None:
        """Open the account with nothing left, and make it so again where somebody has changed it."""
        key, run = OpenScope(KEY_SCOPE, "", Limits()), OpenScope(RUN_SCOPE, KEY_SCOPE, _EMPTY, label="canary")
        # Together, they are one transaction.
        answers = await asyncio.gather(self._store.submit(key), self._store.submit(run))
        for account in (account for opened in answers if isinstance(opened, Opened) for account in opened.accounts):
            if account.scope == RUN_SCOPE and account.limit != 0:
                await self._store.submit(SetLimit(RUN_SCOPE, account.unit, 0, by=BY))
            if account.state != AccountState.OPEN:
                await self._store.submit(SetState(account.scope, AccountState.OPEN, BY))
        self._is_opened = True

    async def _ask(self) -> Fetched | None:
        """Call as a client would; None when no answer came in time."""
        message = {"role": "user", "content": secrets.token_hex(8)}
        body = {"model": self.model, "max_tokens": 1, "messages": [message]}
        headers = {
            "authorization": f"Bearer {self._secret}",
            "content-type": "application/json",
            "connection": "close",
        }
        url = f"{self._url}/{self.upstream}/v1/chat/completions"
        try:
            async with asyncio.timeout(ANSWER_SECONDS_MAX):
                return await fetch("POST", url, headers, json.dumps(body).encode())
        except (FetchError, TimeoutError):
            return None

    def _conclude(self, answer: Fetched | None) -> None:
        if self._was_reached:
            return  # which has turned it red
        if answer is None:
            self._turn(State.RED, f"a call with nothing left got no answer within {ANSWER_SECONDS_MAX:g} seconds")
            return
        code, scope = _refusal(answer)
        if answer.status >= 400 and code == "cap_exhausted" and scope == RUN_SCOPE:
            self.proven_at = self._clock.now()
            self._turn(State.GREEN, "")
        elif answer.status == 503:
            self._unsure("the gateway is unavailable at the moment")
        elif answer.status >= 400 and code == "run_stopped" and scope not in (RUN_SCOPE, KEY_SCOPE):
            self._unsure(f"{scope} is stopped, so no call came as far as its cap")
        else:
            said = f"{answer.status} {code} {scope}".rstrip()
            self._turn(State.RED, f"a call with nothing left was answered {said} instead of being refused for its cap")

    def _on_reached(self) -> None:
        self._was_reached = True
        self._turn(State.RED, "a call with nothing left was sent to a provider")

    def _unsure(self, why: str) -> None:
        """Note that nothing was proven: neither that the cap holds nor that it does not."""
        if why != self.why:
            _log.warning("canary: %s", why)
        self.why = why if self.state is not State.RED else self.why

    def _turn(self, state: State, why: str) -> None:
        if state is State.RED and self.state is not State.RED:
            _log.error("canary red, no call is let through: %s", why)
        elif state is State.GREEN and self.state is State.RED:
            _log.warning("canary green again: calls are let through")
        if state is State.RED:
            self._is_opened = False  # whatever it was, the next one begins with an account that has nothing left
        self.state, self.why = state, why
        self._heard(state is State.GREEN, self.proven_at or Instant(0))

    async def _tell(self) -> None:
        """Have people told of a change, once; `green` only after a `red`."""
        state, worker = self.state, self._store.worker
        detail: dict[str, object] = {"state": str(state), "why": self.why, "worker": worker}
        await self._store.outbox.tell(KIND, f"{worker} {state} {self._clock.now()}", RUN_SCOPE, detail)
        self._told = state


def _refusal(answer: Fetched) -> tuple[str, str]:
    """Give the code of a refusal and the scope that it names, as far as the answer is one."""
    try:
        error = json.loads(answer.data)["error"]
        return str(error["code"]), str(error.get("bursar", {}).get("scope", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        return "", ""


def iso(at: Instant) -> str:
    """Give an instant as programs read it."""
    return datetime.datetime.fromtimestamp(at // SECOND, datetime.UTC).isoformat()
