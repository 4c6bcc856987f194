"""`bursar reconcile`: equal, more, less, unknown and partial bills against a ledger with real entries in it."""

from __future__ import annotations

import asyncio
import datetime
import json
import re
import threading
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from bill_samples import (
    DAY,
    anthropic_bucket,
    anthropic_cost,
    anthropic_page,
    anthropic_usage,
    openai_bucket,
    openai_cost,
    openai_page,
    openai_usage,
)
from click.testing import CliRunner, Result

from bursar.cli.bills.chart import bar, svg
from bursar.cli.bills.compare import EPOCH, compare, day_number
from bursar.cli.bills.post import PostError, Posting, post, postings
from bursar.cli.bills.reports import Report
from bursar.cli.common import FailedError
from bursar.cli.main import cli
from bursar.cli.reconcile import Account, Days, sections
from bursar.clock import SECOND, Instant
from bursar.ledger.account import (
    AccountState,
    Amounts,
    Ask,
    Authorize,
    Basis,
    Granted,
    Limits,
    OpenScope,
    SetState,
    Settle,
)
from bursar.ledger.store import SpentRow
from bursar.settings import LedgerSettings, Settings
from bursar.stores.sqlite import SqliteStore

NEXT = DAY + datetime.timedelta(days=1)
USD = 10**9


class Hands:
    """A clock that a test moves."""

    def __init__(self, day: datetime.date) -> None:
        self.instant = Instant((day_number(day) * 24 + 12) * 3600 * SECOND)

    def now(self) -> Instant:
        return self.instant


async def fill(path: Path, calls: list[tuple[datetime.date, str, str, int | None]]) -> None:
    """Book calls: day, upstream, model, and the cost in nanodollars; None loses the answer of a hold of 5 USD."""
    clock = Hands(calls[0][0])
    store = SqliteStore(path, clock)
    await store.start()
    await store.submit(OpenScope("key:ci", "", Limits()))
    for number, (day, upstream, model, usd) in enumerate(calls):
        ask = Ask(usd or 5 * USD, 100, 0, 1, 10, 10, 1, False)
        clock.instant = Hands(day).instant
        call = f"c{number}"
        granted = await store.submit(Authorize(call, store.worker, ("key:ci",), ask, model, upstream))
        assert isinstance(granted, Granted), granted
        actual = None if usd is None else Amounts(usd, 1, 50)
        basis = Basis.PRESUMED if usd is None else Basis.METERED
        await store.submit(Settle(call, store.worker, actual, basis, ("key:ci",), granted.held))
    await store.close()


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "ledger.db"
    calls: list[tuple[datetime.date, str, str, int | None]] = [
        (DAY, "openai", "gpt-5", 1 * USD),
        (DAY, "openai", "gpt-5-2025-08-07", 2 * USD),
        (DAY, "openai", "gpt-4.1", None),
        (DAY, "anthropic", "claude-sonnet-4-5", 3 * USD),
        (DAY, "elsewhere", "gpt-5", 7 * USD),
        (NEXT, "openai", "gpt-5", 4 * USD),
    ]
    asyncio.run(fill(path, calls))
    return path


def write(path: Path, page: object) -> str:
    path.write_text(json.dumps(page), encoding="utf-8")
    return str(path)


def call(ledger: Path, *args: str) -> Result:
    return CliRunner().invoke(cli, ["reconcile", *args, "--ledger", str(ledger)], prog_name="bursar")


def openai_costs(folder: Path, *days: tuple[datetime.date, dict[str, Any]]) -> str:
    buckets = [openai_bucket(day, *(openai_cost(item, usd) for item, usd in items.items())) for day, items in days]
    return write(folder / "costs.json", openai_page(*buckets))


def lines_of(path: Path) -> list[tuple[str, str, int, int, int | None, int | None]]:
    (section,) = json.loads(path.read_text(encoding="utf-8"))
    names = ("day", "model", "calls", "ledger_nanodollars", "provider_nanodollars", "difference_nanodollars")
    return [tuple(line[name] for name in names) for line in section["lines"]]


EQUAL = (
    (DAY, {"gpt-5-2025-08-07, input": 2.5, "gpt-5-2025-08-07, output": 0.5, "gpt-4.1-2025-04-14, output": 5}),
    (NEXT, {"gpt-5-2025-08-07, input": 4}),
)


