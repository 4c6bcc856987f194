"""The gateway under test: `bursar serve` as a real process with real workers, on a ledger in a temp folder."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from bursar.drill.agents import Manner, Purse
from bursar.drill.places import CannotRunError, Place
from bursar.drill.scenarios import KILL, Scenario
from bursar.drill.verdict import Balance

START_SECONDS_MAX = 30.0
STOP_SECONDS_MAX = 15.0
PAUSE_SECONDS = 4.5
"""How long a worker stands still: longer than a hold is fresh, and than others take to declare it dead."""
RUN = "drill"
_KEY_VARIABLE = "BURSAR_DRILL_AGENT_KEY"
_PROVIDER_KEY_VARIABLE = "BURSAR_DRILL_PROVIDER_KEY"


class BooksClosedError(Exception):
    """The books cannot be read just now: the store was struck."""


@dataclass(frozen=True, slots=True)
class Books:
    """What the gateway has written down, read from its ledger and not from the gateway."""

    balances: tuple[Balance, ...]
    holds_open: int
    audit: tuple[str, ...]
    holds_expired: int = 0
    """Those of workers that were declared dead, captured whole."""

    def booked(self, scope: str) -> int:
        """Give nanodollars captured, held and overrun on a scope."""
        return sum(
            balance.captured + balance.held + balance.overrun
            for balance in self.balances
            if balance.scope == scope and balance.unit == "usd"
        )


class Ledger(Protocol):
    """Reads the books of a gateway from outside."""

    async def balances(self) -> tuple[Balance, ...]:
        """Read all accounts; raises BooksClosedError."""
        ...

    async def books(self) -> Books:
        """Read everything, and replay the entries."""
        ...


class Gateway(Protocol):
    """A gateway that a storm can be sent to."""

    base_urls: tuple[str, ...]
    """Where agents of the run send their calls, without the provider's path; one per gateway on the ledger."""
    key: str
    scope: str
    """The run as the ledger names it."""
    ledger: Ledger
    has_books: bool
    """Whether the ledger is seen; else what it gives is empty and says nothing."""
    manner: Manner
    purse: Purse | None
    """What pays for the calls, where they cost real money."""

    async def strike(self, blow: str, rng: random.Random) -> bool:
        """Let something befall a worker or the store, and return when it is over; False when it was not possible."""
        ...


