"""`bursar keys`: what a key may do is kept, shown and changed, and the books say by whom."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bursar.cli.main import cli
from bursar.stores import open_store


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def keys(*args: str) -> Result:
    return CliRunner().invoke(cli, ["keys", *args, "--ledger", "ledger.db"], prog_name="bursar")


def facts(*args: str) -> Any:
    result = keys(*args, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def notes() -> list[tuple[object, ...]]:
    async def read() -> list[tuple[object, ...]]:
        store = open_store("sqlite:///ledger.db")
        await store.start()
        try:
            found = [entry.detail async for entry in store.entries() if entry.kind == "note"]
            return [(one["by"], one["what"], one["subject"], one["before"], one["after"]) for one in found]
        finally:
            await store.close()

    return asyncio.run(read())


def test_a_key_keeps_what_it_may_do_and_the_books_say_who_made_it() -> None:
    made = facts(
        *("create", "ci", "--team", "red", "--user", "*", "--tag", "env=prod", "--tag", "beta", "--require-tag", "job"),
        *("--models", "gpt-*", "--upstreams", "openai", "--network", "10.0.0.0/8", "--runs-per-hour", "7"),
        *("--expires", "2099-01-31", "--by", "ann"),
    )
    (row,) = facts("list")
    assert row["terms"] == {
        "team": "red",
        "user": "*",
        "tags": ["env=prod", "beta"],
        "tags_required": ["job"],
        "models": ["gpt-*"],
        "upstreams": ["openai"],
        "networks": ["10.0.0.0/8"],
        "runs_per_hour_max": 7,
    }
    assert (row["id"], row["expires_at"]) == (made["id"], "2099-01-31T00:00:00Z")
    ((by, what, subject, before, after),) = notes()
    assert (by, what, subject, before) == ("ann", "key created", "key:ci", "")
    assert json.loads(str(after))["terms"] == row["terms"]
    assert made["secret"] not in Path("ledger.db").read_bytes().decode("latin-1")
    assert "team=red" in keys("list").output


@pytest.mark.parametrize(
    "option",
    [
        ("--tag", "ENV=prod"),
        ("--tag", "env=a b"),
        ("--require-tag", "env=prod"),
        ("--team", "a b"),
        ("--network", "10.0.0.1/8"),
        ("--expires", "soon"),
        ("--expires", "2027-01-31T18:00:00"),
        ("--expires", "2020-01-31"),
        ("--role", "root"),
        ("--runs-per-hour", "0"),
    ],
)
def test_what_no_gateway_could_read_is_not_kept(option: tuple[str, str]) -> None:
    assert keys("create", "ci", *option).exit_code == 2
    assert not Path("ledger.db").exists()


def test_an_old_secret_goes_on_for_the_overlap_and_ends_at_once_without() -> None:
    first = facts("create", "ci", "--team", "red")
    second = facts("rotate", "ci", "--by", "bob")
    rows = {row["id"]: row for row in facts("list")}
    assert rows.keys() == {first["id"], second["id"]}
    assert rows[first["id"]]["expires_at"] is not None
    assert rows[second["id"]]["expires_at"] is None
    assert rows[second["id"]]["terms"] == {"team": "red"}
    both = keys("rotate", "ci")
    assert both.exit_code == 1
    assert first["id"] in both.output
    third = facts("rotate", "ci", "--id", second["id"], "--overlap", "0")
    assert {row["id"] for row in facts("list")} == {first["id"], third["id"]}
    assert len(facts("list", "--all")) == 3
    assert [note[:3] for note in notes()[1:]] == [
        ("bob", "key rotated", "key:ci"),
        (notes()[2][0], "key rotated", "key:ci"),
    ]
    assert "@" in str(notes()[2][0])
    assert keys("rotate", "nobody").exit_code == 1
    assert keys("rotate", "ci", "--overlap", "soon").exit_code == 2


def test_one_key_of_a_name_is_revoked_or_all_of_them() -> None:
    one, other = facts("create", "ci"), facts("create", "ci")
    assert facts("revoke", "--id", one["id"])["revoked"] == 1
    assert [row["id"] for row in facts("list")] == [other["id"]]
    assert facts("revoke", "ci", "--by", "ann")["revoked"] == 1
    assert facts("list") == []
    assert notes()[-1][:3] == ("ann", "key revoked", "key:ci")
    assert keys("revoke", "--id", one["id"]).exit_code == 1
    assert keys("revoke").exit_code == 2
    assert keys("revoke", "ci", "--id", one["id"]).exit_code == 2


def test_a_key_with_a_role_needs_no_caps() -> None:
    facts("create", "ops", "--role", "operator")
    (row,) = facts("list")
    assert row["terms"] == {"role": "operator"}
    assert row["run_caps"] == {"usd_nanodollars": None, "calls": None, "tokens": None}


# ---- runs -----------------------------------------------------------------------------------------------------------


def test_a_run_is_opened_for_a_key_inside_another_run_with_tags() -> None:
    facts("create", "ci", "--team", "red", "--tag", "env=prod")
    top = runs("open", "--key", "ci", "--usd", "2")
    inner = runs("open", "--key", "ci", "--calls", "3", "--parent", top["run"], "--tag", "job=7", "--label", "helper")
    assert top["secret"].startswith("bursar-run-")
    shown = runs("show", inner["run"])
    assert (shown["parents"], shown["tags"]) == ([top["run"]], ["job=7"])
    told = CliRunner().invoke(cli, ["runs", "show", inner["run"], "--ledger", "ledger.db"]).output
    assert f"inside: {top['run']}\ntags: job=7\n" in told
    limits = {row["unit"]: row["limit"] for row in inner["accounts"]}
    assert (inner["key"], inner["command"], limits["calls"]) == ("ci", "helper", 3)

    async def read() -> tuple[object, ...]:
        store = open_store("sqlite:///ledger.db")
        await store.start()
        try:
            return await store.path_of(f"run:{inner['run']}"), json.loads((await store.keys())[-1].terms_json)
        finally:
            await store.close()

    path, terms = asyncio.run(read())
    assert path == (f"run:{top['run']}", "tag:job=7")
    assert (terms["team"], terms["tags"]) == ("red", ["env=prod"])


@pytest.mark.parametrize(
    ("option", "status"),
    [(("--parent", "nobody"), 1), (("--tag", "a b"), 2), (("--tag", "env=dev"), 1), (("--key", "other"), 1)],
)
def test_a_run_that_cannot_be_is_not_opened(option: tuple[str, str], status: int) -> None:
    facts("create", "ci", "--tag", "env=prod")
    result = CliRunner().invoke(cli, ["runs", "open", "--key", "ci", *option, "--ledger", "ledger.db"])
    assert result.exit_code == status, result.output


def runs(*args: str) -> Any:
    result = CliRunner().invoke(cli, ["runs", *args, "--ledger", "ledger.db", "--json"], prog_name="bursar")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)
