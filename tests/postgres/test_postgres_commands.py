"""The commands on the books, on a ledger in PostgreSQL."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cluster import Cluster

from bursar.cli.main import cli

SECRET = "geheim"


@pytest.fixture
def ledger(postgres: Cluster, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give the URL of an empty database for its owner, who has a password."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    name = database.rpartition("/")[2]
    postgres.sql(f"CREATE ROLE owner_{name} LOGIN PASSWORD '{SECRET}'")
    postgres.sql(f"ALTER DATABASE {name} OWNER TO owner_{name}")
    return postgres.url(name, f"owner_{name}", SECRET)


def bursar(*arguments: str) -> Result:
    result = CliRunner().invoke(cli, arguments)
    assert SECRET not in result.output
    return result


def test_a_ledger_is_made_by_the_first_who_writes_and_by_nobody_who_looks(ledger: str) -> None:
    for look in (["keys", "list"], ["ledger", "verify"], ["runs", "list"], ["top"]):
        looked = bursar(*look, "--ledger", ledger)
        assert looked.exit_code == 1
        assert "no ledger at" in looked.output
    assert bursar("keys", "create", "ci", "--usd", "5", "--ledger", ledger).exit_code == 0
    listed = json.loads(bursar("keys", "list", "--json", "--ledger", ledger).stdout)
    assert [key["key"] for key in listed] == ["ci"]
    assert bursar("keys", "revoke", "ci", "--ledger", ledger).exit_code == 0


def test_a_database_that_does_not_answer_is_said_in_one_line_without_the_password(ledger: str) -> None:
    port = ledger.rpartition(":")[2].partition("/")[0]
    for wrong in (ledger + "_none", ledger.replace(port, "1"), ledger.replace(port, "99999"), ledger + "?sslmode=x"):
        said = bursar("ledger", "verify", "--ledger", wrong)
        assert said.exit_code == 1
        assert said.output.startswith("bursar: ledger postgresql://")
        assert said.output.count("\n") == 1


def test_a_password_among_the_options_is_not_said_either(ledger: str, postgres: Cluster) -> None:
    server = f"host={postgres.folder}&port={postgres.port}"
    said = bursar("ledger", "verify", "--ledger", f"postgresql:///none?{server}&user=nobody&password={SECRET}")
    assert said.exit_code == 1
    assert "password=***" in said.output


def test_the_books_are_verified_exported_and_held(ledger: str) -> None:
    assert bursar("keys", "create", "ci", "--usd", "5", "--ledger", ledger).exit_code == 0
    assert "agree" in bursar("ledger", "verify", "--ledger", ledger).output
    assert bursar("ledger", "holds", "--json", "--ledger", ledger).stdout.strip() == "[]"
    lines = bursar("ledger", "export", "--ledger", ledger).stdout.splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["open", "limit", "note"]
    assert "nothing is missing" in bursar("ledger", "adopt", "--yes", "--ledger", ledger).output


def test_the_ledger_of_the_settings_has_the_marker_of_the_settings(ledger: str, tmp_path: Path) -> None:
    marker = tmp_path / "marks" / "own.json"
    Path("bursar.toml").write_text(f'[ledger]\nurl = "{ledger}"\nmarker = "{marker}"\n')
    assert bursar("keys", "create", "ci", "--usd", "5").exit_code == 0
    assert json.loads(marker.read_text())["entries"] == 3
    assert not (tmp_path / "state" / "bursar" / "ledgers").exists()
    assert bursar("keys", "list", "--ledger", ledger).exit_code == 0
    assert not (tmp_path / "state" / "bursar" / "ledgers").exists()
    # Said in another way it is not known to be the ledger of the settings, and has a marker of its own.
    assert bursar("keys", "list", "--ledger", f"{ledger}?application_name=other").exit_code == 0
    assert len(list((tmp_path / "state" / "bursar" / "ledgers").iterdir())) == 1
