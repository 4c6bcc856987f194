"""A worker process for the tests of the store; says on its standard output, line by line, what it has done."""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from pathlib import Path

from bursar.ledger.account import Amounts, Ask, Authorize, Basis, Granted, Settle
from bursar.ledger.store import LedgerUnavailableError
from bursar.stores.sqlite import SqliteStore

PATH = ("key:ci", "run:r1")
ASK = Ask(1000, 100, 2000, 1, 1000, 500, 100, False)


def say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def authorize(store: SqliteStore, call_id: str) -> Authorize:
    return Authorize(call_id, store.worker, PATH, ASK, "m1", "u")


async def listen() -> str:
    """Wait for a line of the parent; empty when it is gone."""
    return await asyncio.to_thread(sys.stdin.readline)


async def hold_and_wait(store: SqliteStore) -> None:
    """Hold five calls, and then neither settle nor end."""
    for number in range(5):
        answer = await store.submit(authorize(store, f"{store.worker}-{number}"))
        say(granted=isinstance(answer, Granted), worker=store.worker)
    await listen()


async def storm(store: SqliteStore) -> None:
    """Hold and settle in sixteen loops until nothing is granted; say every acknowledgement."""
    say(ready=True)
    await listen()

    async def agent(name: int) -> None:
        for number in range(10_000):
            call_id = f"{store.worker}-{name}-{number}"
            answer = await store.submit(authorize(store, call_id))
            if not isinstance(answer, Granted):
                return
            say(held=call_id)
            actual = Amounts(7, 1, 10)
            await store.submit(Settle(call_id, store.worker, actual, Basis.METERED, PATH, answer.held))
            say(settled=call_id)

    await asyncio.gather(*(agent(name) for name in range(16)))
    say(done=True)


async def full_disk(store: SqliteStore) -> None:
    """Run into a limit of file size as into a full disk; then get room again."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    wal = Path(f"{sys.argv[2]}-wal")
    resource.setrlimit(resource.RLIMIT_FSIZE, (wal.stat().st_size + 500_000, hard))
    granted: list[str] = []
    for number in range(1_000):
        try:
            answer = await store.submit(authorize(store, f"full-{number}"))
        except LedgerUnavailableError:
            break
        if isinstance(answer, Granted):
            granted.append(answer.call_id)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    answer = await store.submit(authorize(store, "after"))
    say(granted=granted, after=isinstance(answer, Granted), open=[hold.call_id for hold in await store.holds()])


async def main() -> None:
    store = SqliteStore(Path(sys.argv[2]))
    await store.start()
    await {"hold": hold_and_wait, "storm": storm, "full": full_disk}[sys.argv[1]](store)
    await store.close()


if __name__ == "__main__":
    asyncio.run(main())
