"""A ledger that is old and large authorizes as fast as a new one: no query of a call looks through a table."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing

import pytest

from bursar.stores.migrate import migrate_sqlite
from bursar.stores.queries import queries

SQL = queries("sqlite")
LARGE = (
    "entries",
    "holds",
    "accounts",
    "scopes",
    "keys",
    "workers",
    "base_accounts",
    "base_holds",
    "folded_calls",
    "outbox",
    "deliveries",
)
"""Tables that grow with every call, run, key or start; the others have a row per model or per call that waits."""
RARE = {"read_count_of_holds", "read_base_accounts", "read_base_holds", "read_accounts", "read_all_accounts"} | {
    *("read_holds", "read_keys", "read_spent_by_day", "read_holds_in_state", "read_quarantined", "read_runs"),
}
"""What people and audits ask for: everything, or the newest that match."""


def plan(query: str) -> list[str]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        migrate_sqlite(connection, 1, "a")  # type: ignore[arg-type]
        text = SQL[query].replace("/*rows*/", "")
        found = connection.execute(f"EXPLAIN QUERY PLAN {text}", [None] * _parameters(text))
        return [row[3] for row in found]


def _parameters(text: str) -> int:
    numbered = [int(number) for number in re.findall(r"\?(\d+)", text)]
    return max(numbered) if numbered else text.count("?")


@pytest.mark.parametrize(
    "query", sorted(name for name in SQL if not name.startswith("migrations") and name not in RARE)
)
def test_no_query_of_a_call_looks_through_a_table_that_grows(query: str) -> None:
    for step in plan(query):
        scanned = re.match(r"SCAN (\w+)(.*)", step)
        if scanned and "VIRTUAL TABLE" not in scanned[2]:
            # The holds that are open are few, however many there were.
            assert scanned[1] not in LARGE or "holds_open" in scanned[2], f"{query}: {step}"


def test_what_is_rare_is_still_there() -> None:
    assert SQL.keys() >= RARE


def test_the_hot_queries_use_their_indexes() -> None:
    assert plan("books_accounts")[0] == "SEARCH accounts USING INDEX accounts_that_count (scope=?)"
    assert plan("books_holds")[0] == "SEARCH holds USING INDEX sqlite_autoindex_holds_1 (call_id=?)"
    assert plan("write_holds")[-1].startswith("SEARCH holds USING COVERING INDEX sqlite_autoindex_holds_1")
    assert plan("write_accounts")[-1].startswith("SEARCH accounts USING INTEGER PRIMARY KEY")
    assert plan("read_key") == ["SEARCH keys USING INDEX sqlite_autoindex_keys_1 (digest=?)"]