# ---- comparing ------------------------------------------------------------------------------------------------------


def test_equal_bills_agree_and_snapshots_count_for_their_model(ledger: Path, tmp_path: Path) -> None:
    out = tmp_path / "lines.json"
    result = call(ledger, "--openai-costs", openai_costs(tmp_path, *EQUAL), "--json", str(out))
    assert result.exit_code == 0, result.output
    assert "agree within $0.01 on each of 3 days and models" in result.output
    assert lines_of(out) == [
        ("2026-11-10", "gpt-4.1", 1, 5 * USD, 5 * USD, 0),
        ("2026-11-10", "gpt-5", 2, 3 * USD, 3 * USD, 0),
        ("2026-11-11", "gpt-5", 1, 4 * USD, 4 * USD, 0),
    ]
    assert json.loads(out.read_text())[0]["lines"][0]["presumed_nanodollars"] == 5 * USD


def test_a_bill_that_is_more_less_or_for_something_unknown_is_told_and_fails(ledger: Path, tmp_path: Path) -> None:
    bill = openai_costs(
        tmp_path,
        (DAY, {"gpt-5, input": 3.5, "gpt-4.1, output": 1.25, "web search tool calls": 0.02, "o9, input": 0.001}),
        (NEXT, {}),
    )
    out = tmp_path / "lines.json"
    result = call(ledger, "--openai-costs", bill, "--json", str(out))
    assert result.exit_code == 1
    assert "4 of 5 days and models are apart by more than $0.01 (*)" in result.output
    assert lines_of(out) == [
        ("2026-11-10", "gpt-4.1", 1, 5 * USD, 1_250_000_000, -3_750_000_000),
        ("2026-11-10", "gpt-5", 2, 3 * USD, 3_500_000_000, 500_000_000),
        ("2026-11-10", "o9", 0, 0, 1_000_000, 1_000_000),
        ("2026-11-10", "web search tool calls", 0, 0, 20_000_000, 20_000_000),
        ("2026-11-11", "gpt-5", 1, 4 * USD, 0, -4 * USD),
    ]
    assert re.search(r"gpt-4.1 .* -\$3.75 +\*$", result.output, re.MULTILINE)
    tight = call(ledger, "--openai-costs", bill, "--tolerance", "0.0001")
    assert "5 of 5" in tight.output
    assert call(ledger, "--openai-costs", bill, "--tolerance", "4").exit_code == 0


def test_days_can_be_picked_and_one_that_the_report_lacks_is_an_error(ledger: Path, tmp_path: Path) -> None:
    bill = openai_costs(tmp_path, *EQUAL)
    out = tmp_path / "lines.json"
    result = call(ledger, "--openai-costs", bill, "--from", str(NEXT), "--to", str(NEXT), "--json", str(out))
    assert (result.exit_code, [line[0] for line in lines_of(out)]) == (0, ["2026-11-11"])
    assert len(lines_of(out)) == 1
    lacking = call(ledger, "--openai-costs", bill, "--from", str(DAY), "--to", "2026-11-12")
    assert (lacking.exit_code, "says nothing of 2026-11-12" in lacking.output) == (1, True)
    none = call(ledger, "--openai-costs", bill, "--from", "2027-01-01")
    assert (none.exit_code, "no whole day to compare" in none.output) == (1, True)


def test_a_day_that_is_not_over_is_left_out(ledger: Path, tmp_path: Path) -> None:
    future = datetime.date(9000, 1, 1)
    out = tmp_path / "lines.json"
    result = call(
        ledger, "--openai-costs", openai_costs(tmp_path, *EQUAL, (future, {"gpt-5, i": 9})), "--json", str(out)
    )
    assert (result.exit_code, max(line[0] for line in lines_of(out))) == (0, "2026-11-11")


def test_other_upstreams_can_be_what_a_provider_bills(ledger: Path, tmp_path: Path) -> None:
    bill = openai_costs(tmp_path, (DAY, {"gpt-5, input": 10, "gpt-4.1, input": 5}))
    names = ("--openai-upstream", "openai", "--openai-upstream", "elsewhere")
    assert call(ledger, "--openai-costs", bill, *names).exit_code == 0
    assert call(ledger, "--openai-costs", bill).exit_code == 1


