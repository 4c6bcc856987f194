"""`bursar reconcile`: the ledger against what the providers say they billed, by day and model."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from bursar.cli.common import (
    USD,
    FailedError,
    WrongSettingsError,
    config_option,
    existing_books,
    ledger_option,
    run_async,
    settings_for,
    show_table,
    signed_usd,
    usd,
)

if TYPE_CHECKING:
    from bursar.cli.bills.compare import Line, Price
    from bursar.cli.bills.post import Posted
    from bursar.cli.bills.reports import Billed, Kind, Report
    from bursar.ledger.store import Store
    from bursar.money import Money
    from bursar.settings import Settings

DIFFERS = 1
DAYS_DEFAULT = 7
API = "API"
NAMES = {"openai": "OpenAI", "anthropic": "Anthropic"}
KIND_NAMES = ("openai-costs", "openai-usage", "anthropic-costs", "anthropic-usage")


@dataclass(frozen=True, slots=True)
class Account:
    """Where one provider's reports come from and which calls of the ledger they are about."""

    upstreams: tuple[str, ...]
    part: str
    key_env: str


@dataclass(frozen=True, slots=True)
class Days:
    """The days that are asked for; None is as far as the report goes."""

    first: datetime.date | None
    last: datetime.date | None
    today: datetime.date

    def of(self, report: Report) -> frozenset[datetime.date]:
        """Give the days to compare: whole ones, that the report is about; raises FailedError for what it lacks."""
        over = {day for day in report.days if day < self.today}
        asked = {day for day in over if (self.first or day) <= day <= (self.last or day)}
        if self.first and self.last:
            span = range((self.last - self.first).days + 1)
            wanted = {self.first + datetime.timedelta(days=number) for number in span}
            missing = sorted(day for day in wanted - asked if day < self.today)
            if missing:
                raise FailedError(f"the {report.kind} report says nothing of {missing[0]}; ask the provider again")
        if not asked:
            raise FailedError(f"the {report.kind} report has no whole day to compare")
        return frozenset(asked)


@dataclass(frozen=True, slots=True)
class Section:
    """One report and what came of it."""

    kind: Kind
    digest: str
    lines: list[Line]


def _report_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for name in reversed(KIND_NAMES):
        provider, what = name.split("-")
        said = "what it charged" if what == "costs" else "tokens, priced by the price book"
        command = click.option(
            f"--{name}", metavar="FILE|API", help=f"The {what} report of {NAMES[provider]}: {said}."
        )(command)
    return command


def _provider_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for provider, part in (("anthropic", "workspace"), ("openai", "project")):
        command = click.option(
            f"--{provider}-upstream",
            multiple=True,
            default=(provider,),
            show_default=True,
            metavar="NAME",
            help=f"The upstreams whose calls {NAMES[provider]} bills; the API is asked at the first.",
        )(command)
        command = click.option(f"--{provider}-{part}", default="", metavar="ID", help=f"Only this {part}.")(command)
        command = click.option(
            f"--{provider}-key-env",
            default=f"{provider.upper()}_ADMIN_KEY",
            show_default=True,
            metavar="NAME",
            help="The variable that has the admin key.",
        )(command)
    return command


@click.command()
@_report_options
@click.option("--from", "first", metavar="DATE", help="First UTC day; default: as the report says.")
@click.option("--to", "last", metavar="DATE", help="Last UTC day; default: as the report says.")
@_provider_options
@click.option("--tolerance", type=USD, default="0.01", show_default=True, help="USD a day and model may differ by.")
@click.option("--post", "posts", is_flag=True, help="Book the differences on scopes of their own, with evidence.")
@click.option("--json", "json_file", type=click.File("w"), metavar="FILE", help="Write every line as JSON.")
@click.option("--svg", "svg_file", type=click.File("w"), metavar="FILE", help="Draw both sides, day by day.")
@config_option
@ledger_option
def reconcile(
    first: str | None,
    last: str | None,
    tolerance: Money,
    posts: bool,
    json_file: IO[str] | None,
    svg_file: IO[str] | None,
    config: Path | None,
    ledger: str | None,
    **given: Any,
) -> None:
    """Compare the ledger with what the providers say they billed; exit status 1 when they are apart.

    A report is a FILE with the provider's JSON (all pages), or API, which asks for the last seven whole days (or --from
    and --to) with an admin key from the environment. A call belongs to the UTC day on which it was authorized.

    Example: bursar reconcile --openai-costs costs.json --anthropic-usage API --from 2026-11-01 --to 2026-11-07
    """
    sources = {name: given[name.replace("-", "_")] for name in KIND_NAMES if given[name.replace("-", "_")]}
    if not sources:
        raise WrongSettingsError(f"name at least one report: {', '.join(f'--{name}' for name in KIND_NAMES)}")
    accounts = {
        provider: Account(given[f"{provider}_upstream"], given[f"{provider}_{part}"], given[f"{provider}_key_env"])
        for provider, part in (("openai", "project"), ("anthropic", "workspace"))
    }
    settings = settings_for(config, ledger)
    days = Days(_day(first), _day(last), datetime.datetime.now(datetime.UTC).date())
    found = run_async(sections(settings, sources, accounts, days, keeps=posts))
    posted = run_async(_post(settings, found)) if posts else None
    if json_file is not None:
        json.dump([_section_facts(section) for section in found], json_file, indent=2)
        json_file.write("\n")
    if svg_file is not None:
        from bursar.cli.bills.chart import by_day, svg

        svg_file.write(svg({_title(section): by_day(section.lines) for section in found}))
    for section in found:
        _show(section, tolerance.nanodollars)
    if posted is not None:
        click.echo(f"posted: {posted.made} new, {posted.corrected} corrected, {posted.unchanged} as before")
    _end(found, tolerance.nanodollars)


