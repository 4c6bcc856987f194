"""A ledger of ten million entries next to an empty one: authorize and settle, verify, compact.

    nice python bench/big_ledger.py --entries 10_000_000 --folder /tmp/big [--json FILE]

The books are written in bulk and are whole: `bursar ledger verify` agrees with them. The folder is removed at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from bursar.clock import SECOND, SystemClock
from bursar.edge.retention import REST, compact_all
from bursar.ledger.account import Amounts, Ask, Authorize, Basis, Granted, Limits, OpenScope, Settle
from bursar.ledger.store import DAY, LEASE
from bursar.stores.sqlite import SqliteStore

KEY = "key:ci"
CALLS_PER_RUN = 1000
DAYS = 100
ASK = Ask(1000, 100, 2000, 1, 1000, 500, 100, False)
COST = (40, 1, 10)
UNITS = ("usd", "calls")


# ---- making ---------------------------------------------------------------------------------------------------------


async def make(path: Path, entries: int) -> None:
    """Write whole books of about so many entries: runs of a thousand settled calls, over a hundred days."""
    store = SqliteStore(path)
    await store.start()
    await store.close()
    calls = entries // 2
    start = SystemClock().now() - DAYS * DAY
    step = (DAYS * DAY - 3600 * SECOND) // max(calls, 1)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for pragma in ("synchronous = OFF", "journal_mode = OFF", "cache_size = -1000000"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("BEGIN")
        write(connection, calls, start, step)
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL")


def write(connection: sqlite3.Connection, calls: int, start: int, step: int) -> None:
    """Let the database itself make the rows: a tenth of the time that it takes to hand them over."""
    given = {"calls": calls, "start": start, "step": step, "run": CALLS_PER_RUN, "key": KEY}
    for statement in STATEMENTS:
        connection.execute(statement, given)


# The calls are numbered from 0; each thousand of them is a run, which is opened when its first call comes.
_CALLS = "WITH RECURSIVE c (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM c WHERE i < :calls - 1) "
_RUNS = "WITH RECURSIVE r (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM r WHERE i < (:calls - 1) / :run) "
_RUN, _RUN_OF_CALL = "printf('run:r-%08d', r.i)", "printf('run:r-%08d', c.i / :run)"
_CALL = "printf('c-%012d', c.i)"


def _names(*scopes: str) -> str:
    names = [f"{scope} || '/{unit}/lifetime'" for scope in scopes for unit in UNITS]
    return "'[\"' || " + " || '\",\"' || ".join(names) + " || '\"]'"


STATEMENTS = (
    "INSERT INTO scopes (scope, owner, label, opened_at) VALUES (:key, '', '', :start)",
    f"{_RUNS} INSERT INTO scopes (scope, owner, label, opened_at) SELECT {_RUN}, :key, '', :start + r.i FROM r",
    "INSERT INTO accounts (scope, unit, period, cap, ceiling, captured) "
    "VALUES (:key, 'usd', 'lifetime', NULL, NULL, 40 * :calls), (:key, 'calls', 'lifetime', NULL, NULL, :calls)",
    f"{_RUNS} INSERT INTO accounts (scope, unit, period, cap, ceiling, captured) "
    f"SELECT {_RUN}, 'usd', 'lifetime', 1000000000000, 1000000000000, 40 * min(:run, :calls - :run * r.i) FROM r",
    f"{_RUNS} INSERT INTO accounts (scope, unit, period, cap, ceiling, captured) "
    f"SELECT {_RUN}, 'calls', 'lifetime', NULL, NULL, min(:run, :calls - :run * r.i) FROM r",
    f"{_CALLS} INSERT INTO holds (call_id, worker, state, accounts, held_usd, held_calls, held_tokens, captured_usd, "
    "captured_calls, captured_tokens, overrun_usd, overrun_calls, overrun_tokens, output_tokens, model, upstream, "
    "opened_at, settled_at, basis, why) "
    f"SELECT {_CALL}, 'w', 'captured', {_names(':key', _RUN_OF_CALL)}, 3000, 1, 1100, 40, 1, 10, 0, 0, 0, 1000, "
    "'gpt-4.1-mini', 'openai', :start + c.i * :step, :start + c.i * :step + :step / 2, 'metered', '' FROM c",
    "INSERT INTO entries VALUES (1, :start, 'open', '', '', 0, 0, 0, "
    f"{_names(':key')}, json_object('scope', :key, 'owner', '', 'label', '', 'limits', json('[null,null]')))",
    f"{_RUNS} INSERT INTO entries SELECT 2 + r.i * (2 * :run + 1), :start + r.i * :run * :step, 'open', '', '', "
    f"0, 0, 0, {_names(_RUN)}, "
    f"json_object('scope', {_RUN}, 'owner', :key, 'label', '', 'limits', json('[1000000000000,null]')) FROM r",
    f"{_CALLS} INSERT INTO entries SELECT 3 + c.i / :run + 2 * c.i + k.i, :start + c.i * :step + k.i * :step / 2, "
    f"k.kind, {_CALL}, 'w', k.usd, 1, k.tokens, {_names(':key', _RUN_OF_CALL)}, k.detail "
    "FROM c CROSS JOIN (SELECT 0 AS i, 'authorize' AS kind, 3000 AS usd, 1100 AS tokens, "
    """'{"output_tokens":1000,"model":"gpt-4.1-mini","upstream":"openai"}' AS detail """
    "UNION ALL SELECT 1, 'capture', 40, 10, "
    """'{"basis":"metered","why":"","usage":"","overrun":[0,0,0]}') AS k""",
)


# ---- measuring ------------------------------------------------------------------------------------------------------


class Caller:
    """Authorizes and settles on one run, and notes how long each took."""

    def __init__(self, store: SqliteStore, name: str) -> None:
        self.store, self.scopes, self.name = store, (KEY, f"run:bench-{name}"), name
        self.count = 0
        self.seconds: list[float] = []

    async def open(self) -> None:
        await self.store.submit(OpenScope(KEY, "", Limits()))
        await self.store.submit(OpenScope(self.scopes[1], KEY, Limits(usd=10**12)))

    async def pair(self) -> None:
        self.count += 1
        name = f"{self.store.worker}-{self.name}-{self.count}"
        began = time.perf_counter()
        answer = await self.store.submit(Authorize(name, self.store.worker, self.scopes, ASK, "gpt-4.1-mini", "openai"))
        if not isinstance(answer, Granted):
            raise TypeError(answer)
        cost = Amounts(*COST)
        await self.store.submit(Settle(name, self.store.worker, cost, Basis.METERED, self.scopes, answer.held))
        self.seconds.append(time.perf_counter() - began)

    def figures(self) -> dict[str, float]:
        found = sorted(self.seconds)
        return {"pairs": len(found), **{f"p{p}_ms": round(found[len(found) * p // 100] * 1000, 3) for p in (50, 99)}}


async def latency(paths: dict[str, Path], pairs: int) -> dict[str, dict[str, float]]:
    """One call after the other, in turns on all ledgers, so that the machine is the same for all."""
    stores = {name: SqliteStore(path) for name, path in paths.items()}
    callers: dict[str, Caller] = {}
    for name, store in stores.items():
        await store.start()
        callers[name] = Caller(store, "one")
        await callers[name].open()
    for _ in range(pairs):
        for caller in callers.values():
            await caller.pair()
    for store in stores.values():
        await store.close()
    return {name: caller.figures() for name, caller in callers.items()}


async def throughput(path: Path, seconds: float) -> int:
    """64 calls at a time: pairs of authorize and settle in a second."""
    store = SqliteStore(path)
    await store.start()
    caller = Caller(store, "many")
    await caller.open()
    end = time.perf_counter() + seconds

    async def agent() -> None:
        while time.perf_counter() < end:
            await caller.pair()

    await asyncio.gather(*(agent() for _ in range(64)))
    await store.close()
    return int(len(caller.seconds) / seconds)


async def beside_compaction(path: Path, keep_days: int, rest: int, seconds: float) -> dict[str, Any]:
    """Calls while a gateway folds: how long they take, and how fast it folds."""
    store = SqliteStore(path)
    await store.start()
    caller = Caller(store, f"rest{rest}")
    await caller.open()
    folding = asyncio.create_task(compact_all(store, keep_days, rest=rest, tell=lambda done: told.append(done.entries)))
    told: list[int] = [0]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        await caller.pair()
    folding.cancel()
    await asyncio.gather(folding, return_exceptions=True)
    await store.close()
    return {**caller.figures(), "entries_folded_per_second": int(told[-1] / seconds)}


def command(*args: str) -> tuple[float, float, str]:
    """Run a command of bursar; give seconds, peak of memory in MB, and what it said."""
    script = (
        "import sys; from pathlib import Path; from bursar.cli.main import cli\n"
        "try: cli(sys.argv[1:], standalone_mode=False)\n"
        "except SystemExit as end: print('exit', end.code, file=sys.stderr)\n"
        "print(Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0], file=sys.stderr)"
    )
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", script, *args], check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return round(time.perf_counter() - began, 1), int(done.stderr.split()[-1]) // 1024, done.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=lambda text: int(text.replace("_", "")), default=10_000_000)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/bursar-big-ledger"))
    parser.add_argument("--pairs", type=int, default=3000)
    parser.add_argument("--keep-days", type=int, default=50, help="Of the hundred that are written.")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    try:
        found = measure(options)
    finally:
        shutil.rmtree(options.folder)
    text = json.dumps(found, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    big, small = options.folder / "big.db", options.folder / "empty.db"
    found: dict[str, Any] = {"entries": options.entries}
    began = time.perf_counter()
    asyncio.run(make(big, options.entries))
    found["made_in_seconds"] = round(time.perf_counter() - began, 1)
    found["file_mb"] = big.stat().st_size // 2**20
    tell(found)
    found["one_at_a_time"] = asyncio.run(latency({"big": big, "empty": small}, options.pairs))
    found["pairs_per_second_at_64"] = {
        name: asyncio.run(throughput(path, 5)) for name, path in (("big", big), ("empty", small))
    }
    tell(found)
    found["beside_compaction"] = {}
    for rest in (REST, 0):
        found["beside_compaction"][f"rest_{rest}"] = asyncio.run(beside_compaction(big, options.keep_days, rest, 15))
        # The next process may fold when this one has not for so long.
        time.sleep(LEASE // SECOND)
    tell(found)
    for name, args in (("compact", ("--keep-days", str(options.keep_days))), ("verify", ())):
        seconds, mb, said = command("ledger", name, *args, "--ledger", str(big))
        found[name] = {"seconds": seconds, "memory_mb": mb, "said": said}
        tell(found)
    found["after"] = asyncio.run(latency({"big": big, "empty": small}, options.pairs // 3))
    return found


def tell(found: dict[str, Any]) -> None:
    print(json.dumps(found), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
