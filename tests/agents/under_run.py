"""Runs an agent under `bursar run` against a fake provider, and gives what it said and what it did cost."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands import Bench, bench

from bursar.money import Money

SECONDS_MAX = 240.0
"""No agent takes so long here unless it goes on trying."""


@dataclass(frozen=True)
class Outcome:
    """A run that has ended."""

    status: int
    out: str
    err: str
    seconds: float
    receipt: dict[str, Any]
    till_calls: int
    till_usd: str

    @property
    def attempts(self) -> dict[int, int]:
        """How many calls were refused, by the status that the client got."""
        refused: dict[str, int] = self.receipt["session"]["refused_with"]
        return {int(status): count for status, count in refused.items()}


class AgentBench:
    """A folder with a fake provider, where agents are started under `bursar run`."""

    def __init__(self, here: Bench) -> None:
        self.folder = here.folder
        self.provider = here.provider
        self.environ = here.environ
        self._here = here

    async def python(self, script: str, *options: str) -> Outcome:
        """Run a script in this interpreter, which has the SDKs."""
        return await self.run([sys.executable, "-c", script], *options)

    async def run(self, argv: list[str], *options: str, cwd: Path | None = None) -> Outcome:
        """Run a command to its end."""
        receipt_file = self.folder / "receipt.json"
        ledger = f"sqlite:///{self.folder}/books/ledger.db"
        settings = ("--config", str(self.folder / "bursar.toml"), "--ledger", ledger, "--json", str(receipt_file))
        process = await self._here.start("run", *settings, *options, "--", *argv, cwd=cwd or self.folder)
        try:
            async with asyncio.timeout(SECONDS_MAX):
                out, err = await process.communicate()
        except TimeoutError:
            process.terminate()
            out, err = await process.communicate()
            raise AssertionError(f"{argv[0]} goes on and on:\n{out.decode()}\n{err.decode()}") from None
        receipt = json.loads(receipt_file.read_text())
        till = self.provider.till.total
        assert process.returncode is not None
        return Outcome(
            status=process.returncode,
            out=out.decode(),
            err=err.decode(),
            seconds=receipt["seconds"],
            receipt=receipt,
            till_calls=till.calls,
            till_usd=str(Money(till.nanodollars)),
        )


@asynccontextmanager
async def under_run(folder: Path) -> AsyncIterator[AgentBench]:
    """Set everything up, and leave no process behind."""
    async with bench(folder) as here:
        yield AgentBench(here)
