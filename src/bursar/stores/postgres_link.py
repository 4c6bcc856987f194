"""One connection to PostgreSQL: how it is opened and recognised, what its errors mean, and the lock that is a life."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

import asyncpg  # type: ignore[import-untyped]

from bursar.ledger.store import LedgerUnavailableError, NotWrittenError
from bursar.stores.queries import queries

SQL = queries("postgres")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long, in seconds, we wait for what."""

    connect: float = 5.0
    statement: float = 10.0
    """For the server to work on one statement, waiting for locks and for a synchronous standby included."""
    answer: float = 12.0
    """For a server that says nothing at all."""
    lock: float = 8.0
    """For the locks that another gateway has."""
    idle: float = 5.0
    """For ourselves, inside a transaction: a gateway that is stopped there must not keep the locks from all others. The
    server ends its session and with it its life, and it is fenced when it wakes."""
    reading: float = 60.0
    """The same for a transaction that only reads."""
    grace: float = 3.0
    """After an outage, before anybody is called dead: a restart cuts all gateways, and not all are back at once."""


class MismatchError(Exception):
    """The database changed other rows than it was told to; nothing of it is committed."""


OUTAGES = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, EOFError)
"""Everything that a driver says of a server that is away, refuses or breaks off. `TimeoutError` is an OSError."""
NO_URL = (ValueError, OverflowError)
"""What the driver raises for an address that is none."""
REFUSALS = (asyncpg.IntegrityConstraintViolationError, asyncpg.DataError, ValueError, OverflowError, MismatchError)
"""What a single operation is guilty of: the constraints refuse its rows, or its values are none."""
AGAIN = frozenset({"40001", "40P01", "23505"})
"""A cycle of locks, or a row that another gateway made in the same moment."""

ADVICE = {
    "25006": "the server takes no writes (a standby?); name the primary, or all servers with commas between them",
    "3D000": "there is no such database; make it with `createdb`, bursar makes the rest",
    "3F000": "the database has no ledger yet; start bursar once as the owner of the database",
    "42P01": "the database has no ledger of this version; start bursar once as the owner of the database",
    "42501": "the role lacks a privilege; grant it bursar_gateway, or start bursar once as the owner of the database",
    "28P01": "the password is wrong",
    "28000": "the server does not let this role in from here",
    "53100": "the server's disk is full",
    "53200": "the server is out of memory",
    "53300": "the server has no connection left",
    "55P03": "another transaction keeps the accounts locked",
    "57P01": "the server was stopped or has cut the connection",
    "57P02": "the server has crashed and recovers",
    "57P03": "the server is starting or stopping",
    "57014": "the server took too long and gave up",
    "25P03": "this process stood still inside a transaction, and the server ended it",
    "26000": "a pooler in transaction mode is between us and the server; connect to the server itself",
    "42P05": "a pooler in transaction mode is between us and the server; connect to the server itself",
}
POOLED = (
    "a pooler in transaction mode is between us and the server, which takes away the lock that proves that this "
    "process lives; connect to the server itself, or through a pooler in session mode"
)


class Connection(Protocol):
    """What we use of a connection."""

    async def execute(self, query: str, *args: object) -> str:
        """Run a query, or a script when there are no arguments; give the tag of the last command."""
        ...

    async def fetch(self, query: str, *args: object) -> list[Sequence[Any]]:
        """Give all rows."""
        ...

    async def fetchrow(self, query: str, *args: object) -> Sequence[Any]:
        """Give the first row."""
        ...

    async def fetchval(self, query: str, *args: object) -> Any:
        """Give the first value of the first row."""
        ...

    async def close(self) -> None:
        """Say goodbye."""
        ...

    def terminate(self) -> None:
        """Drop the connection at once."""
        ...

    def is_closed(self) -> bool:
        """Say whether it is gone."""
        ...

    def add_termination_listener(self, callback: Callable[[Any], None]) -> None:
        """Be told when it goes."""
        ...

    def add_log_listener(self, callback: Callable[[Any, Any], None]) -> None:
        """Be told what the server warns of."""
        ...


@dataclass(frozen=True, slots=True)
class Identity:
    """Which ledger a connection leads to, and how far it has come."""

    backend: int
    is_read_only: bool
    ledger: str
    epoch: int
    seq: int
    at: int
    beside: int
    """The oldest schema whose gateways may run on this database."""


def sqlstate(error: BaseException) -> str:
    """Give the five characters that say what went wrong; empty for what did not come from the server."""
    return str(getattr(error, "sqlstate", None) or "")


def explain(error: BaseException) -> str:
    """Say what an error of the server or of the way to it means; never more than one line, never a password."""
    text = str(error).partition("\n")[0] or type(error).__name__
    if isinstance(error, TimeoutError):
        text = "the server does not answer"
    advice = ADVICE.get(sqlstate(error), "")
    return f"{advice} ({text})" if advice else text


