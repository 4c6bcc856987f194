"""Databases on the PostgreSQL server of tests/postgres, one for each folder that a test has."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "postgres"))

from cluster import shared

_MADE: dict[Path, str] = {}


def database_of(folder: Path) -> str:
    """Give the URL of the database that belongs to a folder; all stores with one folder share one ledger."""
    if folder not in _MADE:
        _MADE[folder] = shared().new_database()
    return shared().url(_MADE[folder])


def drop_all() -> None:
    """Drop the databases of a test that has ended."""
    while _MADE:
        shared().drop_database(_MADE.popitem()[1])
