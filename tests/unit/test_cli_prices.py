"""The commands on the price book: show, list, check, update, back, and the quarantine."""

from __future__ import annotations

import asyncio
import datetime
import gzip
import json
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from pricing_samples import a_call
from test_cli_books import authorize, fill, overrun
from test_pricing_newer import LIMITS, PROVIDERS
from test_reconcile import api

from bursar.call import Usage
from bursar.cli.main import cli
from bursar.cli.prices_update import age_warning, warn_of_old_prices
from bursar.clock import SystemClock
from bursar.edge.app import Gateway
from bursar.edge.site import from_environment
from bursar.edge.stored_book import back, keep, place, previous, read
from bursar.edge.wiring import price_book
from bursar.ledger.account import Amounts, Basis, Granted, Settle
from bursar.money import Money
from bursar.pricing.bill import bill
from bursar.pricing.newer import WrongBookError, made_on
from bursar.pricing.quote import OutputPolicy, Quote, worst_case
from bursar.pricing.rates import Card
from bursar.settings import LedgerSettings, Settings
from bursar.stores import open_store

DATE = LIMITS["made_on"]
LITELLM = {
    "litellm_provider": "openai",
    "mode": "chat",
    "max_input_tokens": 1000,
    "max_output_tokens": 100,
    "input_cost_per_token": 1e-6,
    "output_cost_per_token": 2e-6,
}
NO_CHANGE = "no change"
DATED = ("--made-on", DATE)


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "books" / "ledger.db"
    path.parent.mkdir()
    asyncio.run(fill(path))
    return path


def call(ledger: Path, *args: str) -> Result:
    return CliRunner().invoke(cli, ["prices", *args, "--ledger", str(ledger)], prog_name="bursar")


def model(name: str, usd_in: float = 1, usd_out: float = 2, **more: Any) -> dict[str, Any]:
    prices = {"input_mtok": usd_in, "output_mtok": usd_out, **more}
    return {"id": name, "match": {"equals": name}, "prices": prices}


def files(folder: Path, *models: dict[str, Any]) -> tuple[str, ...]:
    """Write rates and limits in which OpenAI has these models and nobody else any; give the options for them."""
    rates = [
        {"id": name, "name": name, "api_pattern": "x", "models": list(models) if name == "openai" else []}
        for name in PROVIDERS
    ]
    table = {
        one["id"]: {
            **LITELLM,
            "input_cost_per_token": one["prices"]["input_mtok"] / 1e6,
            "output_cost_per_token": one["prices"]["output_mtok"] / 1e6,
        }
        for one in models
    }
    (folder / "rates.json").write_text(json.dumps(rates), encoding="utf-8")
    (folder / "limits.json").write_text(json.dumps(table), encoding="utf-8")
    return ("--from", str(folder / "rates.json"), "--limits", str(folder / "limits.json"))


def updated(ledger: Path, *models: dict[str, Any]) -> None:
    result = call(ledger, "update", *files(ledger.parent, *models), "--accept-gone", "--accept-cheaper", *DATED)
    assert result.exit_code == 0, result.output
    assert f"price book of {DATE}" in result.output
    assert "taken; a gateway that is running takes it when it is started anew" in result.output


def shown(ledger: Path, name: str) -> dict[str, Any]:
    result = call(ledger, "show", name, "--upstream", "openai", "--json")
    assert result.exit_code == 0, result.output
    (one,) = json.loads(result.output)
    assert isinstance(one, dict)
    return one


# ---- update ---------------------------------------------------------------------------------------------------------


def test_a_newer_book_is_taken_and_prices_from_then_on(ledger: Path) -> None:
    assert call(ledger, "show", "gpt-7").exit_code == 1
    updated(ledger, model("gpt-7"))
    facts = shown(ledger, "gpt-7")
    assert (facts["rates"][0]["input"], facts["context_tokens"], facts["book_made_on"]) == ("1.00", 1000, DATE)
    assert facts["source"].startswith(f"rates: genai-prices, {ledger.parent / 'rates.json'}, {DATE}; limits: LiteLLM, ")
    assert f"price book of {DATE}, " in call(ledger, "show", "gpt-7").output
    assert call(ledger, "show", "gpt-4.1").exit_code == 1