def test_one_project_can_be_picked_out_of_a_bill(ledger: Path, tmp_path: Path) -> None:
    results = [openai_cost("gpt-5, input", 3, project="ours"), openai_cost("gpt-5, input", 9, project="theirs")]
    results.append(openai_cost("gpt-4.1, input", 5, project="ours"))
    bill = write(tmp_path / "costs.json", openai_page(openai_bucket(DAY, *results)))
    assert call(ledger, "--openai-costs", bill, "--openai-project", "ours").exit_code == 0
    assert call(ledger, "--openai-costs", bill).exit_code == 1


def test_anthropic_costs_are_compared(ledger: Path, tmp_path: Path) -> None:
    page = anthropic_page(
        anthropic_bucket(
            DAY, anthropic_cost("claude-sonnet-4-5-20250929", "100"), anthropic_cost("claude-sonnet-4-5", "200")
        )
    )
    result = call(ledger, "--anthropic-costs", write(tmp_path / "costs.json", page))
    assert result.exit_code == 0, result.output
    assert "2026-11-10  claude-sonnet-4-5  1      $3.00   $0.00     $3.00     $0.00" in result.output


def test_anthropic_usage_is_priced_by_the_book(ledger: Path, tmp_path: Path) -> None:
    """300 input, 500 and 1000 cache writes, 200 cache reads, 100 output at $3, $3.75, $6, $0.30 and $15."""
    row = anthropic_usage("claude-sonnet-4-5-20250929", uncached_input_tokens=300, output_tokens=100)
    long = anthropic_usage("claude-sonnet-4-5-20250929", context_window="200k-1M", output_tokens=0)
    unknown = anthropic_usage("claude-nobody-9")
    page = anthropic_page(anthropic_bucket(DAY, row, long, unknown))
    out = tmp_path / "lines.json"
    result = call(ledger, "--anthropic-usage", write(tmp_path / "usage.json", page), "--json", str(out))
    assert result.exit_code == 1
    short_usd = 300 * 3000 + 500 * 3750 + 1000 * 6000 + 200 * 300 + 100 * 15_000
    long_usd = 1500 * 6000 + 500 * 7500 + 1000 * 12_000 + 200 * 600
    known = next(line for line in lines_of(out) if line[1] == "claude-sonnet-4-5")
    assert known[3:5] == (3 * USD, short_usd + long_usd)
    assert [line[4:] for line in lines_of(out) if line[1] == "claude-nobody-9"] == [(None, None)]
    assert re.search(r"not known +\*", result.output)
    assert json.loads(out.read_text())[0]["lines"][1]["provider_tokens"] == 2100 + 3200


def test_openai_usage_is_priced_by_the_book_and_an_unknown_tier_is_not(ledger: Path, tmp_path: Path) -> None:
    rows = [openai_usage("gpt-4.1", service_tier="default"), openai_usage("gpt-4.1", service_tier="never heard of")]
    out = tmp_path / "lines.json"
    priced = write(tmp_path / "usage.json", openai_page(openai_bucket(DAY, rows[0])))
    call(ledger, "--openai-usage", priced, "--json", str(out))
    assert lines_of(out)[0][4] == 200 * 2000 + 800 * 500 + 500 * 8000
    unpriced = write(tmp_path / "usage.json", openai_page(openai_bucket(DAY, *rows)))
    call(ledger, "--openai-usage", unpriced, "--json", str(out))
    assert lines_of(out)[0][4] is None


def test_folded_days_are_compared_by_their_sums_and_not_posted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ledger = tmp_path / "ledger.db"
    later = DAY + datetime.timedelta(days=60)
    asyncio.run(fill(ledger, [(DAY, "openai", "gpt-5", USD), (later, "openai", "gpt-5", 2 * USD)]))

    async def fold() -> None:
        store = SqliteStore(ledger, Hands(later))
        await store.start()
        done = await store.compact(30, 1000)
        await store.close()
        assert (done.findings, done.holds) == ((), 1)

    bill = write(
        tmp_path / "costs.json",
        openai_page(openai_bucket(DAY, openai_cost("gpt-5, i", 1)), openai_bucket(later, openai_cost("gpt-5, i", 2))),
    )
    today = later + datetime.timedelta(days=1)
    days = lines_of_days(ledger, bill, today)
    assert days == ["2026-11-10", "2027-01-09"]
    asyncio.run(fold())
    assert lines_of_days(ledger, bill, today) == days
    with pytest.raises(FailedError, match="2026-11-10 were folded away; post from 2027-01-10 on"):
        lines_of_days(ledger, bill, today, keeps=True)


