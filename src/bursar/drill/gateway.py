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

from bursar.drill.scenarios import Scenario
from bursar.drill.verdict import Balance

START_SECONDS_MAX = 30.0
STOP_SECONDS_MAX = 15.0
RUN = "drill"
_KEY_VARIABLE = "BURSAR_DRILL_AGENT_KEY"
_PROVIDER_KEY_VARIABLE = "BURSAR_DRILL_PROVIDER_KEY"


class CannotRunError(Exception):
    """The drill could not take place; this says nothing about the cap."""


@dataclass(frozen=True, slots=True)
class Books:
    """What the gateway has written down, read from its ledger and not from the gateway."""

    balances: tuple[Balance, ...]
    holds_open: int
    audit: tuple[str, ...]

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
        """Read all accounts."""
        ...

    async def books(self) -> Books:
        """Read everything, and replay the entries."""
        ...


class Gateway(Protocol):
    """A gateway that a storm can be sent to."""

    base_url: str
    """Where agents of the run send their calls, without the provider's path."""
    key: str
    scope: str
    """The run as the ledger names it."""
    ledger: Ledger

    def kill_worker(self, rng: random.Random) -> bool:
        """Kill one worker with SIGKILL; False when there is none to kill."""
        ...


class BursarServe:
    """`bursar serve` with its workers; leaves no process, port or file behind."""

    def __init__(
        self,
        scenario: Scenario,
        provider_url: str,
        open_ledger: Callable[[Path], AbstractAsyncContextManager[Ledger]],
    ) -> None:
        self.base_url = ""
        self.key = f"bursar-{secrets.token_urlsafe(30)}"
        self.scope = f"run:{RUN}"
        self._scenario = scenario
        self._provider_url = provider_url
        self._open_ledger = open_ledger
        self._stack = contextlib.AsyncExitStack()
        self._folder = Path()
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        try:
            self._folder = Path(tempfile.mkdtemp(prefix="bursar-drill-"))
            self._stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
            url = await self._start()
            self.base_url = f"{url}/r/{RUN}"
            self.ledger = await self._stack.enter_async_context(self._open_ledger(self._folder / "ledger.db"))
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def kill_worker(self, rng: random.Random) -> bool:
        """Kill one worker with SIGKILL."""
        workers = self._workers()
        if not workers:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(rng.choice(workers), signal.SIGKILL)
        return True

    def log(self) -> str:
        """Give the end of what the gateway wrote to stderr."""
        with contextlib.suppress(OSError):
            return (self._folder / "serve.log").read_text(encoding="utf-8", errors="replace")[-2_000:].strip()
        return ""

    # ---- the process -----------------------------------------------------------------------------------------------

    async def _start(self) -> str:
        config = self._folder / "bursar.toml"
        config.write_text(self._config(), encoding="utf-8")
        command = [sys.executable, "-m", "bursar", "serve", "--config", str(config), "--port", "0", "--json"]
        with (self._folder / "serve.log").open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                "--workers",
                str(self._scenario.workers),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env={**os.environ, _KEY_VARIABLE: self.key, _PROVIDER_KEY_VARIABLE: "sk-drill"},
                # Ctrl-C is for the drill, which then ends the gateway in good order.
                start_new_session=True,
            )
        self._stack.push_async_callback(self._stop, self._process)
        return await self._ready(self._process)

    async def _ready(self, process: asyncio.subprocess.Process) -> str:
        output = process.stdout
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
            await process.wait()
            raise CannotRunError(f"`bursar serve` did not start: {self.log()}") from None

    async def _stop(self, process: asyncio.subprocess.Process) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS_MAX):
                await process.wait()
        except TimeoutError:
            workers = self._workers()
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            for worker in workers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)
            await process.wait()

    def _workers(self) -> list[int]:
        """Find the worker processes: the children of `bursar serve`, or itself when it serves alone."""
        if self._process is None or self._process.returncode is not None:
            return []
        if self._scenario.workers == 1:
            return [self._process.pid]
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError, IndexError):
                # The name in parentheses may contain blanks; what follows is: state, parent, ...
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) == self._process.pid and fields[0] != "Z":
                    found.append(int(entry.name))
        return sorted(found)

    def _config(self) -> str:
        scenario = self._scenario
        usd = "none" if scenario.cap_nanodollars is None else _decimal(scenario.cap_nanodollars)
        calls = '"none"' if scenario.cap_calls is None else scenario.cap_calls
        return f"""
[ledger]
url = "sqlite:///{self._folder / "ledger.db"}"

[keys.drill]
key_env = "{_KEY_VARIABLE}"
run = {{ usd = "{usd}", calls = {calls} }}

[upstreams.openai]
dialect = "openai"
base_url = "{self._provider_url}"
key_env = "{_PROVIDER_KEY_VARIABLE}"

[upstreams.anthropic]
dialect = "anthropic"
base_url = "{self._provider_url}"
key_env = "{_PROVIDER_KEY_VARIABLE}"
"""


def _decimal(nanodollars: int) -> str:
    whole, rest = divmod(nanodollars, 1_000_000_000)
    return f"{whole}.{rest:09d}"
