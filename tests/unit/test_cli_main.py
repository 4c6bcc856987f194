"""The command line as a whole: help, options, messages, and what `init` writes."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from bursar.cli import common, gateway
from bursar.cli.init import TEMPLATE
from bursar.cli.main import COMMANDS, cli
from bursar.cli.top import bar
from bursar.settings import Settings, UpstreamSettings, load


def call(*args: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(cli, args, env=env, prog_name="bursar")


def leaves(command: click.Command, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(command, click.Group):
        return [path]
    context = click.Context(command)
    found = [path] if path else []
    for name in command.list_commands(context):
        inner = command.get_command(context, name)
        assert inner is not None
        found += leaves(inner, (*path, name))
    return found


def test_help_imports_no_command() -> None:
    script = "import sys; from bursar.cli.main import cli; cli(['--help'], standalone_mode=False); " + (
        "print([m for m in sys.modules if m in ('pydantic', 'asyncio', 'rich', 'uvicorn', 'sqlite3', 'aiohttp')])"
    )
    # Where coverage is measured in child processes too, it imports sqlite3 for itself.
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.splitlines()[-1] == "[]"
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("path", leaves(cli), ids=" ".join)
def test_every_command_has_help_with_an_example(path: tuple[str, ...]) -> None:
    result = call(*path, "--help")
    assert result.exit_code == 0, result.output
    assert f"Example: bursar {' '.join(path)}" in re.sub(r"\s+", " ", result.output)


@pytest.mark.parametrize(
    "path", [path for path in leaves(cli) if len(path) > 1 or path[0] in ("run", "serve", "init", "top")]
)
def test_every_command_speaks_json(path: tuple[str, ...]) -> None:
    assert "--json" in call(*path, "--help").output


def test_an_unknown_command_is_refused() -> None:
    result = call("rnu")
    assert result.exit_code == 2
    assert "No such command 'rnu'" in result.output


def test_wrong_settings_are_named_and_nothing_is_done(tmp_path: Path) -> None:
    config = tmp_path / "bursar.toml"
    config.write_text("[serve]\n")
    result = call("runs", "list", "--config", str(config))
    assert result.exit_code == 2
    assert (
        result.output
        == f"bursar: {config}: unknown key serve; did you mean server? " + result.output.partition("? ")[2]
    )


def test_looking_makes_no_ledger(tmp_path: Path) -> None:
    path = tmp_path / "typo.db"
    for args in (("runs", "list"), ("keys", "list"), ("ledger", "verify"), ("top", "--once"), ("keys", "revoke", "x")):
        result = call(*args, "--ledger", f"sqlite:///{path}")
        assert result.exit_code == 1
        assert f"no ledger at {path}" in result.output
    assert list(tmp_path.iterdir()) == []


def test_amounts_are_exact_on_the_command_line() -> None:
    result = call("run", "--usd", "1e-12", "--", "true")
    assert result.exit_code == 2
    assert "nine decimals" in result.output


def test_the_ledger_of_the_command_line_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bursar.toml").write_text('[ledger]\nurl = "sqlite:///a.db"\n')
    assert common.settings_for(None, None).ledger.url == f"sqlite:///{tmp_path}/a.db"
    assert common.settings_for(None, "sqlite:///b.db").ledger.url == f"sqlite:///{tmp_path}/b.db"
    assert common.settings_for(None, "c.db").ledger.url == f"sqlite:///{tmp_path}/c.db"


def test_passwords_are_not_shown() -> None:
    assert common.without_password("postgresql://me:pw@db/books") == "postgresql://me:***@db/books"
    assert common.without_password("sqlite:////a@b:c/x.db") == "sqlite:////a@b:c/x.db"


# ---- init -----------------------------------------------------------------------------------------------------------


def test_what_init_writes_loads_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "bursar.toml"
    assert call("init", str(path)).exit_code == 0
    assert load(path) == Settings()


def test_what_init_shows_as_defaults_are_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "bursar.toml"
    call("init", str(path))
    sections = path.read_text().partition("# ---- Keys")[0]
    path.write_text(re.sub(r"(?m)^# (\w+ = )", r"\1", sections))
    assert load(path) == Settings()
    assert len(load(path).model_fields_set) == 4


def test_the_examples_that_init_writes_are_valid(tmp_path: Path) -> None:
    path = tmp_path / "bursar.toml"
    call("init", str(path))
    path.write_text(re.sub(r"(?m)^# (\w+ = |\[)", r"\1", path.read_text()))
    settings = load(path)
    shown = {"openai", "groq", "azure", "vertex", "vertex-anthropic", "bedrock", "ollama", "litellm"}
    assert shown <= set(settings.upstreams)
    assert set(UpstreamSettings.model_fields) <= set(re.findall(r"(?m)^# (\w+) = ", TEMPLATE)) | {"project", "region"}
    assert (set(settings.keys), set(settings.models)) == ({"ci"}, {"my-model"})


def test_init_overwrites_only_when_told(tmp_path: Path) -> None:
    path = tmp_path / "bursar.toml"
    path.write_text("mine")
    refused = call("init", str(path))
    assert (refused.exit_code, path.read_text()) == (1, "mine")
    assert "--force overwrites it" in refused.output
    done = call("init", str(path), "--force", "--json")
    assert json.loads(done.output) == {"path": str(path)}
    nowhere = call("init", str(tmp_path / "no" / "x.toml"))
    assert (nowhere.exit_code, "No such file" in nowhere.output) == (1, True)


# ---- sockets --------------------------------------------------------------------------------------------------------


def test_a_port_that_is_taken_is_named_also_when_workers_share_it() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        for count in (1, 2):
            with pytest.raises(common.FailedError, match=f"port {port} on 127.0.0.1 is taken"):
                gateway.listen("127.0.0.1", port, 16, sockets=count)


def test_a_gateway_that_runs_already_keeps_its_port_to_itself() -> None:
    first = gateway.listen("127.0.0.1", 0, 16, sockets=2)
    try:
        port = first[0].getsockname()[1]
        assert {one.getsockname()[1] for one in first} == {port}
        with pytest.raises(common.FailedError, match="is taken"):
            gateway.listen("127.0.0.1", port, 16, sockets=2)
    finally:
        for one in first:
            one.close()


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(common.FailedError, match="no address of this machine"):
        gateway.listen("192.0.2.1", 0, 16)


def test_the_url_is_one_that_a_client_can_use() -> None:
    for host, start in (("0.0.0.0", "http://127.0.0.1:"), ("127.0.0.1", "http://127.0.0.1:")):
        (one,) = gateway.listen(host, 0, 16)
        with one:
            assert gateway.url_of(one).startswith(start)


# ---- top ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spent", "held", "cap", "shown"),
    [
        (0, 0, 100, "." * 20),
        (50, 25, 100, "#" * 10 + "+" * 5 + "." * 5),
        (1, 1, 1000, "#+" + "." * 18),
        (999, 0, 1000, "#" * 19 + "."),
        (1000, 0, 1000, "#" * 20),
        (900, 100, 1000, "#" * 18 + "+" * 2),
        (2000, 0, 1000, "#" * 20),
        (5, 5, None, ""),
        (5, 5, 0, ""),
    ],
)
def test_the_bar_is_full_only_when_nothing_is_left(spent: int, held: int, cap: int | None, shown: str) -> None:
    assert bar(spent, held, cap) == shown
