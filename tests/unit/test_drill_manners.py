"""How other gateways are spoken to and understood, what may be asked of them, and the drill's own purse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bursar.cli.drill import drill
from bursar.drill.agents import Outcome, Sign
from bursar.drill.manners import KINDS, UnknownGatewayError, find_kind
from bursar.drill.purse import RealPurse
from bursar.drill.till import MODELS

TARGET = ["--target", "http://127.0.0.1:9", "--key", "k"]


def error(**fields: object) -> bytes:
    return json.dumps({"error": fields}).encode()


@pytest.mark.parametrize(
    ("kind", "status", "body", "outcome"),
    [
        ("litellm", 429, error(message="Session budget exceeded for session x. Current spend: $1"), Outcome.EXHAUSTED),
        ("litellm", 400, error(type="budget_exceeded", message="Budget has been exceeded!"), Outcome.EXHAUSTED),
        ("litellm", 429, error(message="Rate limit reached"), Outcome.ERROR),
        ("hardcap", 429, error(type="budget_busy", message="held"), Outcome.HELD),
        ("hardcap", 429, error(type="budget_exceeded"), Outcome.EXHAUSTED),
        ("portkey", 412, b"", Outcome.EXHAUSTED),
        ("portkey", 401, b"{}", Outcome.REFUSED),
        ("openai", 402, b"no money", Outcome.EXHAUSTED),
        ("openai", 500, b"\xff", Outcome.ERROR),
    ],
)
def test_each_kind_of_gateway_is_understood(kind: str, status: int, body: bytes, outcome: Outcome) -> None:
    reads = find_kind(kind).manner("r", "k", "1").reads
    assert reads is not None
    assert reads(status, body)[0] is outcome


def test_a_run_is_named_as_each_gateway_wants_it() -> None:
    assert find_kind("bursar").base_url("http://gate/v1", "r7") == "http://gate/r/r7"
    assert find_kind("bursar").manner("r7", "k", "0.10").reads is None
    litellm = find_kind("litellm").manner("r7", "k", "0.10")
    assert litellm.body == {"metadata": {"session_id": "r7"}}
    assert find_kind("litellm").base_url("http://gate/", "r7") == "http://gate"
    assert json.loads(find_kind("portkey").manner("r7", "k", "0.10").headers["x-portkey-metadata"]) == {"run": "r7"}
    assert find_kind("portkey").manner("r7", "k", "0.10").headers["x-portkey-api-key"] == "k"
    assert find_kind("inferrail").manner("r7", "k", "0.10").headers["x-inferrail-budget-usd"] == "0.10"
    assert all(kind.says for kind in KINDS)


def test_another_gateway_is_described_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('headers = { "x-run" = "{run}" }\nspent = [{ status = 418 }]\nheld = [{ has = "busy" }]\n')
    kind = find_kind(str(file))
    assert (kind.name, kind.spent, kind.held) == ("mine", (Sign(418),), (Sign(has="busy"),))
    assert kind.manner("r", "k", "1").headers == {"x-run": "r"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "spent = [{}]",
        "spent = [{ state = 1 }]",
        "spend = 3",
        "[",
        "spent = 3",
        "spent = [{status = 1}]\nheld = [{}]",
    ],
)
def test_a_file_that_describes_no_gateway_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "odd.toml"
    file.write_text(text)
    with pytest.raises(UnknownGatewayError, match=r"odd\.toml"):
        find_kind(str(file))
    with pytest.raises(UnknownGatewayError, match="litellm"):
        find_kind("lightllm")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--till", "http://x"], "with --target"),
        (["--real"], "with --target"),
        (["--target", "http://x", "--cap-calls", "3"], "BURSAR_DRILL_KEY"),
        (TARGET, "--cap-calls and --cap-usd"),
        ([*TARGET, "--cap-calls", "3", "--cap-usd", "1"], "--cap-calls and --cap-usd"),
        ([*TARGET, "--cap-calls", "3", "--workers", "2"], "--workers is not for --target"),
        ([*TARGET, "--cap-calls", "3", "--faults", "all"], "bursar drill provider"),
        ([*TARGET, "--cap-calls", "3", "--gateway", "x"], "litellm"),
        ([*TARGET, "--cap-calls", "3", "--real"], "--max-usd"),
        ([*TARGET, "--cap-usd", "1", "--real", "--max-usd", "1"], "above --cap-usd"),
        ([*TARGET, "--cap-usd", "1", "--real", "--max-usd", "2", "--dialect", "gemini"], "chat, responses"),
        ([*TARGET, "--cap-usd", "1", "--real", "--max-usd", "2", "--model", "m"], "--price-as"),
        ([*TARGET, "--cap-usd", "1", "--real", "--max-usd", "2", "--till", "http://x"], "--till"),
        (["provider", "--faults", "gremlins"], "none, all"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_what_to_do(options: list[str], said: str) -> None:
    done = CliRunner().invoke(drill, options, env={"BURSAR_DRILL_KEY": ""})
    assert done.exit_code == 2
    assert said in done.output


def test_real_money_is_asked_for_and_a_no_spends_nothing() -> None:
    done = CliRunner().invoke(drill, [*TARGET, "--cap-usd", "0.01", "--real", "--max-usd", "0.05"], input="n\n")
    assert done.exit_code == 1
    assert "Spend up to $0.05 of real money through http://127.0.0.1:9?" in done.output


async def test_a_purse_pays_what_is_known_and_whole_what_is_not() -> None:
    purse = RealPurse(MODELS["gpt-4.1"], 10_000_000)
    most = purse.take(b"x" * 800, 100)
    assert most == 1_000 * 2_000 + 100 * 8_000
    purse.settle(most, b'{"usage": {"prompt_tokens": 200, "completion_tokens": 50}}')
    assert (await purse.look()).nanodollars == 200 * 2_000 + 50 * 8_000
    for reply in (b"", b"[]", b'{"usage": null}', b'{"usage": {}}', b'{"usage": {"prompt_tokens": "many"}}'):
        before = (await purse.look()).nanodollars
        taken = purse.take(b"", 1)
        assert taken is not None
        purse.settle(taken, reply)
        assert (await purse.look()).nanodollars == before + taken
    left = 10_000_000 - (await purse.look()).nanodollars
    assert purse.take(b"x" * 4_000, 100) is None
    assert purse.take(b"x", None) is None
    refused = purse.take(b"x" * 800, 100)
    assert refused is not None
    assert (await purse.look()).in_flight == 1
    purse.refund(refused)
    seen = await purse.look()
    assert (seen.in_flight, seen.calls, 10_000_000 - seen.nanodollars) == (0, 6, left)
    assert sum(line.nanodollars for line in await purse.lines()) == seen.nanodollars
