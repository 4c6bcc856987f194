"""A process that folds a ledger is killed again and again: whatever it had done is done whole, or not at all."""

from __future__ import annotations

import gzip
import json
import os
import random
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

import bursar
from bursar.clock import Instant, SystemClock
from bursar.ledger.account import Amounts, Ask, Authorize, Basis, Limits, OpenScope, Settle
from bursar.ledger.store import DAY
from bursar.stores.sqlite import SqliteStore

CHILD = Path(__file__).with_name("compact_child.py")
PATH = ("key:ci", "run:r1")
ASK = Ask(1000, 100, 2000, 1, 1000, 500, 100, False)


class DaysAgo:
    def now(self) -> Instant:
        return Instant(SystemClock().now() - 10 * DAY)


async def fill(path: Path, calls: int) -> None:
    store = SqliteStore(path, DaysAgo())
    await store.start()
    await store.submit(OpenScope("key:ci", "", Limits()))
    await store.submit(OpenScope("run:r1", "key:ci", Limits(calls=10_000)))
    for number in range(calls):
        call, held = f"c{number}", Amounts(3000, 1, 1100)
        await store.submit(Authorize(call, store.worker, PATH, ASK, "m1", "u"))
        if number % 10:
            await store.submit(Settle(call, store.worker, Amounts(7, 1, 10), Basis.METERED, PATH, held))
    await store.close()


def fold_until(path: Path, archive: Path, steps: int, entries_max: int) -> bool:
    """Let a process fold until it has said so many steps, and kill it; give whether it was done before."""
    process = subprocess.Popen(
        [sys.executable, str(CHILD), str(path), str(archive), str(entries_max)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(bursar.__file__).parent.parent)},
    )
    try:
        assert process.stdout is not None
        for _ in range(steps):
            if (said := process.stdout.readline().strip()) in ("done", "busy"):
                break
            assert said, "the child has ended"
        return said == "done"
    finally:
        process.kill()
        process.communicate()


def let_go(path: Path) -> None:
    """Let the time pass for which a process that is gone keeps others from folding."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DELETE FROM meta WHERE name = 'compacting'")


@pytest.mark.parametrize("seed", [1, 2])
async def test_folding_survives_kill_9_at_any_point(tmp_path: Path, seed: int) -> None:
    print(f"seed {seed}")
    dice = random.Random(seed)
    path, archive = tmp_path / "ledger.db", tmp_path / "old.jsonl.gz"
    await fill(path, 200)
    kills = 0
    while not fold_until(path, archive, dice.randrange(1, 12), dice.choice((3, 10, 17))):
        kills += 1
        let_go(path)
        store = SqliteStore(path)
        await store.start()
        assert await store.audit() == ()
        await store.close()
    assert kills > 2
    store = SqliteStore(path)
    await store.start()
    assert await store.audit() == ()
    assert len(await store.holds()) <= 21  # the ones that are open, and perhaps the last
    assert sum(row.calls for row in await store.spent_by_day(0, 10**6)) == 180
    left = [entry.seq async for entry in store.entries()]
    await store.close()
    kept = [json.loads(line) for line in gzip.decompress(archive.read_bytes()).splitlines()]
    seqs = [line["seq"] for line in kept if "seq" in line]
    assert seqs == sorted(set(seqs))
    assert set(range(1, left[0])) <= set(seqs)
