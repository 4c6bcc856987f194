"""`bursar drill`: drives agents into the cap and compares what the provider would have billed with it."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bursar.cli.common import USD, WrongSettingsError, say, show_json, show_table
from bursar.cli.drill_target import ordered, provider, target_options

if TYPE_CHECKING:
    from rich.console import Console

    from bursar.drill.gateway import Books, Gateway, Ledger
    from bursar.drill.scenarios import Scenario
    from bursar.drill.storm import Progress
    from bursar.drill.verdict import Balance, Verdict
    from bursar.drill.witness import Witness
    from bursar.ledger.store import Finding, Store
    from bursar.money import Money

    Meet = Callable[[Scenario], AbstractAsyncContextManager[tuple[Witness, Gateway]]]

PASSED, FAILED, COULD_NOT_RUN = 0, 1, 2
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group(invoke_without_command=True)
@click.option("--agents", type=click.IntRange(1, 4_096), help="How many agents storm at once; default 64.")
@click.option("--cap-usd", type=USD, metavar="USD", help="Try a cap in dollars.")
@click.option("--cap-calls", type=click.IntRange(1, 1_000_000), metavar="N", help="Try a cap in calls.")
@click.option("--scenario", metavar="NAME", help="calls, dollars, trouble or long: just this one, as it is.")
@click.option("--only", metavar="NAMES", help="These storms, with commas between; --list shows them.")
@click.option("--workers", type=click.IntRange(1, 64), help="Worker processes of the gateway; default 4.")
@click.option(
    "--dialect",
    type=click.Choice(("all", "chat", "responses", "messages", "gemini")),
    default="all",
    show_default=True,
    help="What the agents speak.",
)
@click.option("--stream/--no-stream", default=None, help="Only streaming agents, or none; default half of them.")
@click.option("--latency-ms", type=click.IntRange(0, 60_000), help="Until the provider's first byte; default 200.")
@click.option("--faults", metavar="NAMES", help="none, all, or names with commas; a wrong name lists them.")
@click.option(
    "--store",
    type=click.Choice(("sqlite", "postgres", "both")),
    default="sqlite",
    show_default=True,
    help="Where the books are; postgres starts a server of its own.",
)
@click.option("--gateways", type=click.IntRange(1, 16), help="Gateways on one ledger; default 1.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="For everything left to chance; default by the clock.")
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True), help="Write all as JSON."
)
@click.option("--junit", type=_FILE, help="Write the verdict as JUnit XML, a test case per storm and check.")
@click.option("--html", type=_FILE, help="Write one page with the verdict and its pictures; no network, no script.")
@click.option("--svg", type=_FILE, help="Write the pictures: spend against the cap over time.")
@target_options
@click.option("--list", "is_list", is_flag=True, help="List the storms and the faults, and run none.")
@click.pass_context
def drill(
    context: click.Context,
    /,
    json_file: Path | None,
    junit: Path | None,
    html: Path | None,
    svg: Path | None,
    is_list: bool,
    **options: object,
) -> None:
    """Prove that the cap holds: 64 agents, several workers, a provider that keeps its own till.

    Needs no key and no network. Without options it runs a short series.
    Exit status: 0 the cap held, 1 it did not, 2 the drill could not run.

    Example: bursar drill --cap-usd 1.00 --agents 64 --faults all --html verdict.html
    """
    if context.invoked_subcommand is not None:
        return
    if is_list:
        _list()
        return
    files = {"json": json_file, "junit": junit, "html": html, "svg": svg}
    _ensure_folders(files)
    order = ordered(options)
    is_quiet = str(json_file) == "-"
    if order is None:
        scenarios = scenarios_for(**options)  # type: ignore[arg-type]
        verdicts = _run(scenarios, _own_gateway, is_quiet)
    else:
        scenarios = (order.scenario,)
        options |= order.settings
        verdicts = _run(scenarios, lambda scenario: order.meet(), is_quiet)
    settings = {name: str(value) if name == "cap_usd" and value else value for name, value in options.items()}
    write_evidence(verdicts, {**settings, "seed": scenarios[0].seed}, files)
    sys.exit(PASSED if all(verdict.passed for verdict in verdicts) else FAILED)


@drill.command()
@click.argument("before", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("after", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="Write JSON to stdout.")
def compare(before: Path, after: Path, as_json: bool) -> None:
    """Compare two drills, from what `--json FILE` wrote: verdicts, over by, usable share, refusals.

    Exit status: 0 the second is no worse, 1 it is worse, 2 they cannot be compared.

    Example: bursar drill compare last-week.json today.json
    """
    from bursar.drill.compare import compare as compared

    try:
        changes = compared(_document(before), _document(after))
    except ValueError as error:
        raise WrongSettingsError(f"one of the two {error}; `bursar drill --json FILE` writes such files") from None
    if as_json:
        show_json([asdict(change) for change in changes])
    elif not changes:
        click.echo("nothing changed")
    else:
        show_table(
            ("", "storm", "what", "before", "after"),
            [
                ("WORSE" if change.is_worse else "", change.scenario, change.what, change.before, change.after)
                for change in changes
            ],
        )
    sys.exit(FAILED if any(change.is_worse for change in changes) else PASSED)


drill.add_command(provider)


def _document(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise WrongSettingsError(f"{path} is not JSON; `bursar drill --json FILE` writes it") from None


def _list() -> None:
    from bursar.drill.scenarios import BY_NAME, FAULT_NAMES, SERIES

    rows = [(name, "" if storm in SERIES else "by name only", storm.says) for name, storm in BY_NAME.items()]
    show_table(("storm", "", "what it shows"), rows)
    click.echo(f"\nfaults for --faults: none, all, {', '.join(FAULT_NAMES)}")


# ---- evidence -------------------------------------------------------------------------------------------------------


def _ensure_folders(files: Mapping[str, Path | None]) -> None:
    """Refuse a file in a folder that is missing before a storm is run for it."""
    for name, file in files.items():
        if file is not None and not file.parent.is_dir():
            raise click.BadParameter(f"there is no folder {file.parent}", param_hint=f"--{name}")


def write_evidence(verdicts: Sequence[Verdict], settings: dict[str, object], files: Mapping[str, Path | None]) -> None:
    """Write what is asked for: the verdict as `json`, `junit`, `html`, and the pictures as `svg`."""
    from bursar.drill.junit import junit
    from bursar.drill.page import page
    from bursar.drill.picture import document as picture
    from bursar.drill.report import as_json
    from bursar.drill.timeline import timeline

    document = as_json(verdicts, settings)
    written: dict[str, Callable[[], str]] = {
        "json": lambda: json.dumps(document, indent=2) + "\n",
        "junit": lambda: junit(verdicts),
        "html": lambda: page(verdicts, document),
        "svg": lambda: picture([timeline(verdict.scenario, verdict.measured) for verdict in verdicts]),
    }
    for name, file in files.items():
        if file is None:
            continue
        try:
            with click.open_file(str(file), "w", encoding="utf-8") as target:
                target.write(written[name]())
        except OSError as error:
            raise WrongSettingsError(f"--{name} {file}: {error.strerror}; the verdict was not written there") from None


# ---- which scenarios ------------------------------------------------------------------------------------------------


def scenarios_for(
    agents: int | None,
    cap_usd: Money | None,
    cap_calls: int | None,
    workers: int | None,
    dialect: str,
    stream: bool | None,
    latency_ms: int | None,
    faults: str | None,
    seed: int | None,
    store: str = "sqlite",
    gateways: int | None = None,
    scenario: str | None = None,
    only: str | None = None,
) -> tuple[Scenario, ...]:
    """Turn the options into scenarios: those of the caps that are named, or the series."""
    from bursar.drill.scenarios import SERIES, STORES, calls, dollars

    chosen: tuple[Scenario, ...] = () if scenario is None else (_named(scenario, "--scenario"),)
    if only is not None:
        chosen += tuple(_named(name.strip(), "--only") for name in only.split(","))
    if cap_calls is not None:
        chosen += (calls(cap_calls),)
    if cap_usd is not None:
        chosen += (dollars(cap_usd.nanodollars),)
    changes: dict[str, object] = {"seed": time.time_ns() % 2**31 if seed is None else seed}
    given = {"agents": agents, "workers": workers, "latency_ms": latency_ms, "gateways": gateways}
    changes |= {name: value for name, value in given.items() if value is not None}
    if dialect != "all":
        changes["dialects"] = (dialect,)
    if stream is not None:
        changes["streams"] = (stream,)
    storms = (
        replace(storm, **changes, store=where)  # type: ignore[arg-type]
        for where in (STORES if store == "both" else (store,))
        for storm in chosen or SERIES
    )
    return _with_faults(tuple(storms), faults)


def _named(name: str, option: str) -> Scenario:
    from bursar.drill.scenarios import BY_NAME

    if name not in BY_NAME:
        raise click.BadParameter(f"{name!r} is none of: {', '.join(BY_NAME)}", param_hint=option)
    return BY_NAME[name]


def _with_faults(scenarios: tuple[Scenario, ...], faults: str | None) -> tuple[Scenario, ...]:
    from bursar.drill.places import STORE_FAULTS
    from bursar.drill.scenarios import FAULT_NAMES, with_faults

    if faults is None:
        return scenarios
    calm = tuple(scenario for scenario in scenarios if not scenario.has_trouble)
    if not calm:
        raise click.UsageError("--faults is for storms that have no trouble of their own; leave out one of the two")
    if faults == "none":
        return calm
    names = FAULT_NAMES if faults == "all" else tuple(name.strip() for name in faults.split(","))
    unknown = [name for name in names if name not in FAULT_NAMES]
    if unknown:
        known = ", ".join(FAULT_NAMES)
        raise click.BadParameter(f"{unknown[0]!r} is none of: none, all, {known}", param_hint="--faults")
    of_servers = [name for name in names if name in STORE_FAULTS]
    if faults != "all" and of_servers and not any(scenario.store == "postgres" for scenario in calm):
        message = f"{of_servers[0]} befalls a server; a file has none: add --store postgres, or both"
        raise click.BadParameter(message, param_hint="--faults")
    return tuple(with_faults(scenario, names) for scenario in calm)


# ---- running --------------------------------------------------------------------------------------------------------


def _run(scenarios: tuple[Scenario, ...], meet: Meet, is_quiet: bool) -> list[Verdict]:
    from rich.console import Console

    console = Console(stderr=is_quiet, highlight=False, soft_wrap=True)
    try:
        return asyncio.run(_series(scenarios, meet, console))
    except (KeyboardInterrupt, asyncio.CancelledError):
        say("the drill was stopped; it says nothing about the cap")
        sys.exit(COULD_NOT_RUN)


async def _series(scenarios: tuple[Scenario, ...], meet: Meet, console: Console) -> list[Verdict]:
    from bursar.drill.gateway import BooksClosedError
    from bursar.drill.places import CannotRunError

    task = asyncio.current_task()
    if task is not None:
        # Stopped from outside, it still has to end the gateway and to remove its files.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    verdicts = []
    for scenario in scenarios:
        try:
            verdict = await _one(scenario, meet, console)
        except (CannotRunError, BooksClosedError, OSError) as error:
            say(f"the drill could not run: {error}")
            sys.exit(COULD_NOT_RUN)
        _show(verdict, console)
        verdicts.append(verdict)
    failed = [verdict.scenario.name for verdict in verdicts if not verdict.passed]
    if failed:
        console.print(f"[bold red]FAIL[/]  {', '.join(failed)}; again with --seed {scenarios[0].seed}")
    else:
        console.print(f"[bold green]PASS[/]  the cap held in {len(verdicts)} of {len(verdicts)} storms")
    return verdicts


async def _one(scenario: Scenario, meet: Meet, console: Console) -> Verdict:
    from bursar.drill.storm import Storm
    from bursar.drill.verdict import judge

    console.print(f"[bold]{scenario.name}[/]: {scenario.says}")
    console.print(f"  {scenario.where}, seed {scenario.seed}")
    async with meet(scenario) as (witness, gateway):
        with _progress(scenario, console) as tell:
            measured = await Storm(scenario, witness, gateway, tell).run()
    return judge(scenario, measured)


@asynccontextmanager
async def _own_gateway(scenario: Scenario) -> AsyncIterator[tuple[Witness, Gateway]]:
    """Start a fake provider and a gateway for one storm."""
    from bursar.drill.fake_provider import FakeProvider
    from bursar.drill.gateway import BursarServe
    from bursar.drill.places import place_for
    from bursar.drill.storm import provider_config
    from bursar.drill.witness import OwnTill

    async with (
        FakeProvider(provider_config(scenario)) as provider,
        BursarServe(scenario, provider.base_url, place_for(scenario.store, scenario.blows), _opened) as gateway,
    ):
        yield OwnTill(provider.till), gateway


class StoreLedger:
    """Reads a gateway's books through the store, as one more process on them."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def balances(self) -> tuple[Balance, ...]:
        """Read all accounts; raises BooksClosedError."""
        from bursar.drill.gateway import BooksClosedError
        from bursar.drill.verdict import Balance
        from bursar.ledger.store import LedgerUnavailableError

        try:
            accounts = await self._store.accounts()
        except LedgerUnavailableError as error:
            raise BooksClosedError(str(error)) from error
        return tuple(
            Balance(account.scope, str(account.unit), account.limit, account.captured, account.held, account.overrun)
            for account in accounts
        )

    async def books(self) -> Books:
        """Read everything, and replay the entries; raises BooksClosedError."""
        from bursar.drill.gateway import Books, BooksClosedError
        from bursar.ledger.account import HoldState
        from bursar.ledger.store import LedgerUnavailableError

        balances = await self.balances()
        try:
            holds = await self._store.holds(HoldState.OPEN)
            # Not by the state of the holds: what a worker that was only paused knows of its calls is booked later.
            expired = [entry.call_id async for entry in self._store.entries() if entry.kind == "expire"]
            findings = await self._store.audit()
        except LedgerUnavailableError as error:
            raise BooksClosedError(str(error)) from error
        return Books(balances, len(holds), tuple(_shown(finding) for finding in findings), len(expired))


