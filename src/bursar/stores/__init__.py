"""The databases behind the ledger; each implements `bursar.ledger.store.Store`."""

from __future__ import annotations

from pathlib import Path

from bursar.ledger.store import Store

SQLITE_PREFIX = "sqlite:///"
POSTGRES_PREFIXES = ("postgresql://", "postgres://")


def open_store(url: str, marker: Path | None = None) -> Store:
    """Give the store of a ledger URL, not started yet; raises ValueError for one that no store serves.

    `marker` is where a ledger on a server is recognised by, None for the state directory; SQLite keeps its own beside
    the file.
    """
    if url.startswith(POSTGRES_PREFIXES):
        from bursar.stores.postgres import PostgresStore

        return PostgresStore(url, marker=marker)
    if not url.startswith(SQLITE_PREFIX) or not url.removeprefix(SQLITE_PREFIX):
        raise ValueError(
            f"{url.partition('://')[0]!r} is not a ledger; write for example sqlite:///bursar.db "
            "or postgresql://user@host/database"
        )
    from bursar.stores.sqlite import SqliteStore

    return SqliteStore(Path(url.removeprefix(SQLITE_PREFIX)))
