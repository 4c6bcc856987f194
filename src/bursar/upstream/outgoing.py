"""A held call as the provider takes it: its path, its head, and the fields that it wants otherwise."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from decimal import Decimal
from urllib.parse import quote as percent_encoded

from bursar.call import Head
from bursar.dialects.bedrock_path import read_plain
from bursar.dialects.body import object_with, read, value_text
from bursar.dialects.protocol import Quirks
from bursar.money import Rate
from bursar.pricing.quote import Quote
from bursar.upstream.http import Origin
from bursar.upstream.providers import Endpoint
from bursar.upstream.signing import Headers, Unsigned

_PRICE = re.compile(r"[0-9]+(?:\.[0-9]+)?(?:e-[0-9]{1,3})?")


class NoWayError(Exception):
    """The provider has nothing at this path."""


def target_of(endpoint: Endpoint, head: Head, model: str, stream: bool) -> str:
    """Give path and query at the provider, after its base URL; raises NoWayError."""
    if not endpoint.ways:
        path = head.target
        if read_plain(path.partition("?")[0]):
            raise NoWayError(f"the upstream {endpoint.name} has no {path}")  # only Bedrock has, and that has ways
        return endpoint.path_prefix + path.removeprefix("/v1") if path.startswith("/v1/") else path
    path, _mark, query = head.target.partition("?")
    named = path.replace(f"/models/{model}:", "/models/{model}:").replace(f"/model/{model}/", "/model/{model}/")
    way = endpoint.ways.get(named)
    if way is None:
        raise NoWayError(f"the upstream {endpoint.name} has no {path}")
    query = query if way.keeps_query else way.query
    # A model's name may hold a slash or a colon, which must not become part of the path.
    to = (way.to_stream if stream and way.to_stream else way.to).replace("{model}", percent_encoded(model, safe="@"))
    return f"{to}?{query}" if query else to


def quirks_for(endpoint: Endpoint, quote: Quote) -> Quirks:
    """Give the upstream's quirks, and keep a router to the rates that were quoted, or to its client's lower ones."""
    field = endpoint.provider.price_ceiling_field
    if not field:
        return endpoint.quirks
    wishes = _object_or_empty(value_text(quote.call.body, field))
    ceiling = _object_or_empty(value_text(read(wishes.encode()).body, "max_price"))
    asked = json.loads(ceiling)
    for name, rate in (("prompt", quote.rates.input), ("completion", quote.rates.output)):
        if not _is_lower(asked.get(name), rate):
            ceiling = object_with(ceiling, name, str(rate))
    within = object_with(wishes, "max_price", ceiling)
    return replace(endpoint.quirks, set_fields={**endpoint.quirks.set_fields, field: within})


def _object_or_empty(text: str) -> str:
    return text if text.startswith("{") else "{}"


def _is_lower(asked: object, rate: Rate) -> bool:
    """Say whether the client's own ceiling is a price, and is below the quoted rate."""
    text = "" if isinstance(asked, bool) else str(asked)
    return _PRICE.fullmatch(text) is not None and Decimal(text) < Decimal(str(rate))


async def request_bytes(endpoint: Endpoint, origin: Origin, target: str, passed: Headers, body: bytes) -> bytes:
    """Give the whole request with its credentials; raises SigningError."""
    url = f"{'https' if origin.is_tls else 'http'}://{origin.authority}{origin.prefix}{target}"
    credentials = await endpoint.credentials.headers(Unsigned("POST", url, body))
    # The meter reads the bytes of the answer, so they must not come compressed.
    lines = [
        f"POST {origin.prefix}{target} HTTP/1.1\r\nhost: {origin.authority}\r\ncontent-length: {len(body)}\r\n"
        "content-type: application/json\r\naccept-encoding: identity\r\n"
    ]
    lines += [f"{name}: {value}\r\n" for name, value in (*passed, *credentials)]
    lines.append("\r\n")
    return "".join(lines).encode("latin-1") + body