def not_written(error: BaseException) -> NotWrittenError:
    """Give the error for what has certainly not been written."""
    return NotWrittenError(f"the ledger cannot be written: {explain(error)}")


def unreadable(error: BaseException) -> LedgerUnavailableError:
    """Give the error for what cannot be read."""
    return LedgerUnavailableError(f"the ledger cannot be read: {explain(error)}")


def life_key(worker: str) -> int:
    """Give the key of the lock that a worker keeps as long as it lives."""
    return int.from_bytes(hashlib.sha256(f"bursar worker {worker}".encode()).digest()[:8], "big", signed=True)


def place_of(url: str) -> str:
    """Give host, port and database of a URL, without user, password and options: what a marker may name."""
    parts = urlsplit(url)
    hosts = parts.netloc.rpartition("@")[2]
    from_query = re.findall(r"(?:^|&)(host|port|dbname|database)=([^&]*)", parts.query)
    return "/".join(filter(None, (hosts, parts.path.strip("/"), *(value for _, value in sorted(from_query)))))


async def close(connection: Connection) -> None:
    """Say goodbye to a server that listens, and leave one that does not."""
    try:
        async with asyncio.timeout(1):
            await connection.close()
    except OUTAGES:
        connection.terminate()


async def connect(url: str, patience: Patience, worker: str = "") -> Connection:
    """Open a connection and set it up for writing by a worker, or for reading; raises one of OUTAGES."""
    several = "," in urlsplit(url).netloc or "%2C" in url
    chosen = {"target_session_attrs": "read-write"} if several and "target_session_attrs" not in url else {}
    connection: Connection = await asyncpg.connect(
        url, timeout=patience.connect, command_timeout=patience.answer, max_cached_statement_lifetime=0, **chosen
    )
    try:
        await set_up(connection, patience, worker)
    except BaseException:
        connection.terminate()
        raise
    return connection


async def is_made(url: str) -> bool:
    """Say whether a database has a ledger; raises LedgerUnavailableError."""
    try:
        connection = await connect(url, Patience())
        try:
            return bool(await connection.fetchval(SQL["migrations_there"]))
        finally:
            await close(connection)
    except (*OUTAGES, *NO_URL) as error:
        raise LedgerUnavailableError(f"the ledger cannot be opened: {explain(error)}") from error


async def set_up(connection: Connection, patience: Patience, worker: str = "") -> None:
    """Set the limits of a session."""
    writes = bool(worker)
    seconds = (patience.idle if writes else patience.reading, patience.lock, patience.statement)
    await connection.fetchrow(
        SQL["settle_in"],
        worker or "reader",
        *(str(int(limit * 1000)) for limit in seconds),
        # The plans of the writer are made once, while the tables may still be small: they always go by the indexes.
        *(("off", "force_generic_plan") if writes else ("on", "auto")),
    )


async def identify(connection: Connection) -> Identity:
    """Say which ledger this is; raises one of OUTAGES."""
    backend, is_read_only, ledger, epoch, seq, at, beside = await connection.fetchrow(SQL["identity"])
    return Identity(backend, is_read_only, ledger or "", epoch, seq, at, beside)


async def take_life(connection: Connection, worker: str, former: int) -> bool:
    """Take the lock of a worker; the session that had it before, `former`, is ended where it still hangs on."""
    key = life_key(worker)
    for attempt in range(20):
        if await connection.fetchval(SQL["take_life"], key):
            return True
        if attempt == 1 and former:
            # The network went away without telling the server: it keeps our former session, and with it the lock.
            await connection.fetch(SQL["cut_former_self"], former, worker)
        await asyncio.sleep(0.05)
    return False


async def has_life(connection: Connection, worker: str, backend: int) -> bool:
    """Say whether the lock is held by the very session that we talk to, in a transaction of its own."""
    return bool(await connection.fetchval(SQL["holds_life"], life_key(worker), backend))


async def warnings_of(connection: Connection) -> tuple[str, ...]:
    """Say where the server is set to lose what it has acknowledged."""
    fsync, pages, commit, standbys = await connection.fetchrow(SQL["durability"])
    found: list[str] = []
    if fsync != "on":
        found.append("fsync is off: a crash of the machine loses or damages the ledger")
    if pages != "on":
        found.append("full_page_writes is off: a crash of the machine can damage the ledger")
    if commit == "off":
        found.append("synchronous_commit is off: a crash of the server loses holds that were acknowledged")
    if standbys and commit == "local":
        found.append(
            f"synchronous_standby_names is {standbys!r}, but synchronous_commit is local: nothing waits for the "
            "standby, and a failover loses holds that were acknowledged"
        )
    return tuple(f"PostgreSQL is not durable: {text}" for text in found)
