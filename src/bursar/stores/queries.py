"""SQL by name: reads the `.sql` files of an engine, so that no SQL is written in Python."""

from __future__ import annotations

import re
from functools import lru_cache
from importlib import resources

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)
_MANY = re.compile(r"(\((?:\?|\?, )+\)) /\*rows\*/")


@lru_cache
def queries(engine: str) -> dict[str, str]:
    """Give the named queries of an engine."""
    named: dict[str, str] = {}
    for file in (resources.files("bursar.stores") / "sql" / engine).iterdir():
        if file.name[0].isdigit():
            continue  # a migration
        parts = _NAME.split(file.read_text("utf-8"))[1:]
        named |= {name: body.strip().rstrip(";") for name, body in zip(parts[::2], parts[1::2], strict=True)}
    return named


@lru_cache(maxsize=1024)
def for_rows(query: str, rows: int) -> str:
    """Give a query that takes one row in its form for this many rows."""
    return _MANY.sub(lambda match: ", ".join([match[1]] * rows), query)
