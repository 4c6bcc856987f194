"""The commands on the books, on a ledger with real entries in it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bursar.cli.main import cli
from bursar.ledger.account import Amounts, Ask, Authorize, Basis, Granted, Limits, Opened, OpenScope, Settle, Settled
from bursar.ledger.store import Store
from bursar.stores import open_store

SCOPES = ("run:r-1", "key:local")


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "ledger.db"
    asyncio.run(fill(path))
    return path


async def fill(path: Path) -> None:
    """One run: a call that cost 3, and one in flight that holds 30."""
    store = open_store(f"sqlite:///{path}")
    await store.start()
    opened = await store.submit(OpenScope("key:local", "", Limits()))
    assert isinstance(opened, Opened)
    await store.submit(OpenScope("run:r-1", "key:local", Limits(usd=1000, calls=5), label="claude"))
    for call in ("c-1", "c-2"):
        assert isinstance(await store.submit(authorize(store, call)), Granted)
    await settle(store, "c-1", 3)
    await store.close()


def authorize(store: Store, call: str) -> Authorize:
    ask = Ask(30, 20, 0, 1, tokens_wanted=10, tokens_comfort=10, tokens_floor=1, client_bounded=True)
    return Authorize(call, store.worker, SCOPES, ask, model="gpt-4.1-mini", upstream="openai")


async def settle(store: Store, call: str, usd: int) -> None:
    actual, held = Amounts(usd, 1, 12), Amounts(30, 1, 30)
    assert isinstance(await store.submit(Settle(call, store.worker, actual, Basis.METERED, SCOPES, held)), Settled)


async def overrun(path: Path) -> None:
    store = open_store(f"sqlite:///{path}")
    await store.start()
    assert isinstance(await store.submit(authorize(store, "c-3")), Granted)
    await settle(store, "c-3", 50)
    await store.close()


def call(path: Path, *args: str) -> Result:
    return CliRunner().invoke(cli, [*args, "--ledger", str(path)], prog_name="bursar")


def facts(path: Path, *args: str) -> Any:
    result = call(path, *args, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def usd_of(accounts: list[dict[str, Any]]) -> dict[str, Any]:
    return next(account for account in accounts if account["unit"] == "usd")


# ---- runs -----------------------------------------------------------------------------------------------------------


def test_runs_are_listed_with_what_they_spent_and_hold(ledger: Path) -> None:
    (row,) = facts(ledger, "runs", "list")
    assert (row["run"], row["key"], row["command"], row["calls_open"]) == ("r-1", "local", "claude", 1)
    money = usd_of(row["accounts"])
    assert (money["limit"], money["captured"], money["held"]) == (1000, 3, 30)
    words = call(ledger, "runs", "list").output.splitlines()[1].split()
    assert words[:7] == ["r-1", "claude", "open", "$0.000000003", "$0.00000003", "$0.000001", "1/5"]


def test_a_run_is_shown_with_its_calls(ledger: Path) -> None:
    shown = facts(ledger, "runs", "show", "r-1")
    assert [(one["call"], one["state"]) for one in shown["calls"]] == [("c-2", "open"), ("c-1", "captured")]
    assert len(facts(ledger, "runs", "show", "r-1", "--limit", "1")["calls"]) == 1
    text = call(ledger, "runs", "show", "r-1").output
    assert "c-1" in text
    assert "metered" in text


def test_a_run_is_raised_and_lowered(ledger: Path) -> None:
    money = usd_of(facts(ledger, "runs", "raise", "r-1", "--usd", "2", "--calls", "7", "--tokens", "9")["accounts"])
    assert money["limit"] == 2_000_000_000
    units = {account["unit"]: account["limit"] for account in facts(ledger, "runs", "show", "r-1")["accounts"]}
    assert units == {"usd": 2_000_000_000, "calls": 7, "tokens": 9}
    assert "$0.00 " in call(ledger, "runs", "raise", "r-1", "--usd", "0").output


def test_raising_nothing_is_a_mistake(ledger: Path) -> None:
    result = call(ledger, "runs", "raise", "r-1")
    assert (result.exit_code, "--usd, --calls or --tokens" in result.output) == (2, True)


def test_a_run_is_stopped_and_resumed(ledger: Path) -> None:
    assert {account["state"] for account in facts(ledger, "runs", "stop", "r-1")["accounts"]} == {"stopped"}
    assert " stopped " in call(ledger, "runs", "list").output
    assert {account["state"] for account in facts(ledger, "runs", "resume", "r-1")["accounts"]} == {"open"}


@pytest.mark.parametrize("args", [("show",), ("stop",), ("resume",), ("raise", "--calls", "1")], ids=" ".join)
def test_a_run_that_is_not_there_is_named(ledger: Path, args: tuple[str, ...]) -> None:
    result = call(ledger, "runs", args[0], "r-none", *args[1:])
    assert result.exit_code == 1
    assert result.output == "bursar: there is no run r-none; `bursar runs list` shows them\n"


def test_top_shows_the_runs_once_or_line_by_line(ledger: Path) -> None:
    assert "r-1" in call(ledger, "top", "--once").output
    (row,) = json.loads(call(ledger, "top", "--once", "--json").output)
    assert row["run"] == "r-1"


# ---- keys -----------------------------------------------------------------------------------------------------------


def test_a_key_is_made_shown_once_and_revoked(ledger: Path) -> None:
    made = facts(ledger, "keys", "create", "ci", "--run-usd", "1.5", "--run-calls", "9", "--usd", "20", "--calls", "90")
    assert made["secret"].startswith("bursar-")
    (row,) = facts(ledger, "keys", "list")
    assert row["run_caps"] == {"usd_nanodollars": 1_500_000_000, "calls": 9, "tokens": None}
    assert made["secret"] not in call(ledger, "keys", "list").output
    with sqlite3.connect(ledger) as books:
        ((digest,),) = books.execute("SELECT digest FROM keys").fetchall()
        limits = dict(books.execute("SELECT unit, cap FROM accounts WHERE scope = 'key:ci'").fetchall())
    assert digest == hashlib.sha256(made["secret"].encode()).hexdigest()
    assert sorted(limits.values()) == [90, 20_000_000_000]
    assert call(ledger, "keys", "revoke", "ci").output == "revoked 1 of ci\n"
    assert facts(ledger, "keys", "list") == []
    assert facts(ledger, "keys", "list", "--all")[0]["revoked_at"] is not None
    assert "no key ci that could be revoked" in call(ledger, "keys", "revoke", "ci").output


def test_a_key_takes_the_run_caps_of_the_settings(ledger: Path) -> None:
    (ledger.parent / "bursar.toml").write_text('[defaults.run]\nusd = "2"\n[keys.ci]\nrun = { calls = 4 }\n')
    call(ledger, "keys", "create", "ci")
    (row,) = facts(ledger, "keys", "list")
    assert row["run_caps"] == {"usd_nanodollars": 2_000_000_000, "calls": 4, "tokens": None}


def test_the_secret_alone_goes_to_stdout(ledger: Path) -> None:
    result = call(ledger, "keys", "create", "ci")
    assert result.stdout.startswith("bursar-")
    assert result.stdout.count("\n") == 1
    assert "shown only now" in result.stderr


def test_a_key_name_that_cannot_be_a_scope_is_refused(ledger: Path) -> None:
    assert call(ledger, "keys", "create", "a b").exit_code == 2


# ---- ledger ---------------------------------------------------------------------------------------------------------


def test_the_books_agree_until_somebody_changes_them(ledger: Path) -> None:
    assert facts(ledger, "ledger", "verify") == {"agrees": True, "findings": []}
    assert "agree with their entries" in call(ledger, "ledger", "verify").output
    with sqlite3.connect(ledger) as books:
        books.execute("UPDATE accounts SET captured = captured + 1 WHERE scope = 'run:r-1'")
    result = call(ledger, "ledger", "verify", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["agrees"] is False
    assert "run:r-1/usd/lifetime" in call(ledger, "ledger", "verify").output


def test_open_holds_are_listed(ledger: Path) -> None:
    (hold,) = facts(ledger, "ledger", "holds")
    assert (hold["call"], hold["held"]["usd_nanodollars"]) == ("c-2", 30)
    assert "c-2" in call(ledger, "ledger", "holds").output


def test_a_call_is_adjusted_with_evidence(ledger: Path) -> None:
    adjusted = facts(ledger, "ledger", "adjust", "c-1", "--usd", "0.000000002", "--evidence", "invoice 7")
    assert adjusted["captured"] == {"usd_nanodollars": 2, "calls": 1, "tokens": 12}
    assert usd_of(facts(ledger, "runs", "show", "r-1")["accounts"])["captured"] == 2
    assert (
        "c-1: booked at $0.000000001"
        in call(ledger, "ledger", "adjust", "c-1", "--usd", "0.000000001", "--evidence", "invoice 8").output
    )
    assert "invoice 7" in call_export(ledger)[-2]["detail"].values()
    assert facts(ledger, "ledger", "verify")["agrees"] is True


def test_a_call_in_flight_or_unknown_is_not_adjusted(ledger: Path) -> None:
    for name, why in (("c-2", "cannot be adjusted"), ("c-none", "there is no call c-none")):
        result = call(ledger, "ledger", "adjust", name, "--usd", "1", "--evidence", "x")
        assert result.exit_code == 1
        assert why in result.output


def call_export(path: Path, *args: str) -> list[dict[str, Any]]:
    return [json.loads(one) for one in call(path, "ledger", "export", *args).stdout.splitlines()]


def test_entries_are_exported_in_order_from_where_one_says(ledger: Path, tmp_path: Path) -> None:
    entries = call_export(ledger)
    assert [entry["kind"] for entry in entries] == ["open", "open", "authorize", "authorize", "capture"]
    assert call_export(ledger, "--after", str(entries[2]["seq"])) == entries[3:]
    call(ledger, "ledger", "export", "--json", str(tmp_path / "out.jsonl"))
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 5


def test_a_ledger_that_is_gone_is_not_quietly_begun_anew(ledger: Path) -> None:
    for path in ledger.parent.glob("ledger.db*"):
        if path.is_file() and path.name in ("ledger.db", "ledger.db-wal", "ledger.db-shm"):
            path.unlink()
    result = call(ledger, "keys", "create", "ci")
    assert result.exit_code == 1
    assert result.output.startswith(f"bursar: ledger sqlite:///{ledger}: ")


# ---- prices ---------------------------------------------------------------------------------------------------------


def prices(*args: str) -> Result:
    return CliRunner().invoke(cli, ["prices", *args], prog_name="bursar")


def test_a_model_is_shown_with_its_rates_and_bounds(ledger: Path) -> None:
    (shown,) = json.loads(prices("show", "gpt-4.1-mini", "--json").output)
    assert shown["upstream"] == "openai"
    assert shown["output_tokens_max"] == 32_768
    assert {"tier": "default", "input": "0.40", "output": "1.60"}.items() <= shown["rates"][0].items()
    assert "default" in prices("show", "gpt-4.1-mini").output


def test_a_model_without_price_says_what_to_add(ledger: Path) -> None:
    result = prices("show", "my-own")
    assert result.exit_code == 1
    assert '[models."my-own"]' in result.output
    assert "there is no upstream x" in prices("show", "gpt-4.1-mini", "--upstream", "x").output


def test_models_are_listed_own_ones_too(ledger: Path) -> None:
    (ledger.parent / "bursar.toml").write_text(
        '[models."my-own"]\ninput = "1"\noutput = 2.5\ncontext_tokens = 1000\noutput_tokens_max = 100\n'
    )
    listed = json.loads(prices("list", "--upstream", "anthropic", "--json").output)
    assert {"my-own", "claude-sonnet-4-5"} <= {one["model"] for one in listed}
    assert "my-own" in prices("list", "--upstream", "openai").output
    unpriced = [one for one in json.loads(prices("list", "--all", "--json").output) if "unpriced" in one]
    assert unpriced
    assert unpriced[0]["model"] in prices("list", "--all").output


def test_check_says_which_models_are_let_through_and_clear_lifts_a_quarantine(ledger: Path) -> None:
    assert facts(ledger, "prices", "check", "gpt-4.1-mini") == [{"model": "gpt-4.1-mini", "ok": True, "why": ""}]
    unknown = call(ledger, "prices", "check", "gpt-4.1-mini", "nonsense")
    assert (unknown.exit_code, "refused" in unknown.output) == (1, True)
    asyncio.run(overrun(ledger))
    held = call(ledger, "prices", "check", "gpt-4.1-mini")
    assert held.exit_code == 1
    assert "`bursar prices clear gpt-4.1-mini`" in held.output
    assert "let through again" in call(ledger, "prices", "clear", "gpt-4.1-mini").output
    assert call(ledger, "prices", "check", "gpt-4.1-mini").exit_code == 0
    assert "is not in quarantine" in call(ledger, "prices", "clear", "gpt-4.1-mini").output


def test_check_needs_no_ledger(tmp_path: Path) -> None:
    assert call(tmp_path / "none.db", "prices", "check", "gpt-4.1-mini").exit_code == 0
    assert list(tmp_path.iterdir()) == []
