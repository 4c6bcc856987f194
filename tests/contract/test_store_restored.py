"""A ledger that went back in time hands out no money until an operator has accepted it; real copies of real files."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
import pytest_asyncio
from click.testing import CliRunner, Result

from bursar.cli.main import cli
from bursar.ledger.account import Amounts, Ask, Authorize, Basis, Granted, Limits, OpenScope, Settle
from bursar.ledger.store import LedgerLostError, LedgerUnavailableError, NotWrittenError
from bursar.stores import marker as markers
from bursar.stores.marker import Marker, check
from bursar.stores.sqlite import SqliteStore

KEY, RUN = "key:ci", "run:r1"
PATH = (KEY, RUN)
ASK = Ask(100, 40, 0, 1, 10, 10, 1, False)
HELD = Amounts(100, 1, 50)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest_asyncio.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    made = SqliteStore(path)
    await made.start()
    await made.submit(OpenScope(KEY, "", Limits()))
    await made.submit(OpenScope(RUN, KEY, Limits(usd=1_000, calls=50)))
    yield made
    await made.close()


async def spend(store: SqliteStore, call: str) -> None:
    assert isinstance(await ask(store, call), Granted)
    await store.submit(Settle(call, store.worker, Amounts(10, 1, 10), Basis.METERED, PATH, HELD))


async def ask(store: SqliteStore, call: str) -> object:
    return await store.submit(Authorize(call, store.worker, PATH, ASK, "m1", "u"))


def copy(path: Path, to: Path) -> None:
    """Copy the database with its log, as a snapshot of a file system does."""
    for end in ("", "-wal"):
        if Path(f"{path}{end}").exists():
            shutil.copy(f"{path}{end}", f"{to}{end}")


def restore(backup: Path, path: Path) -> None:
    """Put a backup in the place of a ledger; the index of the old log is not part of it."""
    for end in ("", "-wal", "-shm"):
        Path(f"{path}{end}").unlink(missing_ok=True)
    copy(backup, path)


async def went_back(path: Path, tmp_path: Path) -> Path:
    """Spend, take a backup with its log, spend more, and put the backup back; give the backup."""
    store = SqliteStore(path)
    await store.start()
    await store.submit(OpenScope(KEY, "", Limits()))
    await store.submit(OpenScope(RUN, KEY, Limits(usd=1_000, calls=50)))
    await spend(store, "before")
    backup = tmp_path / "backup.db"
    copy(path, backup)
    await spend(store, "after")
    await store.close()
    restore(backup, path)
    return backup


async def test_museum_19_a_restored_ledger_does_not_start_and_says_how_to_go_on(path: Path, tmp_path: Path) -> None:
    await went_back(path, tmp_path)
    with pytest.raises(LedgerLostError) as lost:
        await SqliteStore(path).start()
    assert "it has 4 entries and had 6" in str(lost.value)
    assert "bursar ledger adopt" in str(lost.value)


async def test_an_adopted_ledger_goes_on_and_an_older_copy_is_refused_again(path: Path, tmp_path: Path) -> None:
    backup = await went_back(path, tmp_path)
    found = await SqliteStore(path).survey()
    assert (found.entries, found.missing, found.epoch) == (4, 2, 1)
    assert 0 < found.at <= found.known_at
    with pytest.raises(LedgerLostError):
        await SqliteStore(path).start()
    assert await SqliteStore(path).adopt("ann") == found
    store = SqliteStore(path)
    await store.start()
    # The call of which the books know nothing is booked when somebody settles it: as an overrun, never lost.
    await spend(store, "next")
    assert await store.audit() == ()
    assert (await store.survey()).trouble == ""
    await store.close()
    restore(backup, path)
    with pytest.raises(LedgerLostError, match="in epoch 0 and was in epoch 1"):
        await SqliteStore(path).start()
    assert (await SqliteStore(path).adopt("bob")).epoch == 2
    with closing(sqlite3.connect(path)) as connection:
        record = connection.execute("SELECT value FROM meta WHERE name = 'adopted 2'").fetchone()[0]
    assert json.loads(record)["who"] == "bob"


async def test_a_gateway_that_runs_notices_that_its_ledger_was_put_back(
    store: SqliteStore, path: Path, tmp_path: Path
) -> None:
    copy(path, tmp_path / "backup.db")
    await spend(store, "after")
    await store.dead_workers()
    restore(tmp_path / "backup.db", path)
    for call in ("c1", "c2"):
        with pytest.raises(NotWrittenError, match="bursar ledger adopt"):
            await ask(store, call)
    # The marker is not brought down to a ledger that is not right.
    assert await store.dead_workers() == ()
    assert json.loads(path.with_name("ledger.db.marker").read_text())["entries"] == 4
    await SqliteStore(path).adopt("ann")
    # And it goes on by itself when the operator has accepted what is there.
    await spend(store, "c3")
    assert await store.audit() == ()


async def test_a_gateway_that_runs_notices_a_ledger_that_went_back_in_the_same_file(
    store: SqliteStore, path: Path
) -> None:
    """A restore that writes into the file, instead of putting another one in its place."""
    await spend(store, "c1")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DROP TRIGGER entries_never_vanish")
        connection.execute("DELETE FROM entries WHERE seq > 2")
    with pytest.raises(NotWrittenError, match="is older than before"):
        await ask(store, "c2")
    with pytest.raises(NotWrittenError, match="bursar ledger adopt"):
        await ask(store, "c3")


async def test_two_gateways_go_on_with_an_adopted_ledger(store: SqliteStore, path: Path, tmp_path: Path) -> None:
    other = SqliteStore(path)
    await other.start()
    await spend(other, "o1")
    copy(path, tmp_path / "backup.db")
    await spend(store, "c1")
    await store.dead_workers()
    restore(tmp_path / "backup.db", path)
    # It has seen no entry that is missing; what another process has noted is enough.
    with pytest.raises(NotWrittenError):
        await ask(other, "o2")
    await SqliteStore(path).adopt("ann")
    await spend(store, "c2")
    await spend(other, "o2")
    await spend(store, "c3")
    assert await store.audit() == ()
    await other.close()


async def test_what_is_not_there_cannot_be_accepted(store: SqliteStore, path: Path) -> None:
    await store.close()
    path.unlink()
    with pytest.raises(LedgerLostError, match="nothing to accept"):
        await SqliteStore(path).adopt("ann")


async def test_a_marker_that_cannot_be_read_can_be_accepted(store: SqliteStore, path: Path) -> None:
    await store.close()
    path.with_name("ledger.db.marker").write_text("not json")
    assert "cannot be read" in (await SqliteStore(path).survey()).trouble
    await SqliteStore(path).adopt("ann")
    await store.start()


async def test_a_ledger_that_was_emptied_is_accepted_once_and_starts(store: SqliteStore, path: Path) -> None:
    await store.close()
    path.write_bytes(b"")
    with pytest.raises(LedgerLostError, match="is gone, but it was here"):
        await SqliteStore(path).start()
    found = await SqliteStore(path).survey()
    assert (found.ledger, found.entries, found.epoch, found.trouble) == ("", 0, 1, "is another ledger than before")
    assert path.read_bytes() == b"", "a look changes nothing"
    adopted = await SqliteStore(path).adopt("ann")
    assert adopted.ledger
    for _ in range(2):
        await store.start()
        assert (await store.survey()).ledger == adopted.ledger
        await store.submit(OpenScope(KEY, "", Limits()))
        assert await store.audit() == ()
        await store.close()


async def test_where_no_ledger_ever_was_there_is_nothing_to_accept(path: Path) -> None:
    path.write_bytes(b"")
    with pytest.raises(LedgerLostError, match="nothing to accept"):
        await SqliteStore(path).survey()
    assert path.read_bytes() == b""


async def test_what_is_no_ledger_cannot_be_accepted(path: Path) -> None:
    path.write_bytes(b"this is not a database, and it is longer than a header of a hundred bytes" * 20)
    with pytest.raises(LedgerUnavailableError, match="cannot be opened"):
        await SqliteStore(path).adopt("ann")
    with pytest.raises(LedgerUnavailableError, match="cannot be opened"):
        await SqliteStore(path).survey()


async def test_a_gateway_that_reopens_its_ledger_beside_a_damaged_marker_waits(store: SqliteStore, path: Path) -> None:
    marker = path.with_name("ledger.db.marker")
    text = marker.read_text()
    marker.write_text("{}")
    # Another file with the same content, so that it is opened anew.
    copy(path, path.with_name("aside.db"))
    restore(path.with_name("aside.db"), path)
    with pytest.raises(NotWrittenError, match="cannot be read"):
        await ask(store, "c1")
    marker.write_text(text)
    await spend(store, "c1")


async def test_the_marker_is_written_when_there_is_something_new(store: SqliteStore, path: Path) -> None:
    marker = path.with_name("ledger.db.marker")
    await store.dead_workers()
    before = marker.stat().st_ino
    await store.dead_workers()
    assert marker.stat().st_ino == before
    await spend(store, "c1")
    await store.dead_workers()
    assert json.loads(marker.read_text())["entries"] == 4


@pytest.mark.parametrize(
    ("ledger", "epoch", "entries", "wrong"),
    [
        ("L", 3, 10, ""),
        ("L", 3, 11, ""),
        ("L", 4, 0, ""),
        ("L", 3, 9, "it has 9 entries and had 10"),
        ("L", 2, 99, "it is in epoch 2 and was in epoch 3"),
        ("M", 9, 99, "another ledger"),
    ],
)
def test_a_ledger_is_compared_with_its_marker(ledger: str, epoch: int, entries: int, wrong: str) -> None:
    found = check(Marker("L", 10, 3), ledger, epoch, entries)
    assert wrong in found
    assert bool(found) == bool(wrong)
    assert check(None, ledger, epoch, entries) == ""


def test_a_marker_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    (tmp_path / "m").write_text('{"ledger": "L", "entries": 7}')
    assert markers.read(tmp_path / "m") == Marker("L", 7, 0)


# ---- the command ----------------------------------------------------------------------------------------------------


def command(path: Path, *args: str, given: str = "") -> Result:
    return CliRunner().invoke(cli, [*args, "--ledger", str(path)], input=given, prog_name="bursar")


def test_the_command_shows_what_is_missing_asks_and_accepts(path: Path, tmp_path: Path) -> None:
    backup = asyncio.run(went_back(path, tmp_path))
    for args in (("runs", "list"), ("ledger", "verify"), ("keys", "create", "x", "--usd", "1"), ("serve",)):
        refused = CliRunner().invoke(
            cli, [*args, "--ledger", str(path)], env={"OPENAI_API_KEY": "k"}, prog_name="bursar"
        )
        assert refused.exit_code == 1, args
        assert "bursar ledger adopt" in refused.output, args
    no = command(path, "ledger", "adopt", given="n\n")
    assert no.exit_code == 1
    assert "entries 5 to 6 are missing" in no.output
    assert command(path, "runs", "list").exit_code == 1
    yes = command(path, "ledger", "adopt", given="y\n")
    assert (yes.exit_code, "epoch 1" in yes.output) == (0, True)
    assert command(path, "runs", "list").exit_code == 0
    assert "nothing to accept" in command(path, "ledger", "adopt").output
    restore(backup, path)
    facts = json.loads(command(path, "ledger", "adopt", "--yes", "--json").stdout)
    assert (facts["adopted"], facts["epoch"], facts["entries"]) == (True, 2, 4)
    restore(backup, path)
    asked = command(path, "ledger", "adopt", "--json")
    assert asked.exit_code == 1
    assert json.loads(asked.stdout)["adopted"] is False
