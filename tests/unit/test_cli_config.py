"""`bursar config`: what the settings would change, before they do."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bursar.cli.main import cli
from bursar.edge.site import create_site
from bursar.settings import load

SETTINGS = """
[ledger]
url = "sqlite:///ledger.db"
[teams.research]
budgets = [{ usd = "200", period = "week" }]
[keys.ci]
key_env = "CI_KEY"
usd = "5"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-x")
    monkeypatch.setenv("CI_KEY", "bursar-config-secret")
    (tmp_path / "bursar.toml").write_text(SETTINGS)
    return tmp_path


def call(*args: str) -> Result:
    return CliRunner().invoke(cli, args, prog_name="bursar")


def start(folder: Path) -> None:
    """Start a gateway once, which puts the settings in force."""

    async def live() -> None:
        gateway = create_site(lambda: load(folder / "bursar.toml")).gateway
        await gateway.start()
        await gateway.stop()

    asyncio.run(live())


def differences() -> dict[tuple[str, str, str], tuple[int | None, int | None, str]]:
    rows = json.loads(call("config", "diff", "--json").stdout)
    return {(r["scope"], r["unit"], r["period"]): (r["settings"], r["in_force"], r["then"]) for r in rows}


def test_what_is_declared_is_set_at_the_next_start_and_what_people_set_stays(folder: Path) -> None:
    week, usd = ("team:research", "usd", "week"), ("key:ci", "usd", "lifetime")
    before = differences()
    assert before[week] == (200 * 10**9, None, "set")
    assert before[usd] == (5 * 10**9, None, "set")
    start(folder)
    result = call("config", "diff")
    assert (result.exit_code, result.output) == (0, "every limit that the settings declare is in force\n")
    call("budgets", "set", "key:ci", "--usd", "3")
    assert differences() == {usd: (5 * 10**9, 3 * 10**9, "stays")}
    (folder / "bursar.toml").write_text(SETTINGS.replace('usd = "5"', 'usd = "6"').replace('"week"', '"day"'))
    assert differences() == {
        usd: (6 * 10**9, 3 * 10**9, "set"),
        week: (None, 200 * 10**9, "removed"),
        ("team:research", "usd", "day"): (200 * 10**9, None, "set"),
    }
    result = call("config", "diff")
    assert result.exit_code == 1
    assert "$6.00" in result.output
    start(folder)
    assert differences() == {}


def test_a_check_says_what_is_wrong_and_which_variables_are_not_set(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = call("config", "check")
    assert result.exit_code == 0, result.output
    assert "1 key," in result.output
    monkeypatch.delenv("CI_KEY")
    result = call("config", "check", "--json")
    assert (result.exit_code, json.loads(result.stdout)["unset"]) == (1, {"CI_KEY": "the secret of [keys.ci]"})
    (folder / "bursar.toml").write_text("[keys.ci]\nno_such_key = 1\n")
    result = call("config", "check")
    assert result.exit_code == 2
    assert "no_such_key" in result.output
