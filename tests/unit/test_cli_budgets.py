"""`bursar budgets` on books with real entries in them; how slots and periods that ended are told."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bursar.cli.main import cli
from bursar.clock import SECOND, Instant, SystemClock
from bursar.edge.admin.positions import positions
from bursar.ledger.account import Account, AccountState, Limits, OpenScope, Unit
from bursar.ledger.periods import named, slot_of
from bursar.stores.sqlite import SqliteStore

NOON = Instant(1_795_435_200 * SECOND)
HOUR = 3_600 * SECOND


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)

    async def fill() -> None:
        store = SqliteStore(tmp_path / "l.db")
        await store.start()
        await store.submit(OpenScope("key:ci", "", Limits(usd=5_000_000_000)))
        await store.submit(OpenScope("run:r1", "key:ci", Limits(calls=7)))
        await store.close()

    asyncio.run(fill())
    return tmp_path / "l.db"


def call(path: Path, *args: str) -> Result:
    return CliRunner().invoke(cli, ["budgets", *args, "--ledger", str(path)], prog_name="bursar")


def facts(path: Path, *args: str) -> Any:
    result = call(path, *args, "--json")
    assert result.exit_code == 0, result.output
    return [(row["scope"], row["unit"], row["period"], row["limit"]) for row in json.loads(result.stdout)]


def test_every_cap_is_listed_and_what_has_none_is_not(path: Path) -> None:
    assert facts(path, "list") == [
        ("key:ci", "usd", "lifetime", 5_000_000_000),
        ("run:r1", "calls", "lifetime", 7),
    ]
    assert ("key:ci", "calls", "lifetime", None) in facts(path, "list", "--scope", "key:ci")


def test_a_cap_is_set_for_a_lifetime_a_period_and_a_window(path: Path) -> None:
    assert facts(path, "set", "key:ci", "--usd", "9") == [
        ("key:ci", "usd", "lifetime", 9_000_000_000),
        ("key:ci", "calls", "lifetime", None),
    ]
    assert facts(path, "set", "key:ci", "--calls", "3", "--tokens", "4", "--period", "week") == [
        ("key:ci", "calls", "week", 3),
        ("key:ci", "tokens", "week", 4),
    ]
    zone = ("--period", "day", "--timezone", "Europe/Berlin")
    assert facts(path, "set", "key:ci", "--usd", "0.5", *zone) == [
        ("key:ci", "usd", "day (Europe/Berlin)", 500_000_000)
    ]
    assert facts(path, "set", "run:r1", "--calls", "2", "--period", "rolling 5h") == [
        ("run:r1", "calls", "rolling 5h", 2)
    ]
    assert facts(path, "remove", "key:ci", "--unit", "usd", *zone) == [("key:ci", "usd", "day (Europe/Berlin)", None)]
    assert len(facts(path, "list")) == 5
    text = call(path, "list", "--scope", "run:r1").output
    assert "rolling 5h" in text
    assert text.splitlines()[0].split() == ["SCOPE", "UNIT", "PERIOD", "LIMIT", "SPENT", "HELD", "STATE", "ENDS"]


def test_who_has_no_account_yet_is_known_from_the_first_cap_on(path: Path) -> None:
    for scope in (
        "org",
        "team:research",
        "user:a@b.c",
        "tag:env=prod",
        "tag:nightly",
        "model:gpt-*",
        "upstream:openai",
    ):
        assert facts(path, "set", scope, "--usd", "2", "--period", "day") == [(scope, "usd", "day", 2_000_000_000)]

    async def bys() -> list[object]:
        store = SqliteStore(path)
        await store.start()
        found = [entry.detail["by"] async for entry in store.entries() if entry.kind == "limit"]
        await store.close()
        return found

    assert call(path, "remove", "org", "--unit", "usd", "--period", "day", "--by", "ann").exit_code == 0
    assert asyncio.run(bys())[-1] == "ann"


def test_the_time_zone_of_the_policy_is_the_default(path: Path, tmp_path: Path) -> None:
    (tmp_path / "bursar.toml").write_text('[policy]\ntimezone = "Asia/Kolkata"\n')
    assert facts(path, "set", "key:ci", "--calls", "3", "--period", "day")[0][2] == "day (Asia/Kolkata)"
    utc = facts(path, "set", "key:ci", "--calls", "3", "--period", "day", "--timezone", "UTC")
    assert [row[2] for row in utc] == ["day"]


@pytest.mark.parametrize(
    ("args", "status", "said"),
    [
        (("set", "key:ci"), 2, "say which cap"),
        (("set", "key:ci", "--usd", "1", "--period", "year"), 2, "not a period"),
        (("set", "key:ci", "--usd", "1", "--period", "day", "--timezone", "Mars/Base"), 2, "not a time zone"),
        (("set", "ci", "--usd", "1"), 1, "there are org, team:NAME"),
        (("remove", "key:ci", "--unit", "usd", "--period", "day"), 1, "has no such budget"),
        (("remove", "key:ci"), 2, "--unit"),
        (("remove", "team:nobody", "--unit", "usd"), 1, "has no such budget"),
        (("set", "key:none", "--usd", "1"), 1, "does not know key:none"),
        (("set", "model:gpt-*-x", "--usd", "1"), 1, "model:gpt-*"),
        (("set", "upstream:o*", "--usd", "1"), 1, "upstream:NAME"),
        (("list", "--scope", "key:none"), 1, "does not know key:none"),
    ],
)
def test_what_cannot_be_done_is_said(path: Path, args: tuple[str, ...], status: int, said: str) -> None:
    result = call(path, *args)
    assert (result.exit_code, said in result.output) == (status, True), result.output


def account(spec: str, at: int, captured: int, **changes: Any) -> Account:
    slot = slot_of(spec, Instant(at))
    facts: dict[str, Any] = {"limit": 9, "ceiling": 9, "captured": captured, "held": 1} | changes
    return Account("key:ci", Unit.CALLS, named(spec, slot.starts_at), starts_at=slot[0], ends_at=slot[1], **facts)


def test_a_period_that_has_ended_has_nothing_spent_until_a_call_turns_it() -> None:
    yesterday = account("day", NOON - 24 * HOUR, 5, held=0)
    (row,) = positions([yesterday], NOON)
    assert (row.limit, row.spent, row.held) == (9, 0, 0)
    assert row.ends_at == slot_of("day", NOON).ends_at
    (row,) = positions([account("day", NOON, 5)], NOON)
    assert (row.spent, row.held) == (5, 1)


def test_a_window_is_all_of_its_slots_that_are_still_in_it() -> None:
    slots = [
        account("rolling-12h", NOON, 4, limit=8, state=AccountState.STOPPED, overrun=2),
        account("rolling-12h", NOON - 11 * HOUR, 2),
        account("rolling-12h", NOON - 14 * HOUR, 1),
    ]
    (row,) = positions(slots, NOON)
    assert (row.limit, row.spent, row.held, row.state, row.ends_at) == (8, 8, 3, "stopped", None)


def test_a_lifetime_has_no_end() -> None:
    lifetime = Account("key:ci", Unit.USD, "lifetime", 5, 5, captured=3, overrun=1)
    (row,) = positions([lifetime], SystemClock().now())
    assert (row.spent, row.ends_at) == (4, None)
