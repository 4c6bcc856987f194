"""What the commands share: options, settings, the open ledger, and how amounts and tables look."""

from __future__ import annotations

import asyncio
import getpass
import json
import os
import re
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from bursar.clock import Instant
    from bursar.ledger.account import Account, Amounts
    from bursar.ledger.store import Store
    from bursar.money import Money
    from bursar.settings import Settings

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class FailedError(click.ClickException):
    """What the user asked for cannot be done; one line says why, and what to do."""

    def show(self, file: Any = None) -> None:
        """Write the message to stderr, in the form of all our messages."""
        say(self.message)


class WrongSettingsError(FailedError):
    """The settings or the options cannot be used."""

    exit_code = 2


class UsdType(click.ParamType[Any]):
    """An amount in USD, exact to a nanodollar."""

    name = "usd"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Money:
        """Read `5`, `5.00` or `$0.25`."""
        from bursar.money import Money, MoneyError

        if isinstance(value, Money):
            return value
        try:
            return Money.from_usd(str(value))
        except MoneyError as error:
            self.fail(str(error), param, ctx)


USD = UsdType()
COUNT = click.IntRange(min=0, max=2**53)


def config_option(command: F) -> F:
    """Add `--config`."""
    return click.option(
        "--config",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Settings file; default ./bursar.toml when it is there.",
    )(command)


def ledger_option(command: F) -> F:
    """Add `--ledger`."""
    return click.option(
        "--ledger",
        metavar="URL",
        help="Where the books are: sqlite:///path or postgresql://host/database; default from the settings.",
    )(command)


def json_option(command: F) -> F:
    """Add `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Write JSON to stdout.")(command)


def books_options(command: F) -> F:
    """Add `--config`, `--ledger` and `--json`, which every command on the books takes."""
    return config_option(ledger_option(json_option(command)))


def by_option(command: F) -> F:
    """Add `--by`, for changes that the books keep with a name."""
    return click.option("--by", metavar="WHO", help="Who wants it so, for the books; default USER@HOST.")(command)


def who(by: str | None) -> str:
    """Give who is named as the one who wants a change, else the user of this machine."""
    if by:
        return by
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


# ---- settings and ledger --------------------------------------------------------------------------------------------


def settings_for(config: Path | None, ledger: str | None) -> Settings:
    """Read the settings; a ledger named on the command line comes first."""
    from bursar.settings import SettingsError, absolute_url, load

    try:
        settings = load(config)
    except SettingsError as error:
        raise WrongSettingsError(str(error)) from None
    url = settings.ledger.url if ledger is None else ledger if "://" in ledger else f"sqlite:///{ledger}"
    return settings.with_ledger(absolute_url(url, Path.cwd()))


def ledger_of(settings: Settings) -> Store:
    """Give the ledger, not started yet; raises ValueError for a URL that no store serves."""
    from bursar.stores import open_store

    return open_store(settings.ledger.url, settings.ledger.marker)


@contextmanager
def ledger_errors(settings: Settings) -> Iterator[None]:
    """Say what is wrong with the ledger in one line."""
    from bursar.ledger.store import LedgerLostError, LedgerUnavailableError
    from bursar.stores.migrate import SchemaError

    try:
        yield
    except (LedgerUnavailableError, LedgerLostError, SchemaError, ValueError, OSError) as error:
        raise FailedError(f"ledger {without_password(settings.ledger.url)}: {error}") from error


@asynccontextmanager
async def open_books(settings: Settings) -> AsyncIterator[Store]:
    """Open the ledger, made on first use, and close it at the end."""
    from bursar.ledger.store import LedgerUnavailableError

    with ledger_errors(settings):
        store = ledger_of(settings)
        await store.start()
    try:
        yield store
    except LedgerUnavailableError as error:
        raise FailedError(f"ledger {without_password(settings.ledger.url)}: {error}") from error
    finally:
        await store.close()


@asynccontextmanager
async def existing_books(settings: Settings) -> AsyncIterator[Store]:
    """Open a ledger that must be there already: looking must not make an empty one where the path is mistyped."""
    await _ensure_there(settings)
    async with open_books(settings) as store:
        yield store


async def _ensure_there(settings: Settings) -> None:
    from bursar.settings import SQLITE_PREFIX
    from bursar.stores import is_there

    url = settings.ledger.url
    with ledger_errors(settings):
        if not await is_there(url):
            place = without_password(url.removeprefix(SQLITE_PREFIX))
            raise FailedError(f"no ledger at {place}; `bursar run` and `bursar serve` make one")


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end."""
    return asyncio.run(work)


# ---- output ---------------------------------------------------------------------------------------------------------


def say(message: str) -> None:
    """Write one message to stderr."""
    click.echo(f"bursar: {message}", err=True)


def show_json(value: object) -> None:
    """Write a value to stdout as JSON."""
    click.echo(json.dumps(value, indent=2))


def show_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write aligned columns to stdout, as far apart as two blanks; the last one is as wide as it likes."""
    lines = [tuple(head), *(tuple(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        click.echo("  ".join(cells).rstrip())


def without_password(url: str) -> str:
    """Give a ledger URL as people may see it."""
    return re.sub(r"([?&](?:ssl)?password=)[^&]*", r"\1***", re.sub(r"(://[^/@:]*):[^/]*@", r"\1:***@", url))


def signed_usd(nanodollars: int) -> str:
    """Give an amount that may be negative, such as a difference."""
    return f"-{usd(-nanodollars)}" if nanodollars < 0 else usd(nanodollars)


def usd(nanodollars: int | None) -> str:
    """Give an amount of nanodollars in USD; None is no limit."""
    from bursar.money import Money

    return "-" if nanodollars is None else f"${Money(nanodollars)}"


def amount(unit: str, value: int | None) -> str:
    """Give an amount in its unit for people."""
    return usd(value) if unit == "usd" else "-" if value is None else f"{value}"


def at(instant: Instant | None) -> str:
    """Give an instant as ISO 8601 in UTC, to the second."""
    import datetime

    if instant is None:
        return "-"
    moment = datetime.datetime.fromtimestamp(instant // 1_000_000, datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def account_facts(account: Account) -> dict[str, object]:
    """Give an account as JSON takes it; amounts are whole nanodollars, calls or tokens."""
    return {
        "account": account.id,
        "unit": str(account.unit),
        "period": account.period,
        "limit": account.limit,
        "captured": account.captured,
        "held": account.held,
        "overrun": account.overrun,
        "state": str(account.state),
    }


def amounts_facts(amounts: Amounts) -> Mapping[str, int]:
    """Give amounts as JSON takes them."""
    return {"usd_nanodollars": amounts.usd, "calls": amounts.calls, "tokens": amounts.tokens}
