"""Folds a ledger for the tests, and says on its standard output how far it is, step by step."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from bursar.cli.archive import ArchiveFile
from bursar.stores.sqlite import SqliteStore


async def main() -> None:
    path, archive, entries_max = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    store = SqliteStore(path)
    await store.start()
    with ArchiveFile(archive, "L") as kept:
        while True:
            step = await store.compact(2, entries_max, kept.add)
            print("busy" if step.is_busy else "done" if step.is_done else step.seq, flush=True)
            if step.is_done and not step.is_busy:
                break
    await store.close()


if __name__ == "__main__":
    asyncio.run(main())
