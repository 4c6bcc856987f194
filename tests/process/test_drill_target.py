"""`bursar drill --target`: a gateway that runs already, and a provider whose till is asked, as users start them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bursar.cli.drill import drill

SRC = Path(__file__).parents[2] / "src"
CALLS_KEY, USD_KEY = f"bursar-{'c' * 40}", f"bursar-{'u' * 40}"
STORM = ["--agents", "8", "--seed", "5"]


@dataclass(frozen=True)
class Site:
    """A provider with its till, and a gateway in front of it."""

    provider: str
    gateway: str


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    environ = {**os.environ, "PYTHONPATH": str(SRC), "XDG_STATE_HOME": str(folder / "state"), "PROVIDER_KEY": "sk-x"}
    environ |= {"CALLS_KEY": CALLS_KEY, "USD_KEY": USD_KEY}
    with ExitStack() as stack:
        words = ("drill", "provider", "--port", "0", "--latency-ms", "20", "--json")
        provider = stack.enter_context(started(words, environ, folder))
        (folder / "bursar.toml").write_text(
            f'[ledger]\nurl = "sqlite:///{folder}/ledger.db"\n'
            '[keys.calls]\nkey_env = "CALLS_KEY"\nrun = { usd = "none", calls = 9 }\n'
            '[keys.usd]\nkey_env = "USD_KEY"\nrun = { usd = "0.20", calls = "none" }\n'
            f'[upstreams.openai]\nbase_url = "{provider["url"]}"\nkey_env = "PROVIDER_KEY"\ncounts_input = false\n'
        )
        gateway = stack.enter_context(started(("serve", "--port", "0", "--json"), environ, folder))
        yield Site(provider["url"], gateway["url"])


@contextmanager
def started(words: tuple[str, ...], environ: dict[str, str], folder: Path) -> Iterator[dict[str, Any]]:
    """Start a command, give the JSON that it begins with, and end it whatever happens."""
    command = [sys.executable, "-m", "bursar", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ, cwd=folder) as process:
        try:
            assert process.stdout is not None
            text = ""
            while line := process.stdout.readline():
                text += line
                if line.rstrip().endswith("}"):
                    break
            yield json.loads(text)
        finally:
            process.terminate()
            process.wait(30)


def storm(folder: Path, *options: str) -> tuple[int, dict[str, Any], str]:
    """Run a drill; give exit status, its JSON, and what people saw."""
    file = folder / "out.json"
    done = CliRunner().invoke(drill, [*STORM, *options, "--json", str(file)])
    return done.exit_code, json.loads(file.read_text()) if file.exists() else {}, done.output


def failed(document: dict[str, Any]) -> set[str]:
    return {check["name"] for check in document["scenarios"][0]["checks"] if not check["ok"]}


def test_a_gateway_that_keeps_its_cap_passes_and_what_was_not_seen_is_said(site: Site, tmp_path: Path) -> None:
    there = ("--target", site.gateway, "--till", site.provider)
    status, document, said = storm(tmp_path, *there, "--key", CALLS_KEY, "--cap-calls", "9")
    assert status == 0, said
    (proof,) = document["scenarios"]
    assert (proof["figures"]["till_calls"], proof["figures"]["over"], proof["scenario"]["target"]) == (
        9,
        0,
        site.gateway,
    )
    assert [check["name"] for check in proof["checks"]] == [
        "the cap holds",
        "the cap is usable",
        "every agent stops",
        "a spent cap stays spent",
        "no trouble but what was ordered",
    ]
    assert "not checked" in said
    assert proof["timeline"]["moments"][-1]["captured"] is None
    assert CALLS_KEY not in json.dumps(document)

    # What the till had before does not count, and a run of another name begins anew.
    status, document, said = storm(tmp_path, *there, "--key", USD_KEY, "--cap-usd", "0.20", "--model", "gpt-4.1-mini")
    assert status == 0, said
    figures = document["scenarios"][0]["figures"]
    assert 140_000_000 <= figures["used"] <= 200_000_000


def test_what_lets_everything_through_fails_and_is_not_fed_for_ever(site: Site, tmp_path: Path) -> None:
    there = ("--target", f"{site.provider}/v1", "--till", site.provider, "--gateway", "openai", "--key", "any")
    status, document, said = storm(tmp_path, *there, "--cap-calls", "3")
    assert status == 1
    assert {"the cap holds", "the cap is usable", "every agent stops"} <= failed(document)
    assert document["scenarios"][0]["figures"]["over"] > 12, said


def test_real_money_is_never_spent_beyond_what_the_drill_may(site: Site, tmp_path: Path) -> None:
    def billed() -> int:
        with urllib.request.urlopen(f"{site.provider}/till", timeout=10) as response:
            return int(json.load(response)["nanodollars"])

    before = billed()
    real = ("--real", "--yes", "--max-usd", "0.02", "--cap-usd", "0.005", "--model", "gpt-4.1")
    status, document, _ = storm(tmp_path, "--target", site.provider, "--gateway", "openai", "--key", "any", *real)
    spent = billed() - before
    assert status == 1
    assert "the cap holds" in failed(document)
    assert 5_000_000 < spent <= document["scenarios"][0]["figures"]["till_nanodollars"] <= 20_000_000
    assert document["scenarios"][0]["figures"]["outcomes"]["stopped"] == 8


def test_a_key_that_is_not_known_there_is_said_and_ends_the_storm(site: Site, tmp_path: Path) -> None:
    there = ("--target", site.gateway, "--till", site.provider, "--cap-calls", "9")
    status, _, said = storm(tmp_path, *there, "--key", "wrong")
    assert status == 1
    assert "refused for other reasons: invalid_key 8x" in said


def test_a_till_that_is_none_says_nothing_about_the_cap(site: Site, tmp_path: Path) -> None:
    there = ("--target", site.gateway, "--key", CALLS_KEY, "--cap-calls", "9")
    for till, why in ((site.gateway, "is no till of `bursar drill provider`"), ("http://127.0.0.1:9", "no till at")):
        status, _, said = storm(tmp_path, *there, "--till", till)
        assert status == 2
        assert why in said


def test_a_port_that_is_taken_is_said(site: Site) -> None:
    port = site.provider.rpartition(":")[2]
    done = CliRunner().invoke(drill, ["provider", "--port", port])
    assert done.exit_code == 2
    assert "choose another --port" in done.output