def test_every_change_is_listed_and_what_is_cheaper_or_gone_has_to_be_accepted(ledger: Path) -> None:
    updated(ledger, model("gpt-7"), model("gpt-8"))
    kept = read(place(f"sqlite:///{ledger}"))
    worse = files(ledger.parent, model("gpt-7", 0.5, 3), model("gpt-9"))
    refused = call(ledger, "update", *worse)
    assert refused.exit_code == 1
    told = [line.split() for line in refused.output.splitlines()]
    assert ["openai", "gpt-7", "default:", "input", "1.00", "0.50", "cheaper"] in told
    assert ["openai", "gpt-7", "default:", "output", "2.00", "3.00", "dearer"] in told
    assert ["openai", "gpt-9", "model", "not", "priced", "priced", "new"] in told
    assert any(line[:5] == ["openai", "gpt-8", "model", "priced", "not"] for line in told)
    assert "nothing was changed" in refused.output
    assert "--accept-cheaper" in refused.output
    assert "--accept-gone" in refused.output
    assert read(place(f"sqlite:///{ledger}")) == kept
    assert call(ledger, "update", *worse, "--accept-cheaper").exit_code == 1
    assert call(ledger, "update", *worse, "--accept-gone").exit_code == 1
    taken = call(ledger, "update", *worse, "--accept-cheaper", "--accept-gone", "--json")
    assert taken.exit_code == 0
    facts = json.loads(taken.output)
    assert (facts["taken"], {change["kind"] for change in facts["changes"]}) == (
        True,
        {"cheaper", "dearer", "gone", "new"},
    )


def test_dearer_prices_are_taken_at_once(ledger: Path) -> None:
    updated(ledger, model("gpt-7"))
    result = call(ledger, "update", *files(ledger.parent, model("gpt-7", 5, 6)))
    assert result.exit_code == 0, result.output
    assert shown(ledger, "gpt-7")["rates"][0]["output"] == "6.00"


def test_a_price_that_falls_to_nearly_nothing_is_never_taken(ledger: Path) -> None:
    updated(ledger, model("gpt-7"))
    tiny = files(ledger.parent, model("gpt-7", 1, 0.000002))
    result = call(ledger, "update", *tiny, "--accept-cheaper", "--accept-gone", "--json")
    assert result.exit_code == 1
    assert "is a mistake" in result.output
    assert shown(ledger, "gpt-7")["rates"][0]["output"] == "2.00"


def test_without_new_limits_the_old_ones_stay_and_a_price_they_disagree_with_is_gone(ledger: Path) -> None:
    updated(ledger, model("gpt-7"))
    rates_only = files(ledger.parent, model("gpt-7", 1, 3))[:2]
    result = call(ledger, "update", *rates_only)
    assert result.exit_code == 1
    assert "two public price lists disagree on it" in result.output
    assert "give newer --limits" in result.output
    same = call(ledger, "update", *files(ledger.parent, model("gpt-7"))[:2])
    assert (same.exit_code, NO_CHANGE in same.output) == (0, True)
    assert f"limits as before, of {DATE}" in same.output


def test_the_bundled_limits_serve_where_no_book_is_stored(ledger: Path) -> None:
    result = call(ledger, "update", *files(ledger.parent, model("gpt-7"))[:2], "--accept-gone")
    assert f"limits as before, of {LIMITS['made_on']}" in result.output


def test_back_gives_the_book_before_and_in_the_end_the_bundled_one(ledger: Path) -> None:
    updated(ledger, model("gpt-7"))
    updated(ledger, model("gpt-7", 7, 8))
    assert shown(ledger, "gpt-7")["rates"][0]["input"] == "7.00"
    assert f"the price book of {DATE} is in use again" in call(ledger, "update", "--back").output
    assert shown(ledger, "gpt-7")["rates"][0]["input"] == "1.00"
    last = call(ledger, "update", "--back", "--json")
    assert json.loads(last.output) == {"made_on": LIMITS["made_on"], "taken": True, "changes": []}
    assert call(ledger, "show", "gpt-4.1").exit_code == 0
    none = call(ledger, "update", "--back")
    assert (none.exit_code, "the bundled price book is in use" in none.output) == (1, True)


