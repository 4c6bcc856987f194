"""Measures the ledger: durable hold + settle pairs per second, against one transaction per operation, in one run."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import resource
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

from bursar.ledger.account import Amounts, Ask, Authorize, Basis, Granted, Limits, OpenScope, Settle
from bursar.stores.sqlite import SqliteStore

ORG = "org:bench"
SMALL = Ask(1_000_000, 1_000, 600_000, 1, 4_096, 4_096, 256, client_bounded=True)
ACTUAL = Amounts(usd=1_500_000, calls=1, tokens=1_800)


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def quantile(sorted_values: list[float], part: float) -> float:
    return sorted_values[min(len(sorted_values) - 1, int(part * len(sorted_values)))]


async def agent(store: SqliteStore, run: str, calls: str, pairs: int, latencies: list[float]) -> None:
    scopes = (ORG, run)
    for number in range(pairs):
        call_id = f"{calls}-{number:06d}"
        begin = time.perf_counter()
        granted = await store.submit(Authorize(call_id, store.worker, scopes, SMALL, "bench-model", "bench"))
        latencies.append(time.perf_counter() - begin)
        if not isinstance(granted, Granted):
            raise SystemExit(f"not granted: {granted}")
        await store.submit(Settle(call_id, store.worker, ACTUAL, Basis.METERED, scopes, granted.held))


async def storm(store: SqliteStore, name: str, agents: int, pairs: int) -> list[float]:
    latencies: list[float] = []
    await asyncio.gather(*(agent(store, f"run:{i}", f"{name}-{i}", pairs, latencies) for i in range(agents)))
    return sorted(latencies)


async def measure(path: Path, agents: int, pairs: int, batch_max: int) -> dict[str, float]:
    """Run all agents on a fresh ledger; every pair touches 4 accounts, 2 of them shared by all agents."""
    store = SqliteStore(path, batch_max=batch_max)
    await store.start()
    await store.submit(OpenScope(ORG, "", Limits(usd=10**15)))
    for number in range(agents):
        await store.submit(OpenScope(f"run:{number}", ORG, Limits(usd=10**14, calls=10**6)))
    await storm(store, "warm", agents, 5)
    begin, cpu = time.perf_counter(), cpu_seconds()
    latencies = await storm(store, "hot", agents, pairs)
    seconds, cpu = time.perf_counter() - begin, cpu_seconds() - cpu
    findings = await store.audit()
    await store.close()
    if findings:
        raise SystemExit(f"the books are wrong: {findings[:3]}")
    count = agents * pairs
    return {
        "pairs_per_second": round(count / seconds),
        "cpu_us_per_pair": round(cpu / count * 1e6, 1),
        "hold_ms_p50": round(quantile(latencies, 0.50) * 1e3, 2),
        "hold_ms_p99": round(quantile(latencies, 0.99) * 1e3, 2),
    }


def run(agents: int, pairs: int, batch_max: int, uses_uvloop: bool) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="bursar-bench-") as folder:
        path = Path(folder) / "ledger.db"
        if uses_uvloop:
            import uvloop

            return uvloop.run(measure(path, agents, pairs, batch_max))
        return asyncio.run(measure(path, agents, pairs, batch_max))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=64, help="operations in flight")
    parser.add_argument("--pairs", type=int, default=300, help="hold + settle pairs of each agent")
    parser.add_argument("--naive-pairs", type=int, default=30, help="the same, one transaction per operation")
    parser.add_argument("--asyncio", action="store_true", help="the standard event loop instead of uvloop")
    given = parser.parse_args()
    forms = {
        "group commit": run(given.agents, given.pairs, 256, not given.asyncio),
        "one transaction per operation": run(given.agents, given.naive_pairs, 1, not given.asyncio),
    }
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    json.dump({"machine": machine, "in_flight": given.agents, "forms": forms}, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
