"""The databases behind the ledger; each implements `bursar.ledger.store.Store`."""

from __future__ import annotations

from pathlib import Path

from bursar.ledger.store import Store

SQLITE_PREFIX = "sqlite:///"


def open_store(url: str) -> Store:
    """Give the store of a ledger URL, not started yet; raises ValueError for one that no store serves."""
    if not url.startswith(SQLITE_PREFIX) or not url.removeprefix(SQLITE_PREFIX):
        raise ValueError(f"{url.partition('://')[0]!r} is not a ledger; write for example sqlite:///bursar.db")
    from bursar.stores.sqlite import SqliteStore

    return SqliteStore(Path(url.removeprefix(SQLITE_PREFIX)))