class BursarServe:
    """Gateways of `bursar serve` with their workers, all on one ledger; leaves no process, port or file behind."""

    has_books = True
    manner = Manner()
    purse: Purse | None = None

    def __init__(
        self,
        scenario: Scenario,
        provider_url: str,
        place: Place,
        open_ledger: Callable[[str], AbstractAsyncContextManager[Ledger]],
    ) -> None:
        self.base_urls: tuple[str, ...] = ()
        self.key = f"bursar-{secrets.token_urlsafe(30)}"
        self.scope = f"run:{RUN}"
        self._scenario = scenario
        self._provider_url = provider_url
        self._place = place
        self._open_ledger = open_ledger
        self._stack = contextlib.AsyncExitStack()
        self._folder = Path()
        self._served: list[_Serve] = []

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _start(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="bursar-drill-"))
        self._stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
        await self._stack.enter_async_context(self._place)
        config = self._folder / "bursar.toml"
        config.write_text(self._config(), encoding="utf-8")
        environ = {**os.environ, _KEY_VARIABLE: self.key, _PROVIDER_KEY_VARIABLE: "sk-drill"}
        # What a gateway remembers of its ledger belongs to this drill and goes with it.
        environ["XDG_STATE_HOME"] = str(self._folder / "state")
        for number in range(self._scenario.gateways):
            serve = _Serve(config, self._scenario.workers, environ, self._folder / f"serve{number}.log")
            self._stack.push_async_callback(serve.stop)
            self._served.append(serve)
            url = await serve.start()
            self.base_urls += (f"{url}/r/{RUN}",)
        self.ledger = await self._stack.enter_async_context(self._open_ledger(self._place.url))

    async def strike(self, blow: str, rng: random.Random) -> bool:
        """Let something befall a worker or the store, and return when it is over."""
        if blow in self._place.faults:
            await self._place.faults[blow]()
            return True
        workers = [worker for serve in self._served for worker in serve.workers()]
        if not workers:
            return False
        worker = rng.choice(workers)
        with contextlib.suppress(ProcessLookupError):
            if blow == KILL:
                os.kill(worker, signal.SIGKILL)
            else:
                await self._pause(worker)
        return True

    async def _pause(self, worker: int) -> None:
        """Stop a worker where it is; where its lock goes with its connection, others declare it dead; let it go on."""
        os.kill(worker, signal.SIGSTOP)
        try:
            await self._place.cut_off(worker)
            await asyncio.sleep(PAUSE_SECONDS)
        finally:
            os.kill(worker, signal.SIGCONT)

    def log(self) -> str:
        """Give the end of what the gateways wrote to stderr."""
        return "\n".join(serve.log() for serve in self._served)

    def _config(self) -> str:
        scenario = self._scenario
        usd = "none" if scenario.cap_nanodollars is None else _decimal(scenario.cap_nanodollars)
        calls = '"none"' if scenario.cap_calls is None else scenario.cap_calls
        counts = "true" if scenario.counts_input else "false"
        return f"""
[ledger]
url = "{self._place.url}"

[keys.drill]
key_env = "{_KEY_VARIABLE}"
run = {{ usd = "{usd}", calls = {calls} }}

[upstreams.openai]
dialect = "openai"
counts_input = {counts}
base_url = "{self._provider_url}"
key_env = "{_PROVIDER_KEY_VARIABLE}"

[upstreams.anthropic]
dialect = "anthropic"
counts_input = {counts}
base_url = "{self._provider_url}"
key_env = "{_PROVIDER_KEY_VARIABLE}"

[upstreams.gemini]
dialect = "gemini"
counts_input = {counts}
base_url = "{self._provider_url}"
key_env = "{_PROVIDER_KEY_VARIABLE}"
"""


class _Serve:
    """One `bursar serve` as a process."""

    def __init__(self, config: Path, workers: int, environ: dict[str, str], log: Path) -> None:
        self._config = config
        self._workers = workers
        self._environ = environ
        self._log = log
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> str:
        """Start it, wait until it listens, and give its URL; raises CannotRunError."""
        command = [sys.executable, "-m", "bursar", "serve", "--config", str(self._config), "--port", "0", "--json"]
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                "--workers",
                str(self._workers),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=self._environ,
                # Ctrl-C is for the drill, which then ends the gateway in good order.
                start_new_session=True,
            )
        output = self._process.stdout
        if output is None:
            raise CannotRunError("the gateway has no output")
        try:
            async with asyncio.timeout(START_SECONDS_MAX):
                line = await output.readline()
        except TimeoutError:
            raise CannotRunError(f"`bursar serve` was not ready in time: {self.log()}") from None
        try:
            return str(json.loads(line)["url"])
        except (ValueError, KeyError, TypeError):
            await self._process.wait()
            raise CannotRunError(f"`bursar serve` did not start: {self.log()}") from None

    async def stop(self) -> None:
        """End it in good order, or by force when it takes too long."""
        process = self._process
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS_MAX):
                await process.wait()
        except TimeoutError:
            workers = self.workers()
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            for worker in workers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)
            await process.wait()

    def workers(self) -> list[int]:
        """Find the worker processes: the children of `bursar serve`, or itself when it serves alone."""
        if self._process is None or self._process.returncode is not None:
            return []
        if self._workers == 1:
            return [self._process.pid]
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError, IndexError):
                # The name in parentheses may contain blanks; what follows is: state, parent, ...
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) == self._process.pid and fields[0] != "Z":
                    found.append(int(entry.name))
        return sorted(found)

    def log(self) -> str:
        """Give the end of what it wrote to stderr."""
        with contextlib.suppress(OSError):
            return self._log.read_text(encoding="utf-8", errors="replace")[-2_000:].strip()
        return ""


def _decimal(nanodollars: int) -> str:
    whole, rest = divmod(nanodollars, 1_000_000_000)
    return f"{whole}.{rest:09d}"
