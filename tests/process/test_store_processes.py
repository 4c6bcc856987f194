"""Several worker processes on one ledger file, and what is left when they are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

import bursar
from bursar.ledger.account import Conflict, Expire, HoldState, Limits, OpenScope, SetLimit, Unit
from bursar.ledger.reaper import reap_once
from bursar.stores.sqlite import SqliteStore

CHILD = Path(__file__).with_name("store_child.py")


@contextmanager
def child(what: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    source = str(Path(bursar.__file__).parent.parent)
    process = subprocess.Popen(
        [sys.executable, str(CHILD), what, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": source},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def hear(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "the child has ended"
    heard: dict[str, Any] = json.loads(line)
    return heard


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest_asyncio.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    made = SqliteStore(path)
    await made.start()
    await made.submit(OpenScope("key:ci", "", Limits()))
    await made.submit(OpenScope("run:r1", "key:ci", Limits(calls=100)))
    yield made
    assert await made.audit() == ()
    await made.close()


async def position(store: SqliteStore, unit: Unit) -> tuple[int, int]:
    (account,) = [account for account in await store.accounts("run:r1") if account.unit is unit]
    return account.held, account.captured


async def test_museum_26_the_holds_of_a_killed_worker_are_captured_whole(store: SqliteStore, path: Path) -> None:
    with child("hold", path) as process:
        worker = {hear(process)["worker"] for _ in range(5)}.pop()
        assert await position(store, Unit.CALLS) == (5, 0)
        assert await store.dead_workers() == ()
        assert isinstance(await store.submit(Expire(worker)), Conflict)
        process.kill()
        process.wait()
        assert await store.dead_workers() == (worker,)
        assert await reap_once(store) == 5
        assert await position(store, Unit.CALLS) == (0, 5)
        assert await position(store, Unit.USD) == (0, 5 * 3000)
        assert {hold.state for hold in await store.holds()} == {HoldState.EXPIRED}


async def test_a_stopped_worker_is_not_a_dead_one(store: SqliteStore, path: Path) -> None:
    with child("hold", path) as process:
        for _ in range(5):
            hear(process)
        process.send_signal(signal.SIGSTOP)
        assert await reap_once(store) == 0
        process.send_signal(signal.SIGCONT)


async def test_museum_6_two_processes_serve_one_cap_exactly(store: SqliteStore, path: Path) -> None:
    with child("storm", path) as one, child("storm", path) as other:
        for process in (one, other):
            assert hear(process) == {"ready": True}
        for process in (one, other):
            tell(process)
        held = 0
        for process in (one, other):
            while (heard := hear(process)) != {"done": True}:
                held += "held" in heard
            assert process.wait(30) == 0
    assert held == 100
    assert await position(store, Unit.CALLS) == (0, 100)
    assert await position(store, Unit.USD) == (0, 700)


async def test_museum_16_what_was_acknowledged_survives_a_kill_in_full_run(store: SqliteStore, path: Path) -> None:
    await store.submit(SetLimit("run:r1", Unit.CALLS, None))
    with child("storm", path) as process:
        hear(process)
        tell(process)
        heard = [hear(process) for _ in range(500)]
        process.kill()
        assert process.stdout is not None
        heard += [json.loads(line) for line in process.stdout.read().splitlines() if line.endswith("}")]
    held = {fact["held"] for fact in heard if "held" in fact}
    settled = {fact["settled"] for fact in heard if "settled" in fact}
    assert held
    assert settled
    await reap_once(store)
    holds = {hold.call_id: hold for hold in await store.holds(limit_rows=1_000_000)}
    assert held <= holds.keys()
    assert all(holds[call_id].captured.usd == 7 for call_id in settled)
    assert all(hold.captured.usd == 3000 for hold in holds.values() if hold.state is HoldState.EXPIRED)
    assert (await position(store, Unit.USD))[0] == 0


async def test_a_full_disk_refuses_and_loses_nothing(store: SqliteStore, path: Path) -> None:
    await store.submit(SetLimit("run:r1", Unit.CALLS, None))
    with child("full", path) as process:
        heard = hear(process)
        assert process.wait(30) == 0
    assert 0 < len(heard["granted"]) < 1_000
    assert heard["after"]
    assert set(heard["granted"]) | {"after"} <= set(heard["open"])
    assert len(heard["open"]) <= len(heard["granted"]) + 2
    await reap_once(store)


LOOK = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT count(*) FROM scopes'); c.close()"


async def test_two_stores_of_one_process_keep_their_log_when_another_process_comes_and_goes(tmp_path: Path) -> None:
    """As `bursar run` has it: its own store, its gateway's, and somebody who looks at the books from another shell."""
    path = tmp_path / "ledger.db"
    one, other = SqliteStore(path), SqliteStore(path)
    await one.start()
    await one.submit(OpenScope("key:k", "", Limits(calls=1)))
    await other.start()
    log = path.with_name("ledger.db-wal")
    before = log.stat().st_ino
    subprocess.run([sys.executable, "-c", LOOK, str(path)], check=True)
    assert log.stat().st_ino == before
    await other.close()
    await one.close()