# ---- reading --------------------------------------------------------------------------------------------------------


def _day(given: str | None) -> datetime.date | None:
    try:
        return None if given is None else datetime.date.fromisoformat(given)
    except ValueError:
        raise WrongSettingsError(f"{given} is not a date such as 2026-11-23") from None


async def sections(
    settings: Settings, sources: Mapping[str, str], accounts: Mapping[str, Account], days: Days, *, keeps: bool
) -> list[Section]:
    """Read every report and compare it with the ledger; `keeps` wants every call in the books. Raises FailedError."""
    from bursar.cli.bills.reports import KINDS, ReportError, read_report

    found = []
    for name, source in sources.items():
        kind = KINDS[name]
        account = accounts[kind.provider]
        asked = _whole_week(days) if source == API else days
        text = await _text(settings, kind, source, account, asked)
        try:
            report = read_report(kind, text, account.part)
        except ReportError as error:
            raise FailedError(f"the {name} report of {source}: {error}") from None
        digest = hashlib.sha256(text.encode()).hexdigest()
        found.append(Section(kind, digest, await _lines(settings, report, account, asked, keeps)))
    return found


def _whole_week(days: Days) -> Days:
    last = days.last or days.today - datetime.timedelta(days=1)
    return replace(days, first=days.first or last - datetime.timedelta(days=DAYS_DEFAULT - 1), last=last)


async def _text(settings: Settings, kind: Kind, source: str, account: Account, days: Days) -> str:
    from bursar.cli.bills.online import report_text
    from bursar.cli.bills.reports import ReportError
    from bursar.upstream.reading import ReadingError

    if source != API:
        try:
            return Path(source).read_text(encoding="utf-8")  # noqa: ASYNC240 - nothing else runs
        except (OSError, UnicodeDecodeError) as error:
            raise FailedError(f"the {kind.name} report cannot be read: {error}") from None
    key = os.environ.get(account.key_env, "")
    if not key:
        raise FailedError(f"the API of {kind.provider} wants an admin key; put it into {account.key_env}")
    upstream = settings.upstreams.get(account.upstreams[0])
    if upstream is None:
        raise FailedError(f"there is no upstream {account.upstreams[0]}; there are {', '.join(settings.upstreams)}")
    first, last = days.first or days.today, days.last or days.today
    if first > last or last >= days.today:
        raise WrongSettingsError(f"from {first} to {last} are no whole days that are over")
    try:
        return await report_text(kind, upstream.base_url, key, first, last)
    except (ReadingError, ReportError) as error:
        raise FailedError(f"the {kind.name} report: {error}") from None


# ---- comparing ------------------------------------------------------------------------------------------------------


async def _lines(settings: Settings, report: Report, account: Account, days: Days, keeps: bool) -> list[Line]:
    from bursar.cli.bills.compare import compare, day_number

    chosen = days.of(report)
    async with existing_books(settings) as store:
        if keeps:
            await _ensure_kept(store, min(chosen))
        spent = await store.spent_by_day(day_number(min(chosen)), day_number(max(chosen)))
    ours = [row for row in spent if row.upstream in account.upstreams]
    return compare(report, ours, chosen, _price(settings, account.upstreams[0]))