def test_what_a_report_of_completions_is_not_about_is_not_known(tmp_path: Path) -> None:
    report = Report("openai-usage", frozenset({DAY}), ())
    spent = [SpentRow((DAY - EPOCH).days, "openai", "text-embedding-3-small", 5, 500, 0, 900)]
    (line,) = compare(report, spent, frozenset({DAY}), lambda row: None)
    assert (line.ledger_usd, line.provider_usd, line.provider_tokens, line.difference) == (500, None, None, None)
    assert postings([line], "openai", "d") == []


def lines_of_days(ledger: Path, bill: str, today: datetime.date, *, keeps: bool = False) -> list[str]:
    """Compare as of a day that is yet to come."""
    settings = Settings(ledger=LedgerSettings(url=f"sqlite:///{ledger}"))
    accounts = {"openai": Account(("openai",), "", "")}
    (section,) = asyncio.run(sections(settings, {"openai-costs": bill}, accounts, Days(None, None, today), keeps=keeps))
    assert all(line.difference == 0 for line in section.lines)
    return [line.day.isoformat() for line in section.lines]


# ---- drawing --------------------------------------------------------------------------------------------------------


def test_bars_go_to_the_side_that_billed_more_and_the_longest_is_whole() -> None:
    assert (bar(10, 10), bar(-10, 10)) == (" " * 20 + "│" + "▇" * 20, "▇" * 20 + "│")
    assert bar(-1, 1000).rstrip("│").strip() == "▇"
    assert (bar(0, 10), bar(0, 0)) == (" " * 20 + "│", " " * 20 + "│")


def test_the_drawing_is_one_file_with_every_day_and_nothing_from_elsewhere(ledger: Path, tmp_path: Path) -> None:
    bill = openai_costs(tmp_path, (DAY, {"gpt-5, input": 9, "gpt-4.1, input": 5}), (NEXT, {"gpt-5, input": 1}))
    picture = tmp_path / "bills.svg"
    result = call(ledger, "--openai-costs", bill, "--svg", str(picture))
    text = picture.read_text(encoding="utf-8")
    root = ET.fromstring(text)
    words = [element.text for element in root.iter() if element.text and element.text.strip()]
    assert {"2026-11-10", "2026-11-11", "ledger $8.00", "provider $14.00"} <= set(words)
    assert {"$6.00", "-$3.00"} <= set(words)
    assert text.count("http") == 1, "only the name space"
    widths = [int(element.attrib["width"]) for element in root.iter() if element.tag.endswith("rect")][1:]
    assert max(widths) == 570
    assert f"2026-11-10  {' ' * 20}│{'▇' * 20} $6.00" in result.output
    assert f"2026-11-11  {' ' * 10}{'▇' * 10}│ -$3.00" in result.output


def test_a_drawing_of_nothing_and_of_odd_names_is_still_one() -> None:
    ET.fromstring(svg({"a < b & c": {"2026-11-10": (0, 0)}, "none": {}}))


# ---- posting --------------------------------------------------------------------------------------------------------


def scopes(ledger: Path) -> dict[str, int]:
    async def read() -> dict[str, int]:
        store = SqliteStore(ledger)
        await store.start()
        try:
            assert await store.audit() == ()
            accounts = await store.accounts()
            return {one.scope: one.captured + one.overrun for one in accounts if one.unit == "usd"}
        finally:
            await store.close()

    return asyncio.run(read())