def test_an_older_book_does_not_take_the_place_of_a_newer_one(ledger: Path) -> None:
    result = call(ledger, "update", *files(ledger.parent, model("gpt-7")), "--made-on", "2026-01-01", "--accept-gone")
    assert result.exit_code == 1
    assert f"the book in use, of {LIMITS['made_on']}, is newer than 2026-01-01" in result.output


def test_a_book_is_fetched_where_a_url_is_given(ledger: Path) -> None:
    files(ledger.parent, model("gpt-7"))
    pages = {
        "/rates": [json.loads((ledger.parent / "rates.json").read_text())],
        "/limits": [json.loads((ledger.parent / "limits.json").read_text())],
    }
    with api(pages) as (url, asked):
        result = call(ledger, "update", "--from", f"{url}/rates", "--limits", f"{url}/limits", "--accept-gone")
        missing = call(ledger, "update", "--from", f"{url}/nowhere")
    assert result.exit_code == 0, result.output
    assert [path for path, _, _ in asked] == ["/rates", "/limits", "/nowhere"]
    assert shown(ledger, "gpt-7")["rates"][0]["input"] == "1.00"
    assert (missing.exit_code, "nothing was changed: 127.0.0.1" in missing.output) == (1, True)


@pytest.mark.parametrize(
    ("args", "exit_code", "why"),
    [
        (("--from", "none.json"), 1, "nothing was changed: [Errno 2]"),
        (("--from", "wrong.json"), 1, "nothing was changed: it cannot be read"),
        (("--from", "empty.json"), 1, "the rates say nothing of"),
        (("--from", "text.json"), 1, "it cannot be read"),
        (("--from", "bytes.json"), 1, "nothing was changed: 'utf-8'"),
        (("--from", "empty.json", "--limits", "text.json"), 1, "is not LiteLLM's table of models"),
        (("--from", "empty.json", "--limits", "empty.json"), 1, "is not LiteLLM's table of models"),
        (("--from", "empty.json", "--made-on", "today"), 2, "today is not a date"),
        (("--from", "empty.json", "--made-on", "9000-01-01"), 2, "is in the future"),
    ],
)
def test_what_is_no_book_changes_nothing(ledger: Path, args: tuple[str, ...], exit_code: int, why: str) -> None:
    for name, data in (("wrong", b'[{"id": 3}]'), ("empty", b"[]"), ("text", b"hello"), ("bytes", b"\xff")):
        Path(f"{name}.json").write_bytes(data)
    result = call(ledger, "update", *args)
    assert (result.exit_code, why in result.output) == (exit_code, True), result.output
    assert read(place(f"sqlite:///{ledger}")) is None


def test_a_stored_book_that_is_broken_stops_everything_that_needs_prices_and_can_be_dropped(ledger: Path) -> None:
    path = place(f"sqlite:///{ledger}")
    for data in (b"not a book", b'{"format":1,"made_on":"2999-01-01",'):
        keep(path, data)
        result = call(ledger, "show", "gpt-4.1")
        assert result.exit_code == 1
        assert "`bursar prices update --back` drops it" in result.output
    call(ledger, "update", "--back")
    call(ledger, "update", "--back")
    assert call(ledger, "show", "gpt-4.1").exit_code == 0


def test_a_check_does_not_say_ok_where_the_stored_book_is_broken(ledger: Path) -> None:
    place(f"sqlite:///{ledger}").write_bytes(b"{broken")
    done = call(ledger, "check", "gpt-4.1-mini")
    assert done.exit_code != 0
    assert "the stored price book" in done.output


