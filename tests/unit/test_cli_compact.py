"""`bursar ledger compact`, its archive, and the task that folds in a gateway, on books with real entries in them."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bursar.cli.archive import ArchiveFile
from bursar.cli.common import FailedError
from bursar.cli.main import cli
from bursar.clock import Instant, SystemClock
from bursar.edge.retention import compact_all, keep_compact
from bursar.ledger.account import Amounts, Ask, Authorize, Basis, Limits, OpenScope, Settle
from bursar.ledger.store import DAY, Compacted, Entry, NotWrittenError
from bursar.stores.sqlite import SqliteStore

SCOPES = ("run:r-1", "key:local")
ASK = Ask(30, 20, 0, 1, 10, 10, 1, True)


class DaysAgo:
    def __init__(self, days: float) -> None:
        self.days = days

    def now(self) -> Instant:
        return Instant(SystemClock().now() - int(self.days * DAY))


async def fill(path: Path, calls: int = 3) -> None:
    """Calls of ten days ago, and one of today."""
    clock = DaysAgo(10)
    store = SqliteStore(path, clock)
    await store.start()
    for scope, limits in (("key:local", Limits()), ("run:r-1", Limits(usd=100_000, calls=5_000))):
        await store.submit(OpenScope(scope, "" if scope[0] == "k" else "key:local", limits))
    for number in range(calls + 1):
        if number == calls:
            clock.days = 0
        call = f"c{number}"
        await store.submit(Authorize(call, store.worker, SCOPES, ASK, "m1", "openai"))
        await store.submit(Settle(call, store.worker, Amounts(3, 1, 12), Basis.METERED, SCOPES, Amounts(30, 1, 30)))
    await store.close()


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    made = tmp_path / "ledger.db"
    asyncio.run(fill(made))
    return made


def call(path: Path, *args: str) -> Result:
    return CliRunner().invoke(cli, ["ledger", *args, "--ledger", str(path)], prog_name="bursar")


def facts(path: Path, *args: str) -> Any:
    result = call(path, *args, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(file.read_bytes()).splitlines()]


def test_old_calls_are_folded_and_the_rest_is_verified(path: Path) -> None:
    said = call(path, "compact", "--keep-days", "5").output
    assert said == "folded 8 entries, 3 calls and 0 accounts of periods that ended; the books begin after entry 8\n"
    assert call(path, "verify").exit_code == 0
    assert facts(path, "compact", "--keep-days", "5")["entries"] == 0
    gone = call(path, "adjust", "c0", "--usd", "1", "--evidence", "invoice")
    assert gone.exit_code == 1
    assert "folded away with its entries" in gone.output
    assert call(path, "adjust", "c3", "--usd", "0.000000001", "--evidence", "invoice").exit_code == 0


def test_how_long_entries_are_kept_is_a_setting_and_has_to_be_said(path: Path, tmp_path: Path) -> None:
    assert call(path, "compact").exit_code == 2
    assert call(path, "compact", "--keep-days", "1").exit_code == 2
    (tmp_path / "bursar.toml").write_text("[ledger]\nkeep_days = 20\n")
    assert facts(path, "compact")["entries"] == 0
    (tmp_path / "bursar.toml").write_text("[ledger]\nkeep_days = 1\n")
    assert call(path, "compact").exit_code == 2
    (tmp_path / "bursar.toml").write_text("[ledger]\nkeep_days = 2\n")
    assert facts(path, "compact")["entries"] == 8


def test_books_that_do_not_agree_are_not_folded(path: Path) -> None:
    import sqlite3

    with sqlite3.connect(path) as connection:
        connection.execute("DROP TRIGGER entries_never_change")
        connection.execute("UPDATE entries SET usd = 10000000 WHERE seq = 3")
    said = call(path, "compact", "--keep-days", "5")
    assert said.exit_code == 1
    assert "is taken over its limit" in said.output
    assert json.loads(call(path, "compact", "--keep-days", "5", "--json").stdout)["seq"] == 0


def test_the_archive_has_what_was_folded(path: Path, tmp_path: Path) -> None:
    exported = [json.loads(line) for line in call(path, "export").stdout.splitlines()]
    file = tmp_path / "old.jsonl.gz"
    assert call(path, "compact", "--keep-days", "5", "--archive", str(file)).exit_code == 0
    head, *kept = lines(file)
    assert list(head) == ["ledger"]
    assert kept == exported[:8]


def test_another_process_that_folds_is_left_alone(path: Path) -> None:
    async def begin() -> None:
        store = SqliteStore(path)
        await store.start()
        assert (await store.compact(2, 1)).entries == 1
        await store.close()

    asyncio.run(begin())
    said = call(path, "compact", "--keep-days", "5")
    assert (said.exit_code, "another process" in said.output) == (1, True)


# ---- the archive ----------------------------------------------------------------------------------------------------


def entry(seq: int) -> Entry:
    return Entry(seq, Instant(1), "void", f"c{seq}", "w", 0, 0, 0, (), {"proof": "x" * 50})


def add(file: Path, *entries: Entry, ledger: str = "L") -> None:
    with ArchiveFile(file, ledger) as archive:
        archive.add(list(entries))


def test_an_archive_is_continued_and_has_no_entry_twice(tmp_path: Path) -> None:
    file = tmp_path / "a.gz"
    add(file, entry(1), entry(2))
    add(file, entry(1), entry(2))
    add(file, entry(2), entry(3))
    add(file)
    assert [line.get("seq") for line in lines(file)] == [None, 1, 2, 3]


def test_what_a_crash_left_half_written_is_cut_off(tmp_path: Path) -> None:
    file = tmp_path / "a.gz"
    add(file, entry(1))
    whole = file.read_bytes()
    add(file, entry(2))
    full = file.read_bytes()
    for end in (len(whole) + 1, len(whole) + 12, len(full) - 1):
        file.write_bytes(full[:end])
        add(file, entry(2), entry(3))
        assert [line.get("seq") for line in lines(file)] == [None, 1, 2, 3]
    file.write_bytes(whole + b"\0" * 40)
    add(file, entry(2))
    assert [line.get("seq") for line in lines(file)] == [None, 1, 2]


def test_a_file_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "a.gz"
    add(file, entry(1))
    before = file.read_bytes()
    with pytest.raises(FailedError, match="another ledger"):
        add(file, entry(2), ledger="M")
    file.write_text("my diary")
    with pytest.raises(FailedError, match="no archive"):
        add(file, entry(2))
    assert file.read_text() == "my diary"
    file.write_bytes(before)
    with pytest.raises(FailedError, match="cannot be written"):
        add(tmp_path / "none" / "a.gz", entry(1))


# ---- in a gateway ---------------------------------------------------------------------------------------------------


async def test_many_steps_are_summed_and_told(tmp_path: Path) -> None:
    await fill(tmp_path / "l.db", calls=600)
    store = SqliteStore(tmp_path / "l.db")
    await store.start()
    told: list[Compacted] = []
    done = await compact_all(store, 5, tell=told.append)
    assert done == told[-1] == Compacted(1202, 600, 0, 1202)
    assert [step.entries for step in told[:2]] == [200, 400]
    assert await store.audit() == ()
    await store.close()


async def test_a_gateway_folds_until_it_ends_and_tries_again_after_trouble(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Away(SqliteStore):
        looks = 0

        async def compact(self, keep_days: int, entries_max: int, archive: Any = None) -> Compacted:
            self.looks += 1
            if self.looks == 1:
                raise NotWrittenError("the disk is full")
            step = await super().compact(keep_days, entries_max, archive)
            if step.is_done:
                asyncio.current_task().cancel()  # type: ignore[union-attr]
            return step

    store = Away(path)
    await store.start()
    with caplog.at_level(logging.WARNING), pytest.raises(asyncio.CancelledError):
        await keep_compact(store, 5, every_seconds=0)
    assert store.looks == 3
    assert "the disk is full" in caplog.text
    assert [row.call_id for row in await store.holds()] == ["c3"]
    await store.close()
