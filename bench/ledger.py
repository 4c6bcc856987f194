"""Measures the ledger: durable hold + settle pairs per second on both stores, with 1 and 4 gateways, on one hot account
and on 1,000, next to the naive form (a transaction per operation) in the same run; writes docs/bench-ledger.md.

    python bench/ledger.py [--stores sqlite,postgres] [--rounds 3] [--seconds 4] [--json FILE] [--write]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import resource

import uvloop
from machine import describe
from naive import NaivePostgres, NaiveSqlite, naive_storm

from bursar.drill.cluster import Cluster
from bursar.ledger.account import Amounts, Ask, Authorize, Basis, Granted, Limits, OpenScope, Settle
from bursar.ledger.store import Store
from bursar.stores import open_store

PAGE = Path(__file__).parent.parent / "docs" / "bench-ledger.md"
SMALL = Ask(1_000_000, 1_000, 600_000, 1, 4_096, 4_096, 256, client_bounded=True)
ACTUAL = Amounts(usd=1_500_000, calls=1, tokens=1_800)
IN_FLIGHT = 64
SPREAD = 1_000
WARM_SECONDS = 1.0


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def quantile(sorted_values: list[float], part: float) -> float:
    return sorted_values[min(len(sorted_values) - 1, int(part * len(sorted_values)))]


# ---- one gateway ----------------------------------------------------------------------------------------------------


async def gateway(url: str, agents: int, orgs: int, seconds: float) -> dict[str, float]:
    """One process on the ledger: its share of the agents for so long, all begun when stdin says so."""
    store = open_store(url)
    await store.start()
    names = [f"{store.worker}-{number}" for number in range(agents)]
    for name in names:
        await store.submit(OpenScope(f"run:{name}", "", Limits(usd=10**15, calls=10**9)))
    rng = random.Random(1)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    await storm(store, names, orgs, WARM_SECONDS, rng)
    begin, cpu = time.perf_counter(), cpu_seconds()
    latencies = await storm(store, names, orgs, seconds, rng, "h")
    took, cpu = time.perf_counter() - begin, cpu_seconds() - cpu
    await store.close()
    return {
        "pairs": len(latencies),
        "seconds": took,
        "cpu_us_per_pair": cpu / len(latencies) * 1e6,
        "p50": quantile(latencies, 0.50) * 1e3,
        "p99": quantile(latencies, 0.99) * 1e3,
    }


async def storm(
    store: Store, names: list[str], orgs: int, seconds: float, rng: random.Random, prefix: str = ""
) -> list[float]:
    seen: list[float] = []
    until = time.perf_counter() + seconds
    await asyncio.gather(*(_agent(store, name, prefix, orgs, until, rng, seen) for name in names))
    return sorted(seen)


async def _agent(
    store: Store, name: str, prefix: str, orgs: int, until: float, rng: random.Random, seen: list[float]
) -> None:
    number = 0
    while time.perf_counter() < until:
        number += 1
        call_id = f"{prefix}{name}-{number:06d}"
        scopes = (f"org:{rng.randrange(orgs)}", f"run:{name}")
        begin = time.perf_counter()
        granted = await store.submit(Authorize(call_id, store.worker, scopes, SMALL, "bench-model", "bench"))
        seen.append(time.perf_counter() - begin)
        if not isinstance(granted, Granted):
            raise SystemExit(f"not granted: {granted}")
        await store.submit(Settle(call_id, store.worker, ACTUAL, Basis.METERED, scopes, granted.held))


# ---- all forms ------------------------------------------------------------------------------------------------------


async def _open_orgs(url: str, orgs: int) -> None:
    store = open_store(url)
    await store.start()
    await asyncio.gather(*(store.submit(OpenScope(f"org:{n}", "", Limits(usd=10**15))) for n in range(orgs)))
    await store.close()


async def _verified(url: str) -> int:
    store = open_store(url)
    await store.start()
    findings = await store.audit()
    await store.close()
    return len(findings)


def ours(url: str, gateways: int, orgs: int, seconds: float) -> dict[str, float]:
    """Run so many gateway processes on one ledger, 64 calls in flight in all."""
    asyncio.run(_open_orgs(url, orgs))
    share = IN_FLIGHT // gateways
    command = [sys.executable, __file__, "--gateway", url, str(share), str(orgs), str(seconds)]
    children = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(gateways)
    ]
    for child in children:
        if child.stdout is None or child.stdout.readline() != "ready\n":
            raise SystemExit("a gateway of the bench did not start")
    for child in children:
        print("go", file=child.stdin, flush=True)
    results = [json.loads(child.communicate()[0]) for child in children]
    if asyncio.run(_verified(url)):
        raise SystemExit("the books are wrong")
    return {
        "pairs_per_second": sum(result["pairs"] / result["seconds"] for result in results),
        "cpu_us_per_pair": statistics.mean(result["cpu_us_per_pair"] for result in results),
        "hold_ms_p50": statistics.mean(result["p50"] for result in results),
        "hold_ms_p99": max(result["p99"] for result in results),
    }


async def _naive(store: NaivePostgres | NaiveSqlite, orgs: int, seconds: float) -> dict[str, float]:
    await store.start(orgs + 2 * IN_FLIGHT)
    begin = time.perf_counter()
    latencies = await naive_storm(store, IN_FLIGHT, orgs, seconds)
    took = time.perf_counter() - begin
    await store.close()
    return {
        "pairs_per_second": len(latencies) / took,
        "hold_ms_p50": quantile(latencies, 0.5) * 1e3,
        "hold_ms_p99": quantile(latencies, 0.99) * 1e3,
    }


def one_round(store: str, seconds: float, cluster: Cluster | None) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for accounts, orgs in (("hot", 1), ("spread", SPREAD)):
        with tempfile.TemporaryDirectory(prefix="bursar-bench-") as folder:
            for gateways in (1, 4):
                if cluster is not None:
                    url = cluster.url(cluster.new_database())
                else:
                    url = f"sqlite:///{folder}/ledger{gateways}.db"
                found[f"{gateways} gateway{'s' * (gateways > 1)}, {accounts}"] = ours(url, gateways, orgs, seconds)
            if cluster is not None:
                naive: NaivePostgres | NaiveSqlite = NaivePostgres(cluster.url(cluster.new_database()), IN_FLIGHT)
            else:
                naive = NaiveSqlite(Path(folder) / "naive.db")
            found[f"naive, {accounts}"] = asyncio.run(_naive(naive, orgs, seconds))
    return found


def rounds(store: str, count: int, seconds: float) -> dict[str, dict[str, float]]:
    """Give the medians of the rounds; what is compared stands side by side in each."""
    cluster = Cluster(durable=True, settings={"max_connections": "120"}) if store == "postgres" else None
    try:
        if cluster is not None:
            cluster.start()
        all_of_them = [one_round(store, seconds, cluster) for _ in range(count)]
    finally:
        if cluster is not None:
            cluster.close()
    return {
        form: {
            figure: round(statistics.median(one[form][figure] for one in all_of_them), 2)
            for figure in all_of_them[0][form]
        }
        for form in all_of_them[0]
    }


def page(facts: dict) -> str:  # type: ignore[type-arg]
    lines = [
        "# The ledger alone: holds and settlements per second",
        "",
        "Written by `make bench-ledger`. One pair is a durable hold and a durable settlement of one call on four "
        "accounts (dollars and calls of its run, dollars and calls of an organisation); *hot*: all calls on one "
        f"organisation, *spread*: on {SPREAD:,}. {IN_FLIGHT} calls are in flight in all. *Naive* is what a gateway "
        "gets that makes one transaction of its own for each hold and each settlement, on narrower tables, in the same "
        "run "
        "(PostgreSQL: a connection for every call in flight). After each run of ours the books were replayed and "
        "agreed.",
        "",
        f"{facts['machine']}; medians of {facts['rounds']} interleaved rounds of {facts['seconds']} s.",
        "",
    ]
    for store, forms in facts["stores"].items():
        lines += [
            f"## {store}",
            "",
            "| form | pairs/s | hold p50, ms | hold p99, ms | CPU of the gateway, us per pair | times naive |",
            "|---|---|---|---|---|---|",
        ]
        for form, figures in forms.items():
            naive = forms[f"naive, {form.rpartition(' ')[2]}"]["pairs_per_second"]
            cpu = figures.get("cpu_us_per_pair")
            pairs = figures["pairs_per_second"]
            latency = [f"{figures['hold_ms_p50']:.1f}", f"{figures['hold_ms_p99']:.1f}"]
            cells = [form, f"{pairs:,.0f}", *latency, f"{cpu:.0f}" if cpu else "", f"{pairs / naive:.1f}"]
            lines.append("| " + " | ".join(cells) + " |")
        hot, spread = forms["1 gateway, hot"]["pairs_per_second"], forms["1 gateway, spread"]["pairs_per_second"]
        hot4, spread4 = forms["4 gateways, hot"]["pairs_per_second"], forms["4 gateways, spread"]["pairs_per_second"]
        lines += [
            "",
            f"Spread over hot: {spread / hot:.2f} with 1 gateway, {spread4 / hot4:.2f} with 4.",
            "",
        ]
    return "\n".join(lines)


def main() -> None:
    if sys.argv[1:2] == ["--gateway"]:
        url, agents, orgs, seconds = sys.argv[2:]
        print(json.dumps(uvloop.run(gateway(url, int(agents), int(orgs), float(seconds)))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stores", default="sqlite,postgres")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--json", type=Path, help="where the figures go as JSON; default stdout")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    given = parser.parse_args()
    machine = describe()
    facts = {
        "machine": f"{machine['cores']} cores ({machine['cpu']}), Python {sys.version.split()[0]}, "
        f"SQLite {sqlite3.sqlite_version}",
        "in_flight": IN_FLIGHT,
        "rounds": given.rounds,
        "seconds": given.seconds,
        "stores": {store: rounds(store, given.rounds, given.seconds) for store in given.stores.split(",")},
    }
    text = json.dumps(facts, indent=2) + "\n"
    if given.json:
        given.json.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
    if given.write:
        PAGE.write_text(page(facts), encoding="utf-8")


if __name__ == "__main__":
    main()
