"""Real `bursar` processes for the tests: started against a fake provider, ended whatever happens."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bursar
from bursar.cli.agents import PROVIDER_SECRETS
from bursar.drill.answering import Config
from bursar.drill.fake_provider import FakeProvider

SECONDS_MAX = 60.0
"""No wait of a test takes so long unless something hangs."""

# An agent in the standard library alone: it calls as often as it is told, and prints each status as it comes.
AGENT = """
import json, os, signal, sys, time, urllib.error, urllib.request

BASE, KEY = os.environ.get("OPENAI_BASE_URL", ""), os.environ.get("OPENAI_API_KEY", "")

def call(path="/chat/completions", base=BASE, key=KEY, more={}):
    body = {"model": "gpt-4.1-mini", "max_tokens": 50, "messages": [{"role": "user", "content": "hello " * 20}]}
    body |= more
    head = {"authorization": "Bearer " + key, "content-type": "application/json"}
    request = urllib.request.Request(base + path, json.dumps(body).encode(), head)
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return say(reply.status, reply.read().decode())
    except urllib.error.HTTPError as error:
        return say(error.code, error.read().decode())

def say(*words):
    print(json.dumps(words), flush=True)
    return words[0]

"""


@dataclass
class Bench:
    """A folder, a fake provider, and the environment in which `bursar` is started."""

    folder: Path
    provider: FakeProvider
    environ: dict[str, str]
    started: list[asyncio.subprocess.Process] = field(default_factory=list)

    async def start(self, *args: str, **changes: Any) -> asyncio.subprocess.Process:
        """Start one `bursar`."""
        options: dict[str, Any] = {"stdin": asyncio.subprocess.DEVNULL, "env": self.environ, **changes}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bursar", *args),
            cwd=options.pop("cwd", self.folder),
            stdout=options.pop("stdout", asyncio.subprocess.PIPE),
            stderr=options.pop("stderr", asyncio.subprocess.PIPE),
            **options,
        )
        self.started.append(process)
        return process

    async def bursar(self, *args: str, **changes: Any) -> Done:
        """Run one `bursar` to its end."""
        return await finished(await self.start(*args, **changes))

    async def run(self, script: str, *options: str, **changes: Any) -> Done:
        """Run an agent under `bursar run`."""
        return await finished(await self.start(*self.agent(script, *options), **changes))

    def agent(self, script: str, *options: str) -> tuple[str, ...]:
        return ("run", *options, "--", sys.executable, "-c", AGENT + script)

    async def asked(self) -> None:
        """Wait until a request has come to the provider, and leave the processor to who sends it."""
        async with asyncio.timeout(SECONDS_MAX):
            while not self.provider.till.requests:
                await asyncio.sleep(0.005)

    async def json(self, *args: str) -> Any:
        """Give what a command writes as JSON."""
        done = await self.bursar(*args, "--json")
        assert done.status == 0, done.err
        return json.loads(done.out)


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    status: int
    out: str
    err: str

    @property
    def said(self) -> list[Any]:
        """Give what the agent said, line by line."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def statuses(self) -> list[int]:
        return [words[0] for words in self.said]


async def finished(process: asyncio.subprocess.Process) -> Done:
    """Wait for the end of a command."""
    async with asyncio.timeout(SECONDS_MAX):
        out, err = await process.communicate()
    assert process.returncode is not None
    return Done(process.returncode, out.decode(), err.decode())


async def line(stream: asyncio.StreamReader | None) -> str:
    """Give the next line that a command writes."""
    assert stream is not None
    async with asyncio.timeout(SECONDS_MAX):
        return (await stream.readline()).decode()


async def line_with(stream: asyncio.StreamReader | None, part: str) -> str:
    """Give the next line that has this part."""
    while part not in (found := await line(stream)):
        assert found, f"the output ended without {part!r}"
    return found


async def gone(pid: int) -> None:
    """Wait until a process, child or not, has ended."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop.add_reader(fd, ended.set)
    try:
        async with asyncio.timeout(SECONDS_MAX):
            await ended.wait()
    finally:
        loop.remove_reader(fd)
        os.close(fd)


@asynccontextmanager
async def bench(folder: Path, config: Config | None = None) -> AsyncIterator[Bench]:
    """Set everything up, and leave no process behind."""
    async with FakeProvider(config) as provider:
        (folder / "bursar.toml").write_text(
            '[ledger]\nurl = "sqlite:///books/ledger.db"\n'
            f'[upstreams.openai]\nbase_url = "{provider.base_url}"\n'
            f'[upstreams.anthropic]\nbase_url = "{provider.base_url}"\n'
        )
        environ = {name: value for name, value in os.environ.items() if name not in PROVIDER_SECRETS}
        environ |= {"OPENAI_API_KEY": "sk-real-openai", "ANTHROPIC_API_KEY": "sk-real-anthropic"}
        environ |= {"PYTHONPATH": str(Path(bursar.__file__).parents[1])}
        environ |= {"HOME": str(folder), "XDG_STATE_HOME": str(folder / "state")}
        made = Bench(folder, provider, environ)
        try:
            yield made
        finally:
            for process in made.started:
                if process.returncode is None:
                    process.send_signal(signal.SIGKILL)
                    await process.wait()
