"""Numbered migrations: applied once, in order, known by their digest; a database from a newer version is refused."""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any, Protocol

from bursar.clock import Instant
from bursar.stores.queries import queries

_FILE = re.compile(r"^(\d{4})_\w+\.sql$")
_BESIDE = re.compile(r"^-- beside: (\d+)$", re.MULTILINE)
MIGRATION_LOCK = 7_236_119_402_113_881_453
"""One gateway migrates a PostgreSQL database, the others wait for it."""


class SchemaError(Exception):
    """The database is from a newer version, or its migrations are not the ones of this version."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema."""

    number: int
    name: str
    text: str

    @property
    def digest(self) -> str:
        """Give the SHA-256 of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def beside(self) -> int:
        """Give the oldest schema whose gateways may go on running once this step is taken (a rolling upgrade)."""
        said = _BESIDE.search(self.text)
        return int(said[1]) if said else self.number


class Session(Protocol):
    """What a migration needs of a connection to PostgreSQL."""

    async def execute(self, query: str, *args: object) -> str:
        """Run a query, or a script when there are no arguments."""
        ...

    async def fetch(self, query: str, *args: object) -> Any:
        """Give all rows."""
        ...

    async def fetchval(self, query: str, *args: object) -> Any:
        """Give the first value of the first row."""
        ...


def migrations(engine: str) -> tuple[Migration, ...]:
    """Give all migrations of an engine, ascending."""
    files = (resources.files("bursar.stores") / "sql" / engine).iterdir()
    found = [(match[1], file) for file in files if (match := _FILE.match(file.name))]
    return tuple(
        Migration(int(number), file.name, file.read_text("utf-8"))
        for number, file in sorted(found, key=lambda pair: pair[0])
    )


def pending(known: tuple[Migration, ...], applied: list[tuple[int, str]]) -> tuple[Migration, ...]:
    """Give the migrations that are still to apply; raises SchemaError when what is applied is not what is known."""
    digests = {migration.number: migration.digest for migration in known}
    for number, digest in applied:
        if number not in digests:
            raise SchemaError(
                f"the ledger has schema {number}, this version of bursar knows up to {max(digests)}: "
                "start the newer version, or restore a backup from before it"
            )
        if digests[number] != digest:
            raise SchemaError(f"migration {number} of the ledger is not the one that this version of bursar has")
    done = {number for number, _ in applied}
    return tuple(migration for migration in known if migration.number not in done)


def has_ledger(connection: sqlite3.Connection) -> bool:
    """Say whether a SQLite database has a ledger, and change nothing; raises SchemaError for a newer one."""
    sql = queries("sqlite")
    if not connection.execute(sql["migrations_there"]).fetchone()[0]:
        return False
    pending(migrations("sqlite"), connection.execute(sql["migrations_applied"]).fetchall())
    return True


def migrate_sqlite(connection: sqlite3.Connection, now: Instant, ledger_id: str) -> None:
    """Bring a SQLite database to this version's schema, all in one transaction; raises SchemaError."""
    sql = queries("sqlite")
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(sql["migrations_table"])
        applied = connection.execute(sql["migrations_applied"]).fetchall()
        for migration in pending(migrations("sqlite"), applied):
            for statement in _statements(migration.text):
                connection.execute(statement)
            row = (migration.number, migration.name, migration.digest, now)
            connection.execute(sql["migrations_note"], row)
        connection.execute(sql["write_meta"], ("ledger", ledger_id))
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


async def has_ledger_there(connection: Session, known: tuple[Migration, ...]) -> bool:
    """Say whether a PostgreSQL database has a ledger, and change nothing; raises SchemaError for a newer one."""
    applied = await _applied(connection)
    pending(known, applied)
    return bool(applied)


async def is_up_to_date(connection: Session, known: tuple[Migration, ...]) -> bool:
    """Say whether a PostgreSQL database has this version's schema; raises SchemaError for a newer one."""
    return not pending(known, await _applied(connection))


async def migrate_postgres(connection: Session, now: Instant, known: tuple[Migration, ...], ledger_id: str) -> None:
    """Bring a PostgreSQL database to this version's schema, all in one transaction; raises SchemaError."""
    sql = queries("postgres")
    await connection.execute(sql["begin"])
    try:
        await connection.execute(sql["migrations_lock"], MIGRATION_LOCK)
        # Under the lock: another gateway may have migrated while this one waited.
        todo = pending(known, await _applied(connection))
        await connection.execute(sql["migrations_table"])
        for migration in todo:
            await connection.execute(migration.text)
            row = (migration.number, migration.name, migration.digest, migration.beside, now)
            await connection.execute(sql["migrations_note"], *row)
        await connection.execute(sql["write_ledger_id"], ledger_id)
    except BaseException:
        await connection.execute(sql["rollback"])
        raise
    await connection.execute(sql["commit"])


async def _applied(connection: Session) -> list[tuple[int, str]]:
    sql = queries("postgres")
    if not await connection.fetchval(sql["migrations_there"]):
        return []
    return [(row[0], row[1]) for row in await connection.fetch(sql["migrations_applied"])]


def _statements(text: str) -> Iterator[str]:
    """Cut a script where SQLite says that a statement is complete (a trigger has semicolons inside)."""
    statement = ""
    for line in text.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
