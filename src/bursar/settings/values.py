"""The kinds of values that settings have, each checked where it is read."""

from __future__ import annotations

import difflib
import ipaddress
import re
from decimal import Decimal, InvalidOperation
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from pydantic_core import Url

from bursar.ledger.periods import period_spec
from bursar.money import Money, MoneyError

SQLITE_PREFIX = "sqlite:///"


class Section(BaseModel):
    """A table of the settings: every key known, nothing converted on the quiet, nothing changed later."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _no_limit(value: object) -> object:
    # TOML has no null, and "no limit" has to be said aloud.
    return None if value == "none" else value


def _usd_text(value: object) -> object:
    # The file is read with exact decimals, so that `usd = 5.10` is five dollars and ten cents.
    if isinstance(value, Decimal) or (isinstance(value, int) and not isinstance(value, bool)):
        return str(value)
    return value


def _amount_of_usd(value: str) -> str:
    try:
        Money.from_usd(value)
    except MoneyError as error:
        raise ValueError(str(error)) from None
    return value


def _price_text(value: str) -> str:
    try:
        usd = Decimal(value)
    except InvalidOperation:
        raise ValueError(f'{value!r} is not a price in USD per million tokens; write for example "2.50"') from None
    if not usd.is_finite() or usd < 0 or usd > 1_000_000:
        raise ValueError(f"{value!r} is not a price between 0 and 1000000 USD per million tokens")
    if (usd * 1_000_000) % 1:
        raise ValueError(f"{value!r} has more than six decimals; a picodollar per token is the smallest rate")
    return value


def _seconds(value: object) -> object:
    return float(value) if isinstance(value, Decimal) else value


def known_zone(value: str) -> str:
    """Give a time zone back that there is; raises PeriodError."""
    period_spec("day", value)
    return value


Usd = Annotated[str, BeforeValidator(_usd_text), AfterValidator(_amount_of_usd)]
UsdLimit = Annotated[Usd | None, BeforeValidator(_no_limit)]
Count = Annotated[int, Field(ge=0, le=2**53)]
CountLimit = Annotated[Count | None, BeforeValidator(_no_limit)]
Price = Annotated[str, BeforeValidator(_usd_text), AfterValidator(_price_text)]
Seconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0, le=86_400)]
SecondsOrZero = Annotated[float, BeforeValidator(_seconds), Field(ge=0, le=86_400)]
EnvName = Annotated[str, StringConstraints(pattern=r"^([A-Za-z_][A-Za-z0-9_]{0,127})?$")]
ServerToolName = Literal["web_search", "web_fetch", "file_search"]
Word = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9][A-Za-z0-9._:-]{0,127})?$")]
ModelName = Annotated[str, StringConstraints(min_length=1, max_length=200)]
KeyName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
LedgerUrl = Annotated[str, StringConstraints(pattern=r"^(sqlite:///.+|postgres(ql)?://\S+)$")]
UpstreamName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]


def nanodollars(usd: str | None) -> int | None:
    """Give an amount that has passed the border in nanodollars; None stays None."""
    return None if usd is None else Money.from_usd(usd).nanodollars


def nearest(word: str, known: list[str]) -> str:
    """Give a hint at the known word that was probably meant, or nothing."""
    found = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {found[0]}?" if found else ""


def url_trouble(url: str, insecure: bool) -> str:
    """Say what is wrong with the URL of a server, or nothing."""
    try:
        parts = Url(url)
    except ValueError:
        return "is not a URL such as https://api.example.com"
    # A URL that is read leniently could be read in another way by the HTTP client.
    if parts.scheme not in {"https", "http"} or not parts.host or not re.fullmatch(r"https?://[!-~]+", url):
        return "is not a URL such as https://api.example.com"
    if "@" in url or "?" in url or "#" in url:
        return "must not carry a user, a query or a fragment; a key goes into the variable that key_env names"
    if parts.scheme == "http" and not (insecure or _is_private(parts.host.strip("[]"))):
        return "sends keys and prompts in the clear; use https, or say insecure = true"
    return ""


def _is_private(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        # A name without a dot (`ollama`, `vllm`) is resolved on the local network only.
        return "." not in host
    return address.is_private or address.is_loopback or address.is_link_local