def test_a_difference_is_posted_once_on_scopes_of_its_own_with_evidence(ledger: Path, tmp_path: Path) -> None:
    bill = openai_costs(tmp_path, (DAY, {"gpt-5, input": 3.5, "gpt-4.1, output": 1.25}), (NEXT, {"gpt-5, input": 4}))
    before = scopes(ledger)
    first = call(ledger, "--openai-costs", bill, "--post")
    assert "posted: 2 new, 0 corrected, 0 as before" in first.output
    after = scopes(ledger)
    assert after == {**before, "reconcile:openai:more": USD // 2, "reconcile:openai:less": 3_750_000_000}
    again = call(ledger, "--openai-costs", bill, "--post")
    assert "posted: 0 new, 0 corrected, 2 as before" in again.output
    assert scopes(ledger) == after
    entries = [json.loads(line) for line in run("ledger", "export", "--ledger", str(ledger)).output.splitlines()]
    (entry,) = (one for one in entries if one["kind"] == "capture" and "more" in one["call"])
    assert entry["call"] == "reconcile:openai:more:2026-11-10:gpt-5"
    assert (entry["detail"]["basis"], entry["calls"], entry["usd_nanodollars"]) == ("adjusted", 0, USD // 2)
    assert entry["detail"]["why"].startswith("openai billed 3500000000 nanodollars for gpt-5 on 2026-11-10, the ledger")
    assert "report sha256:" in entry["detail"]["why"]


def test_a_later_report_corrects_what_was_posted_also_to_the_other_side(ledger: Path, tmp_path: Path) -> None:
    call(ledger, "--openai-costs", openai_costs(tmp_path, (DAY, {"gpt-5, input": 3.5, "gpt-4.1, input": 5})), "--post")
    lower = openai_costs(tmp_path, (DAY, {"gpt-5, input": 2.75, "gpt-4.1, input": 5}))
    result = call(ledger, "--openai-costs", lower, "--post")
    assert "posted: 1 new, 1 corrected, 0 as before" in result.output
    posted = {scope: usd for scope, usd in scopes(ledger).items() if scope.startswith("reconcile:")}
    assert posted == {"reconcile:openai:more": 0, "reconcile:openai:less": USD // 4}
    higher = openai_costs(tmp_path, (DAY, {"gpt-5, input": 4.5, "gpt-4.1, input": 5}))
    assert "posted: 0 new, 2 corrected" in call(ledger, "--openai-costs", higher, "--post").output
    posted = {scope: usd for scope, usd in scopes(ledger).items() if scope.startswith("reconcile:")}
    assert posted == {"reconcile:openai:more": 3 * USD // 2, "reconcile:openai:less": 0}


def test_what_is_posted_is_no_call_of_the_provider(ledger: Path, tmp_path: Path) -> None:
    bill = openai_costs(tmp_path, (DAY, {"gpt-5, input": 3.5, "gpt-4.1, input": 5}))
    out = tmp_path / "lines.json"
    call(ledger, "--openai-costs", bill, "--post")
    call(ledger, "--openai-costs", bill, "--json", str(out))
    assert lines_of(out)[1] == ("2026-11-10", "gpt-5", 2, 3 * USD, 3_500_000_000, USD // 2)


def test_costs_come_before_usage_and_what_is_not_priced_is_not_posted(ledger: Path, tmp_path: Path) -> None:
    costs = openai_costs(tmp_path, (DAY, {"gpt-5, input": 3, "gpt-4.1, input": 5}))
    usage = write(tmp_path / "usage.json", openai_page(openai_bucket(DAY, openai_usage("gpt-5"))))
    result = call(ledger, "--openai-usage", usage, "--openai-costs", costs, "--post")
    assert "posted: 0 new, 0 corrected, 0 as before" in result.output
    unknown = write(tmp_path / "usage.json", openai_page(openai_bucket(DAY, openai_usage("gpt-99"))))
    result = call(ledger, "--openai-usage", unknown, "--post")
    assert "posted: 0 new, 0 corrected, 0 as before" in result.output
    assert not [scope for scope in scopes(ledger) if scope.startswith("reconcile:")]


def test_a_model_in_quarantine_is_reconciled_all_the_same(ledger: Path, tmp_path: Path) -> None:
    asyncio.run(fill_overrun(ledger))
    bill = openai_costs(tmp_path, (DAY, {"gpt-5, input": 20, "gpt-4.1, input": 5}))
    assert "posted: 1 new" in call(ledger, "--openai-costs", bill, "--post").output


async def fill_overrun(path: Path) -> None:
    store = SqliteStore(path, Hands(DAY))
    await store.start()
    ask = Ask(5 * USD, 100, 0, 1, 10, 10, 1, False)
    granted = await store.submit(Authorize("over", store.worker, ("key:ci",), ask, "gpt-5", "openai"))
    assert isinstance(granted, Granted)
    await store.submit(Settle("over", store.worker, Amounts(6 * USD, 1, 1), Basis.METERED, ("key:ci",), granted.held))
    assert [row.model for row in await store.quarantined()] == ["gpt-5"]
    await store.close()


async def test_what_another_process_is_just_posting_is_left_to_it(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "ledger.db", Hands(DAY))
    await store.start()
    posting = Posting("reconcile:x:more:d:m", "reconcile:x:more", "reconcile:x", "m (reconciled)", 5, "why")
    await store.submit(OpenScope(posting.scope, "", Limits()))
    ask = Ask(5, 0, 0, 1, 0, 0, 0, True)
    await store.submit(Authorize(posting.call_id, store.worker, (posting.scope,), ask, posting.model, posting.upstream))
    with pytest.raises(PostError, match="just being posted by somebody else"):
        await post(store, [posting])
    await store.submit(OpenScope("key:small", "", Limits(usd=1)))
    with pytest.raises(PostError, match="was not booked: Denied"):
        await post(store, [Posting("c", "key:small", "u", "m", 5, "why")])
    await store.close()
    assert postings([], "x", "digest") == []


def test_a_posting_that_the_ledger_refuses_is_an_error_of_one_line(ledger: Path, tmp_path: Path) -> None:
    async def stop() -> None:
        store = SqliteStore(ledger)
        await store.start()
        await store.submit(OpenScope("reconcile:openai:more", "", Limits()))
        await store.submit(SetState("reconcile:openai:more", AccountState.STOPPED))
        await store.close()

    asyncio.run(stop())
    result = call(ledger, "--openai-costs", openai_costs(tmp_path, (DAY, {"gpt-5, input": 9})), "--post")
    assert result.exit_code == 1
    assert "reconcile:openai:more:2026-11-10:gpt-5 was not booked" in result.output


# ---- the APIs -------------------------------------------------------------------------------------------------------


@contextmanager
def api(pages: dict[str, list[Any]]) -> Iterator[tuple[str, list[tuple[str, dict[str, list[str]], dict[str, str]]]]]:
    """Serve these pages by path, in turn by their cursor; give the base URL and what was asked."""
    asked: list[tuple[str, dict[str, list[str]], dict[str, str]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = parse_qs(parts.query)
            asked.append((parts.path, query, {name.lower(): value for name, value in self.headers.items()}))
            found = pages.get(parts.path)
            number = int(query.get("page", ["p0"])[0][1:])
            body = json.dumps(found[number] if found else {"error": {"message": "no such admin key"}}).encode()
            self.send_response(200 if found else 401)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def config(folder: Path, url: str) -> str:
    path = folder / "bursar.toml"
    path.write_text(f'[upstreams.openai]\nbase_url = "{url}"\n[upstreams.anthropic]\nbase_url = "{url}"\n')
    return str(path)


def run(*args: str, **environ: str) -> Result:
    return CliRunner().invoke(cli, list(args), prog_name="bursar", env=environ)


def test_the_openai_api_is_asked_page_by_page_with_the_admin_key(ledger: Path, tmp_path: Path) -> None:
    first = openai_page(openai_bucket(DAY, openai_cost("gpt-5, i", 3), openai_cost("gpt-4.1, i", 5)), next_page="p1")
    second = openai_page(openai_bucket(NEXT, openai_cost("gpt-5, i", 4)))
    with api({"/v1/organization/costs": [first, second]}) as (url, asked):
        result = run(
            *("reconcile", "--openai-costs", "API", "--from", str(DAY), "--to", str(NEXT)),
            *("--config", config(tmp_path, url), "--ledger", str(ledger)),
            OPENAI_ADMIN_KEY="sk-admin-x",
        )
    assert result.exit_code == 0, result.output
    assert [path for path, _, _ in asked] == ["/v1/organization/costs"] * 2
    (_, query, headers), (_, again, _) = asked
    start = int(datetime.datetime(2026, 11, 10, tzinfo=datetime.UTC).timestamp())
    assert query == {
        "start_time": [str(start)],
        "end_time": [str(start + 2 * 86_400)],
        "bucket_width": ["1d"],
        "group_by[]": ["line_item", "project_id"],
        "limit": ["2"],
    }
    assert again == {**query, "page": ["p1"]}
    assert headers["authorization"] == "Bearer sk-admin-x"
    assert "sk-admin-x" not in result.output


def test_the_anthropic_api_is_asked_with_its_own_header_and_dates(ledger: Path, tmp_path: Path) -> None:
    page = anthropic_page(anthropic_bucket(DAY, anthropic_cost("claude-sonnet-4-5", "300")))
    with api({"/v1/organizations/cost_report": [page]}) as (url, asked):
        result = run(
            *("reconcile", "--anthropic-costs", "API", "--from", str(DAY), "--to", str(DAY)),
            *("--anthropic-key-env", "MY_KEY", "--config", config(tmp_path, url), "--ledger", str(ledger)),
            MY_KEY="sk-ant-admin-x",
        )
    assert result.exit_code == 0, result.output
    ((_, query, headers),) = asked
    assert (query["starting_at"], query["ending_at"]) == (["2026-11-10T00:00:00Z"], ["2026-11-11T00:00:00Z"])
    assert query["group_by[]"] == ["description", "workspace_id"]
    assert (headers["x-api-key"], headers["anthropic-version"]) == ("sk-ant-admin-x", "2023-06-01")


def test_the_api_is_asked_for_the_last_seven_whole_days_where_none_are_named(ledger: Path, tmp_path: Path) -> None:
    with api({"/v1/organizations/usage_report/messages": [anthropic_page()]}) as (url, asked):
        args = ("reconcile", "--anthropic-usage", "API", "--config", config(tmp_path, url), "--ledger", str(ledger))
        result = run(*args, ANTHROPIC_ADMIN_KEY="k")
    assert "says nothing of" in result.output
    ((_, query, _),) = asked
    start, end = (datetime.datetime.fromisoformat(query[name][0]) for name in ("starting_at", "ending_at"))
    assert (end - start).days == 7
    assert query["limit"] == ["7"]


@pytest.mark.parametrize(
    ("args", "environ", "exit_code", "why"),
    [
        ((), {}, 2, "name at least one report"),
        (("--openai-costs", "none.json"), {}, 1, "cannot be read"),
        (("--openai-costs", "wrong.json"), {}, 1, "wrong.json: page 1 is not as it should be"),
        (("--openai-costs", "part.json"), {}, 1, "only a part"),
        (("--openai-costs", "API"), {"OPENAI_ADMIN_KEY": ""}, 1, "put it into OPENAI_ADMIN_KEY"),
        (("--openai-costs", "API"), {"OPENAI_ADMIN_KEY": "k\n"}, 1, "is the key whole?"),
        (("--openai-costs", "API"), {"OPENAI_ADMIN_KEY": "k"}, 1, "status 401"),
        (("--openai-usage", "API"), {"OPENAI_ADMIN_KEY": "k"}, 1, "names no next_page"),
        (("--openai-costs", "API", "--openai-upstream", "x"), {"OPENAI_ADMIN_KEY": "k"}, 1, "there is no upstream x"),
        (("--openai-costs", "API", "--to", "9000-01-01"), {"OPENAI_ADMIN_KEY": "k"}, 2, "no whole days that are over"),
        (
            ("--openai-costs", "API", "--from", "2026-11-02", "--to", "2026-11-01"),
            {"OPENAI_ADMIN_KEY": "k"},
            2,
            "no whole days that are over",
        ),
        (("--openai-costs", "x.json", "--from", "yesterday"), {}, 2, "yesterday is not a date"),
    ],
)
def test_what_cannot_be_compared_is_said_in_one_line(
    ledger: Path, tmp_path: Path, args: tuple[str, ...], environ: dict[str, str], exit_code: int, why: str
) -> None:
    write(tmp_path / "wrong.json", {"error": "x"})
    write(tmp_path / "part.json", openai_page(openai_bucket(DAY), next_page="p1"))
    usage = {"/v1/organization/usage/completions": [{"data": [], "has_more": True}]}
    with api(usage) as (url, _):
        result = run("reconcile", *args, "--config", config(tmp_path, url), "--ledger", str(ledger), **environ)
    assert result.exit_code == exit_code, result.output
    assert why in result.output


def test_a_ledger_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    bill = openai_costs(tmp_path, *EQUAL)
    result = call(tmp_path / "none.db", "--openai-costs", bill)
    assert (result.exit_code, "no ledger at" in result.output) == (1, True)
    assert not (tmp_path / "none.db").exists()