def test_the_gateway_prices_with_the_stored_book_and_does_not_start_with_a_broken_one(ledger: Path) -> None:
    settings = Settings(ledger=LedgerSettings(url=f"sqlite:///{ledger}"))
    now = SystemClock().now()
    updated(ledger, model("gpt-7"))
    assert isinstance(price_book(settings).card("openai", "gpt-7", now), Card)
    keep(place(settings.ledger.url), b"not a book")
    with pytest.raises(WrongBookError):
        price_book(settings).load()


def test_a_worker_process_takes_the_book_beside_the_ledger_that_it_is_given(
    ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ledger.with_name("bursar.toml")
    config.write_text('[ledger]\nurl = "sqlite:///elsewhere/ledger.db"\n')
    monkeypatch.setenv("BURSAR_CONFIG", str(config))
    monkeypatch.setenv("BURSAR_LEDGER", f"sqlite:///{ledger}")
    keep(place(f"sqlite:///{ledger}"), b"not a book")
    with pytest.raises(WrongBookError):
        asyncio.run(_started(from_environment().gateway))


async def _started(gateway: Gateway) -> None:
    try:
        await gateway.start()
    finally:
        await gateway.stop()


def test_a_quote_keeps_the_rates_that_it_was_minted_with(ledger: Path) -> None:
    """A book that is taken while a call is in flight makes neither its hold nor its bill cheaper."""
    settings = Settings(ledger=LedgerSettings(url=f"sqlite:///{ledger}"))
    quotes = []
    for usd_in, usd_out in ((10, 20), (1, 2)):
        updated(ledger, model("gpt-7", usd_in, usd_out))
        asked = replace(a_call(), upstream="openai", model="gpt-7")
        quote = worst_case(asked, price_book(settings), SystemClock().now(), OutputPolicy())
        assert isinstance(quote, Quote), quote
        quotes.append(quote)
    usage = Usage(input_tokens=100, output_tokens=10)
    assert [bill(usage, quote) for quote in quotes] == [Money(1_200_000), Money(120_000)]
    assert quotes[0].fixed.nanodollars == 10 * quotes[1].fixed.nanodollars


# ---- where a book is kept -------------------------------------------------------------------------------------------


def test_a_book_is_kept_beside_a_ledger_file_else_under_the_xdg_data_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert place(f"sqlite:///{tmp_path}/a/ledger.db") == tmp_path / "a" / "prices.json"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert place("postgresql://host/db") == tmp_path / "data" / "bursar" / "prices.json"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert place("postgresql://host/db") == tmp_path / ".local" / "share" / "bursar" / "prices.json"


def test_a_book_is_there_whole_or_not_at_all_and_the_one_before_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "data" / "prices.json"
    assert (read(path), back(path)) == (None, False)
    for data in (b"one", b"two", b"three"):
        keep(path, data)
        assert read(path) == data
    assert previous(path).read_bytes() == b"two"
    assert sorted(one.name for one in path.parent.iterdir()) == ["previous-prices.json", "prices.json"]
    assert back(path)
    assert read(path) == b"two"
    assert back(path)
    assert read(path) is None


def test_a_book_that_cannot_be_written_leaves_nothing_behind(ledger: Path) -> None:
    updated(ledger, model("gpt-7"))
    path = place(f"sqlite:///{ledger}")
    before = read(path)
    previous(path).mkdir()
    result = call(ledger, "update", *files(ledger.parent, model("gpt-7", 3, 4)))
    assert (result.exit_code, "cannot be written" in result.output) == (1, True)
    assert read(path) == before
    assert not [one for one in path.parent.iterdir() if one.name.startswith(".prices.json")]


# ---- age ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("days", "warns"), [(0, False), (30, False), (31, True), (400, True), (-5, False)])
def test_a_book_that_is_older_than_thirty_days_is_warned_of(days: int, warns: bool) -> None:
    day = datetime.date(2026, 11, 23)
    warning = age_warning(day.isoformat(), day + datetime.timedelta(days=days))
    assert bool(warning) == warns
    if warns:
        assert f"of 2026-11-23, {days} days old; `bursar prices update`" in warning


def test_a_gateway_says_once_that_its_prices_are_old(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings(ledger=LedgerSettings(url=f"sqlite:///{ledger}"))
    made = datetime.date.fromisoformat(DATE)
    warn_of_old_prices(settings, made + datetime.timedelta(days=30))
    assert capsys.readouterr() == ("", "")
    warn_of_old_prices(settings, made + datetime.timedelta(days=31))
    assert capsys.readouterr().err.startswith(f"bursar: warning: the price book is of {DATE}, 31 days old; ")


def test_a_book_of_today_is_taken_as_such_and_starts_without_a_word(
    ledger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    days = [datetime.datetime.now(datetime.UTC).date().isoformat()]
    result = call(ledger, "update", *files(ledger.parent, model("gpt-7")), "--accept-gone")
    days.append(datetime.datetime.now(datetime.UTC).date().isoformat())
    assert result.exit_code == 0, result.output
    data = read(place(f"sqlite:///{ledger}"))
    assert data is not None
    assert made_on(data) in days
    capsys.readouterr()
    warn_of_old_prices(Settings(ledger=LedgerSettings(url=f"sqlite:///{ledger}")))
    assert capsys.readouterr() == ("", "")


# ---- show and list --------------------------------------------------------------------------------------------------


def test_a_price_by_the_time_of_day_is_shown_with_its_next_changes(ledger: Path) -> None:
    Path("bursar.toml").write_text('[upstreams.deepseek]\ndialect = "openai"\nbase_url = "https://api.deepseek.com"\n')
    result = call(ledger, "show", "deepseek-v4-pro", "--upstream", "deepseek")
    assert result.exit_code == 0, result.output
    rates = {line.split()[2] for line in result.output.splitlines() if line.startswith("default ")}
    assert len(rates) == 2
    assert "from 20" in result.output
    (one,) = json.loads(call(ledger, "show", "deepseek-v4-pro", "--upstream", "deepseek", "--json").output)
    assert one["changes"][0]["rates"][0]["tier"] == "default"


def test_the_list_can_be_narrowed_by_name_and_by_price(ledger: Path) -> None:
    def names(*args: str) -> set[str]:
        return {one["model"] for one in json.loads(call(ledger, "list", *args, "--json").output)}

    claude = names("--like", "claude-*")
    assert claude
    assert all(name.startswith("claude-") for name in claude)
    cheap = names("--like", "GPT-5*", "--below", "2")
    assert "gpt-5-mini" in cheap
    assert "gpt-5" not in cheap
    assert all("embedding" in name for name in names("--below", "0")), "only what gives no output"
    assert all(
        "unpriced" not in one for one in json.loads(call(ledger, "list", "--all", "--below", "2", "--json").output)
    )


# ---- check ----------------------------------------------------------------------------------------------------------


def second(path: Path, *entries: tuple[str, float, float]) -> str:
    table = {
        name: {"litellm_provider": "openai", "input_cost_per_token": one / 1e6, "output_cost_per_token": two / 1e6}
        for name, one, two in entries
    }
    path.write_text(json.dumps(table), encoding="utf-8")
    return str(path)


def test_the_book_is_compared_with_a_second_list_and_a_difference_fails(ledger: Path, tmp_path: Path) -> None:
    same = call(ledger, "check", "--with", second(tmp_path / "same.json", ("gpt-4.1", 2, 8)))
    assert same.exit_code == 0, same.output
    assert "1 models compared" in same.output
    assert "0 differences that nothing explains" in same.output
    path = second(tmp_path / "apart.json", ("gpt-4.1", 2, 9), ("gpt-5", 1, 10))
    apart = call(ledger, "check", "--with", path)
    assert apart.exit_code == 1
    told = [line.split() for line in apart.output.splitlines()]
    assert ["openai", "gpt-4.1", "default:", "output", "8.00", "9.00", "cheaper"] in told
    assert ["openai", "gpt-5", "default:", "input", "1.25", "1.00", "dearer"] in told
    one = call(ledger, "check", "gpt-5", "--with", path, "--json")
    assert (one.exit_code, [found["model"] for found in json.loads(one.output)["differences"]]) == (1, ["gpt-5"])
    none = call(ledger, "check", "gpt-5-mini", "--with", path)
    assert none.exit_code == 0


def test_a_difference_that_was_looked_into_is_shown_when_asked_for_and_does_not_fail(ledger: Path) -> None:
    entry = {"litellm_provider": "gemini", "input_cost_per_token_flex": 1e-6, "mode": "chat"}
    Path("second.json").write_text(json.dumps({"gemini/gemini-2.5-pro": entry}), encoding="utf-8")
    quiet = call(ledger, "check", "--with", "second.json")
    assert quiet.exit_code == 0, quiet.output
    assert "1 that were looked into" in quiet.output
    assert "gemini-2.5-pro" not in quiet.output
    assert "a tier without a price is not let through" in call(ledger, "check", "--with", "second.json", "--all").output


def test_the_list_of_models_dev_may_be_compressed(ledger: Path) -> None:
    cost = {"input": 2, "output": 8}
    table = {"openai": {"models": {"gpt-4.1": {"cost": cost}}}}
    Path("api.json.gz").write_bytes(gzip.compress(json.dumps(table).encode()))
    assert call(ledger, "check", "--with", "api.json.gz").exit_code == 0


def test_an_installed_package_is_looked_into_without_importing_it(
    ledger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = call(ledger, "check")
    assert (none.exit_code, "there is no second price list here" in none.output) == (1, True)
    site = tmp_path / "site"
    for name, module in (("litellm", "litellm"), ("tokencost", "tokencost")):
        info = site / f"{module}-9.9.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.9\n")
    (site / "tokencost").mkdir()
    (site / "tokencost" / "__init__.py").write_text("raise SystemExit('imported')\n")
    second(site / "tokencost" / "model_prices.json", ("gpt-4.1", 2, 8))
    monkeypatch.syspath_prepend(str(site))
    found = call(ledger, "check")
    assert found.exit_code == 0, found.output
    assert f"compared with tokencost {version('tokencost')}" in found.output


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b"\x1f\x8bnot gzip", b'{"a": {"litellm_provider": "openai"'])
def test_what_is_no_price_list_is_said_so(ledger: Path, data: bytes) -> None:
    Path("second.json").write_bytes(data)
    result = call(ledger, "check", "--with", "second.json")
    assert (result.exit_code, "second.json cannot be compared with" in result.output) == (1, True)


# ---- quarantine -----------------------------------------------------------------------------------------------------


def test_the_quarantine_is_listed_with_both_figures(ledger: Path) -> None:
    assert call(ledger, "quarantine").output == "no model is in quarantine\n"
    asyncio.run(overrun(ledger))
    listed = call(ledger, "quarantine").output
    assert "gpt-4.1-mini" in listed
    assert "a call cost $0.00000005, and $0.00000003 was held for it" in listed
    (row,) = json.loads(call(ledger, "quarantine", "--json").output)
    assert (row["model"], row["call"]) == ("gpt-4.1-mini", "c-3")
    assert (row["held"]["usd_nanodollars"], row["cost"]["usd_nanodollars"]) == (30, 50)
    refused = call(ledger, "check", "gpt-4.1-mini")
    assert (
        "in quarantine: a call cost $0.00000005, and $0.00000003 was held for it; `bursar prices clear"
        in refused.output
    )
    assert call(ledger, "clear", "gpt-4.1-mini").exit_code == 0
    assert call(ledger, "quarantine", "--json").output == "[]\n"


def test_a_call_that_used_more_tokens_than_were_held_says_so(ledger: Path) -> None:
    async def use_too_many() -> None:
        store = open_store(f"sqlite:///{ledger}")
        await store.start()
        granted = await store.submit(authorize(store, "c-4"))
        assert isinstance(granted, Granted)
        actual = Amounts(30, 1, granted.held.tokens + 1)
        await store.submit(Settle("c-4", store.worker, actual, Basis.METERED, ("run:r-1", "key:local"), granted.held))
        await store.close()

    asyncio.run(use_too_many())
    assert "a call used 31 tokens, and 30 were held for it" in call(ledger, "quarantine").output
