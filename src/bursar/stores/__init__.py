"""The databases behind the ledger; each implements `bursar.ledger.store.Store`."""

from __future__ import annotations

import asyncio
from pathlib import Path

from bursar.ledger.store import Store

SQLITE_PREFIX = "sqlite:///"
POSTGRES_PREFIXES = ("postgresql://", "postgres://")


def open_store(url: str, marker: str = "") -> Store:
    """Give the store of a ledger URL, not started yet; raises ValueError for one that no store serves.

    `marker` is the file that a ledger on a server is recognised by, empty for one in the state directory; SQLite keeps
    its own beside the ledger.
    """
    if url.startswith(POSTGRES_PREFIXES):
        from bursar.stores.postgres import PostgresStore

        return PostgresStore(url, marker=Path(marker) if marker else None)
    if not url.startswith(SQLITE_PREFIX) or not url.removeprefix(SQLITE_PREFIX):
        raise ValueError(
            f"{url.partition('://')[0]!r} is not a ledger; write for example sqlite:///bursar.db "
            "or postgresql://user@host/database"
        )
    from bursar.stores.sqlite import SqliteStore

    return SqliteStore(Path(url.removeprefix(SQLITE_PREFIX)))


async def is_there(url: str) -> bool:
    """Say whether a ledger has been made at a URL; raises LedgerUnavailableError where that cannot be asked."""
    if url.startswith(POSTGRES_PREFIXES):
        from bursar.stores.postgres_link import is_made

        return await is_made(url)
    return await asyncio.to_thread(Path(url.removeprefix(SQLITE_PREFIX)).exists)
