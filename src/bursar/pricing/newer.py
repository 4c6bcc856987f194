"""A price book that is newer than the one of this release: what `bursar prices update` keeps, and how it is read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from bursar.pricing.limits import Limits, limits_of, load_limits

if TYPE_CHECKING:
    from genai_prices.types import Provider

FORMAT = 1
_HEAD = re.compile(rb'\{"format":(\d+),"made_on":"(20\d\d-[01]\d-[0-3]\d)",')


class WrongBookError(Exception):
    """The text is no price book; the message says why."""


@dataclass(frozen=True, slots=True)
class NewerBook:
    """The data of a book: rates by provider, limits by provider and model."""

    made_on: str
    """YYYY-MM-DD; the day on which its sources were the newest."""
    source: str
    """Where the rates come from."""
    providers: Mapping[str, Provider]
    limits: Limits


def made_on(stored: bytes) -> str:
    """Give the date of a stored book without reading the rest of it; raises WrongBookError."""
    head = _HEAD.match(stored)
    if head is None or int(head[1]) != FORMAT:
        raise WrongBookError("it does not begin as a price book of this version of bursar does")
    return head[2].decode()


def newest(stored: bytes | None) -> str:
    """Give the date of the book that is in use: the stored one, unless the bundled one is newer."""
    bundled = load_limits().made_on
    return bundled if stored is None else max(bundled, made_on(stored))


def pack(made_on: str, source: str, rates: str, limits_table: Mapping[str, Any]) -> bytes:
    """Give a book as it is stored: the text of the rates as it came, so that no number of it is written anew."""
    head = f'{{"format":{FORMAT},"made_on":{json.dumps(made_on)},"source":{json.dumps(source)},'
    return f'{head}"limits":{json.dumps(limits_table, separators=(",", ":"))},"rates":{rates}}}\n'.encode()


def unpack(stored: bytes) -> NewerBook:
    """Read a stored book whole; raises WrongBookError."""
    day = made_on(stored)
    try:
        text = json.loads(stored, parse_float=Decimal)
        source = str(text["source"])
        return NewerBook(day, source, providers_of(text["rates"]), limits_of(text["limits"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WrongBookError(f"it cannot be read: {' '.join(str(error).split())[:300]}") from error


def providers_of(rates: object) -> dict[str, Provider]:
    """Give the providers whose billing was studied out of the data of genai-prices; raises ValueError, TypeError."""
    # The package reads its own downloads with this function and has no public one that does not download; the
    # version is pinned, and a test says when it is gone.
    from genai_prices.types import _providers_from_raw as read

    from bursar.pricing.listed import PROVIDERS

    if not isinstance(rates, list):
        raise TypeError("the rates are not a list of providers")
    found = {provider.id: provider for provider in read(rates)}
    missing = sorted(PROVIDERS.keys() - found.keys())
    if missing:
        raise ValueError(f"the rates say nothing of {', '.join(missing)}")
    return {name: found[name] for name in PROVIDERS}
