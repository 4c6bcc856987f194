"""The kinds of values that settings have, each checked where it is read."""

from __future__ import annotations

import datetime
import difflib
import ipaddress
import re
from decimal import Decimal, InvalidOperation
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from pydantic_core import Url

from bursar.clock import SECOND, Instant
from bursar.ledger.account import PERSON, TAG_NAME, TAG_VALUE
from bursar.ledger.periods import period_spec
from bursar.money import Money, MoneyError

SQLITE_PREFIX = "sqlite:///"
_TAG = re.compile(rf"{TAG_NAME}(={TAG_VALUE})?")


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


def tag_text(value: str) -> str:
    """Give a tag back that is one: `NAME=VALUE`, or only a name."""
    if not _TAG.fullmatch(value):
        raise ValueError(f"{value!r} is not a tag: NAME=VALUE, such as env=prod, with the name in small letters")
    return value


def tag_name(value: str) -> str:
    """Give the name of a tag back that is one; raises ValueError."""
    if not re.fullmatch(TAG_NAME, value):
        raise ValueError(f"{value!r} is not the name of a tag: small letters, digits, dots, colons, hyphens")
    return value


def spender_name(value: str) -> str:
    """Give a name of a team or user back that is one, or nothing, or the star; raises ValueError."""
    if value not in ("", "*") and not re.fullmatch(PERSON, value):
        raise ValueError(f"{value!r} is not a name: 1 to 128 letters, digits and . _ : @ + -")
    return value


def network(value: str) -> str:
    """Give a network back that is one; raises ValueError."""
    try:
        ipaddress.ip_network(value)
    except ValueError as error:
        raise ValueError(f"{error}; write a network such as 10.0.0.0/8, or one address") from None
    return value


def instant(value: object) -> object:
    """Turn a date, which means its first moment in UTC, or a time with its zone into an instant."""
    if isinstance(value, str):
        try:
            value = datetime.datetime.fromisoformat(value) if "T" in value else datetime.date.fromisoformat(value)
        except ValueError:
            raise ValueError(f"{value!r} is not a date such as 2027-01-31 or 2027-01-31T18:00:00Z") from None
    if isinstance(value, datetime.datetime):
        if value.tzinfo is None:
            raise ValueError(f"{value.isoformat()} has no time zone; write {value.isoformat()}Z for UTC")
        return Instant(int(value.timestamp()) * SECOND)
    if isinstance(value, datetime.date):
        midnight = datetime.datetime.combine(value, datetime.time(), datetime.UTC)
        return Instant(int(midnight.timestamp()) * SECOND)
    return value


def _payer(value: str) -> str:
    kind, _, name = value.partition(":")
    if kind not in ("model", "upstream") or not name or "*" in name[:-1] or (kind == "upstream" and "*" in name):
        raise ValueError(f'{value!r} is no budget; write "model:NAME", "model:PREFIX*" or "upstream:NAME"')
    return value


def known_zone(value: str) -> str:
    """Give a time zone back that there is; raises PeriodError."""
    period_spec("day", value)
    return value


Usd = Annotated[str, BeforeValidator(_usd_text), AfterValidator(_amount_of_usd)]
UsdLimit = Annotated[Usd | None, BeforeValidator(_no_limit)]
Count = Annotated[int, Field(ge=0, le=2**53)]
CountLimit = Annotated[Count | None, BeforeValidator(_no_limit)]
HourLimit = Annotated[Annotated[int, Field(ge=1, le=24 * 366)] | None, BeforeValidator(_no_limit)]
LoopLimit = Annotated[Annotated[int, Field(ge=2, le=100)] | None, BeforeValidator(_no_limit)]
Price = Annotated[str, BeforeValidator(_usd_text), AfterValidator(_price_text)]
Seconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0, le=86_400)]
SecondsOrZero = Annotated[float, BeforeValidator(_seconds), Field(ge=0, le=86_400)]
EnvName = Annotated[str, StringConstraints(pattern=r"^([A-Za-z_][A-Za-z0-9_]{0,127})?$")]
ServerToolName = Literal["web_search", "web_fetch", "file_search"]
Word = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9][A-Za-z0-9._:-]{0,127})?$")]
ModelName = Annotated[str, StringConstraints(min_length=1, max_length=200)]
KeyName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
LedgerUrl = Annotated[str, StringConstraints(pattern=r"^(sqlite:///.+|postgres(ql)?://\S+)$")]
Tag = Annotated[str, AfterValidator(tag_text)]
TagName = Annotated[str, AfterValidator(tag_name)]
SpenderName = AfterValidator(spender_name)
Spender = Annotated[str, StringConstraints(pattern=rf"^{PERSON}$")]
Payer = Annotated[str, AfterValidator(_payer)]
"""The scope of a budget that pays because of where a call goes: a model, all that begin alike, an upstream."""
Network = Annotated[str, AfterValidator(network)]
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
