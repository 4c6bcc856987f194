"""A gateway that is killed on the way to a receiver loses nothing: the next one tells it, with the same id."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest_asyncio
from commands import SECONDS_MAX, Bench, bench, gone, line_with
from standardwebhooks import Webhook as Verifier

SECRET = "whsec_" + "b2xkLXNlY3JldC1vZi10d2VudHktZm91ci1ieXRlcw=="
CONFIG = """
[webhooks.ops]
url = "http://127.0.0.1:{port}/"
secret_env = "HOOK_SECRET"
"""


class Receiver:
    """Hears everything, and answers only when it is told to."""

    def __init__(self) -> None:
        self.port = 0
        self.answers = False
        self.got: asyncio.Queue[tuple[dict[str, str], bytes]] = asyncio.Queue()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        lines = (line.partition(": ") for line in head.split("\r\n")[1:] if line)
        headers = {name: value for name, _, value in lines}
        self.got.put_nowait((headers, await reader.readexactly(int(headers["content-length"]))))
        if self.answers:
            writer.write(b"HTTP/1.1 204 X\r\n\r\n")
        else:
            await reader.read()
        writer.close()

    async def next(self) -> tuple[dict[str, str], bytes]:
        return await asyncio.wait_for(self.got.get(), SECONDS_MAX)


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    made = Receiver()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    async with server:
        yield made


@pytest_asyncio.fixture
async def here(tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench(tmp_path) as made:
        made.environ["HOOK_SECRET"] = SECRET
        yield made


async def test_what_a_killed_gateway_was_telling_is_told_by_the_next(here: Bench) -> None:
    async with receiving() as receiver:
        config = here.folder / "hooks.toml"
        config.write_text((here.folder / "bursar.toml").read_text() + CONFIG.format(port=receiver.port))
        gateway = await here.start("serve", "--port", "0", "--config", str(config))
        await line_with(gateway.stderr, "listening on")
        # The run has a gateway of its own, which tells nobody: its settings name no webhook.
        assert (await here.run("call()", "--calls", "1", "--run", "r1")).statuses == [200]
        first, _ = await receiver.next()
        gateway.kill()
        await gone(gateway.pid)
        receiver.answers = True
        (ledger,) = here.folder.rglob("ledger.db")
        with closing(sqlite3.connect(ledger)) as books:
            # Nobody waits for the end of the lease.
            books.execute("UPDATE deliveries SET next_at = 0")
            books.commit()
        gateway = await here.start("serve", "--port", "0", "--config", str(config))
        second, body = await receiver.next()
        told = Verifier(SECRET).verify(body, second)
        assert first["webhook-id"] == second["webhook-id"] == told["id"]
        assert (told["kind"], told["scope"], told["percent"]) == ("threshold", "run:r1", 100)
        assert re.search(r"hello", body.decode()) is None
        gateway.terminate()
        await gone(gateway.pid)


async def test_an_agent_does_not_get_what_signs(here: Bench) -> None:
    with (here.folder / "bursar.toml").open("a") as config:
        config.write(CONFIG.format(port=9))
    assert (await here.run("say(os.environ.get('HOOK_SECRET', ''))")).said == [[""]]