async def _ensure_kept(store: Store, first: datetime.date) -> None:
    """Refuse to post days of which calls were folded away: what was posted for them may be folded away as well."""
    from bursar.cli.bills.compare import EPOCH
    from bursar.clock import SECOND

    async for entry in store.entries():
        oldest = EPOCH + datetime.timedelta(seconds=entry.at // SECOND)
        if entry.seq > 1 and first <= oldest:
            after = oldest + datetime.timedelta(days=1)
            raise FailedError(f"calls of {first} were folded away; post from {after} on (--from {after})")
        return


def _price(settings: Settings, upstream: str) -> Price:
    """Give what prices the rows of a usage report: the price book, at noon of their day."""
    from bursar.clock import SECOND, Instant
    from bursar.edge.wiring import price_book
    from bursar.money import cost
    from bursar.pricing.rates import Card, rates_at, tier_name

    book = price_book(settings)

    def price(row: Billed) -> Decimal | None:
        if row.tokens is None:
            return None
        noon = datetime.datetime.combine(row.day, datetime.time(12), datetime.UTC)
        card = book.card(upstream, row.named, Instant(int(noon.timestamp()) * SECOND))
        steps = card.tiers.get(tier_name(row.tier)) if isinstance(card, Card) else None
        if steps is None:
            return None
        rates = rates_at(steps, row.input_tokens_min + 1)
        tokens = row.tokens
        lines = (
            (tokens.input, rates.input),
            (tokens.output, rates.output),
            (tokens.cache_read, rates.cache_read),
            (tokens.cache_write_5m, rates.cache_write_5m),
            (tokens.cache_write_1h, rates.cache_write_1h),
        )
        return Decimal(cost(lines).nanodollars) / 10**9

    return price


async def _post(settings: Settings, sections: list[Section]) -> Posted:
    from bursar.cli.bills.post import PostError, post, postings

    # What a provider says it charged comes before what we think its tokens cost.
    by_provider = {section.kind.provider: section for section in sections if not section.kind.has_usd}
    by_provider |= {section.kind.provider: section for section in sections if section.kind.has_usd}
    wanted = [
        posting
        for section in by_provider.values()
        for posting in postings(section.lines, section.kind.provider, section.digest)
    ]
    async with existing_books(settings) as store:
        try:
            return await post(store, wanted)
        except PostError as error:
            raise FailedError(str(error)) from None


# ---- output ---------------------------------------------------------------------------------------------------------


def _title(section: Section) -> str:
    return f"{section.kind.name}: ledger and provider, USD by UTC day"


def _show(section: Section, tolerance: int) -> None:
    from bursar.cli.bills.chart import bar, by_day
    from bursar.cli.bills.compare import differs

    rows = [
        (
            line.day.isoformat(),
            line.model,
            str(line.calls),
            usd(line.ledger_usd),
            usd(line.presumed_usd),
            "?" if line.provider_usd is None else signed_usd(line.provider_usd),
            "not known" if line.difference is None else signed_usd(line.difference),
            "*" if differs(line, tolerance) else "",
        )
        for line in section.lines
    ]
    click.echo(f"{section.kind.name} (report sha256:{section.digest[:16]}...)")
    show_table(("DAY", "MODEL", "CALLS", "LEDGER", "PRESUMED", "PROVIDER", "DIFFERENCE", ""), rows)
    days = by_day(section.lines)
    most = max((abs(theirs - ours) for ours, theirs in days.values()), default=0)
    for day, (ours, theirs) in days.items():
        click.echo(f"{day}  {bar(theirs - ours, most)} {signed_usd(theirs - ours)}")


def _section_facts(section: Section) -> dict[str, object]:
    return {
        "report": section.kind.name,
        "sha256": section.digest,
        "lines": [
            {
                "day": line.day.isoformat(),
                "model": line.model,
                "calls": line.calls,
                "ledger_nanodollars": line.ledger_usd,
                "presumed_nanodollars": line.presumed_usd,
                "provider_nanodollars": line.provider_usd,
                "difference_nanodollars": line.difference,
                "ledger_tokens": line.ledger_tokens,
                "provider_tokens": line.provider_tokens,
            }
            for line in section.lines
        ],
    }


def _end(sections: list[Section], tolerance: int) -> None:
    from bursar.cli.bills.compare import differs

    lines = [line for section in sections for line in section.lines]
    apart = [line for line in lines if differs(line, tolerance)]
    if not apart:
        click.echo(f"the ledger and the bills agree within {usd(tolerance)} on each of {len(lines)} days and models")
        return
    click.echo(f"{len(apart)} of {len(lines)} days and models are apart by more than {usd(tolerance)} (*)")
    raise click.exceptions.Exit(DIFFERS)