def _shown(finding: Finding) -> str:
    return f"{finding.where}: {finding.what} (booked {finding.booked or '-'}, replayed {finding.replayed or '-'})"


@asynccontextmanager
async def _opened(url: str) -> AsyncIterator[Ledger]:
    from bursar.drill.places import CannotRunError
    from bursar.ledger.store import LedgerUnavailableError
    from bursar.stores import open_store

    # The ledger ends with the drill: nothing of it is to be remembered in the state directory.
    with tempfile.TemporaryDirectory(prefix="bursar-drill-") as folder:
        store = open_store(url, f"{folder}/marker.json")
        try:
            await store.start()
        except LedgerUnavailableError as error:
            raise CannotRunError(str(error)) from error
        try:
            yield StoreLedger(store)
        finally:
            await store.close()


# ---- what people see ------------------------------------------------------------------------------------------------


@contextmanager
def _progress(scenario: Scenario, console: Console) -> Iterator[Callable[[Progress], None]]:
    """Show a bar that fills up to the cap; nothing where nobody watches."""
    if not console.is_terminal:
        yield lambda progress: None
        return
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    cap = scenario.cap_calls if scenario.cap_calls is not None else scenario.cap_nanodollars
    columns = (TextColumn("  till"), BarColumn(40), TextColumn("{task.percentage:>5.1f}%  {task.description}"))
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=cap)

        def tell(progress: Progress) -> None:
            said = f"{progress.calls} calls, {progress.refusals} refused, {progress.agents_left} agents left"
            bar.update(task, completed=progress.used, description=said)

        yield tell


def _show(verdict: Verdict, console: Console) -> None:
    from bursar.drill.report import facts

    for name, value in facts(verdict):
        console.print(f"  {name:<20} {value}")
    for check in verdict.checks:
        mark = "[green]ok[/]    " if check.ok else "[bold red]FAILED[/]"
        console.print(f"  {mark} {check.name}: {check.found}")
    console.print("")
