"""Limits at run time: what an operator or the settings say is what the next call of every gateway meets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from bodies import CHAT
from click.testing import CliRunner
from conftest import KEY_ENV, Wire, wire_up
from scripted import Answer, answer, play

from bursar.cli.main import cli
from bursar.ledger.account import Unit
from bursar.ledger.store import Store


def keys(**changes: Any) -> dict[str, Any]:
    return {"wire": {"key_env": KEY_ENV, "run": {"usd": "5.00", "calls": 500}, **changes}}


async def ask(wire: Wire) -> Answer:
    wire.provider.script = play(answer(CHAT.reply))
    return await wire.post(CHAT.path, CHAT.request, x_bursar_run="r1")


async def command(folder: Path, *args: str) -> str:
    ledger = str(folder / "ledger.db")
    done = await asyncio.to_thread(CliRunner().invoke, cli, [*args, "--ledger", ledger], prog_name="bursar")
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[tuple[Wire, Wire]]:
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(wire_up(tmp_path, keys=keys()))
        other = await stack.enter_async_context(wire_up(tmp_path, keys=keys()))
        yield one, other


async def test_every_gateway_meets_a_changed_limit_with_its_next_call(two: tuple[Wire, Wire], tmp_path: Path) -> None:
    one, other = two
    assert [(await ask(wire)).status for wire in two] == [200, 200]
    await command(tmp_path, "budgets", "set", "key:wire", "--calls", "1", "--period", "day")
    assert [(await ask(wire)).status for wire in (other, one)] == [200, 429]
    await command(tmp_path, "budgets", "set", "key:wire", "--calls", "3", "--period", "day")
    assert [(await ask(wire)).status for wire in (one, other, one)] == [200, 200, 429]
    await command(tmp_path, "budgets", "remove", "key:wire", "--unit", "calls", "--period", "day")
    assert [(await ask(wire)).status for wire in (one, other)] == [200, 200]
    await command(tmp_path, "budgets", "set", "key:wire", "--usd", "0")
    assert [(await ask(wire)).status for wire in (one, other)] == [429, 429]
    await command(tmp_path, "budgets", "set", "key:wire", "--usd", "5")
    await command(tmp_path, "runs", "stop", "r1")
    assert [(await ask(wire)).status for wire in (one, other)] == [429, 429]
    await command(tmp_path, "runs", "resume", "r1")
    await command(tmp_path, "runs", "raise", "r1", "--calls", "501")
    assert [(await ask(wire)).status for wire in (one, other)] == [200, 200]
    assert await one.audit() == []


async def test_a_refusal_names_the_budget_its_period_and_when_it_comes_anew(tmp_path: Path) -> None:
    budgets = [{"calls": 1, "period": "day", "timezone": "Europe/Berlin"}, {"calls": 9, "period": "rolling 1h"}]
    async with wire_up(tmp_path, keys=keys(budgets=budgets)) as wire:
        assert (await ask(wire)).status == 200
        refused = await ask(wire)
        error = refused.json["error"]
        assert refused.status == 429
        assert "the cap of 1 calls per day (Europe/Berlin) on key:wire is spent" in error["message"]
        found = error["bursar"]
        (day,) = [one for one in await wire.store.accounts("key:wire") if one.period.startswith("day@")]
        resets_at = found["resets_at"]
        assert found["period"] == "day (Europe/Berlin)"
        assert f"there is more at {resets_at}" in error["message"]
        assert day.ends_at // 1_000_000 == int(__import__("datetime").datetime.fromisoformat(resets_at).timestamp())
        await command(tmp_path, "budgets", "set", "key:wire", "--calls", "100", "--period", "day",
                      "--timezone", "Europe/Berlin")  # fmt: skip
        await command(tmp_path, "budgets", "set", "key:wire", "--calls", "1", "--period", "rolling 1h")
        assert "1 calls per rolling 1h on key:wire" in (await ask(wire)).json["error"]["message"]


async def limits(store: Store) -> dict[str, int | None]:
    accounts = await store.accounts("key:wire")
    return {f"{one.unit}/{one.period.partition(' ')[0]}": one.limit for one in accounts}


async def started(folder: Path, policy: dict[str, Any] | None = None, **changes: Any) -> dict[str, int | None]:
    """Start a gateway with these settings of its key, and give the limits that hold then."""
    async with wire_up(folder, keys=keys(**changes), policy=policy or {}) as wire:
        return await limits(wire.store)


async def test_settings_are_in_force_at_the_start_and_again_only_when_they_change(tmp_path: Path) -> None:
    day = {"usd": "50", "period": "day"}
    first = await started(tmp_path, usd="9", budgets=[day, {"tokens": 5_000, "period": "month"}])
    assert first == {"usd/lifetime": 9_000_000_000, "calls/lifetime": None, "usd/day": 50_000_000_000,
                     "tokens/month": 5_000}  # fmt: skip
    # In an emergency somebody lowers a limit; a worker that starts anew does not bring it back.
    await command(tmp_path, "budgets", "set", "key:wire", "--usd", "0", "--period", "day")
    await command(tmp_path, "budgets", "set", "key:wire", "--usd", "1")
    again = await started(tmp_path, usd="9", budgets=[{"tokens": 5_000, "period": "month"}, day])
    assert (again["usd/day"], again["usd/lifetime"]) == (0, 1_000_000_000)
    # Settings that changed are in force, and what was taken out of them limits nothing any more.
    changed = await started(tmp_path, usd="9", budgets=[{"usd": "60", "period": "day"}])
    assert changed == {"usd/lifetime": 9_000_000_000, "calls/lifetime": None, "usd/day": 60_000_000_000,
                       "tokens/month": None}  # fmt: skip


async def test_budgets_take_the_time_zone_of_the_policy(tmp_path: Path) -> None:
    found = await started(tmp_path, {"timezone": "Asia/Kolkata"}, budgets=[{"usd": "1", "period": "week"}])
    assert found["usd/week@Asia:Kolkata"] == 1_000_000_000


async def test_budgets_are_listed_with_what_is_spent_of_them(tmp_path: Path) -> None:
    budgets = [{"calls": 5, "period": "day"}, {"calls": 7, "period": "rolling 1h"}]
    async with wire_up(tmp_path, keys=keys(budgets=budgets)) as wire:
        assert (await ask(wire)).status == 200
        await wire.settled(1)
        rows = json.loads(await command(tmp_path, "budgets", "list", "--scope", "key:wire", "--json"))
        spent = {(row["unit"], row["period"]): (row["limit"], row["spent"], row["held"]) for row in rows}
        assert spent["calls", "day"] == (5, 1, 0)
        assert spent["calls", "rolling 1h"] == (7, 1, 0)
        assert spent["usd", "lifetime"][0] is None
        text = await command(tmp_path, "budgets", "list")
        assert "rolling 1h" in text
        assert "usd     lifetime" not in text.replace("run:r1", "")  # a key without a cap in USD is no budget
        shown = await command(tmp_path, "runs", "show", "r1")
        assert "lifetime" in shown
        assert (await wire.account("run:r1", Unit.CALLS)).captured == 1
