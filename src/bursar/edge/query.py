"""Google's query strings: a key may be in one, and what else is in one is known or refused."""

from __future__ import annotations

from dataclasses import dataclass

from bursar.call import Refused

_STREAMED = "alt=sse"
# What is the same as to say nothing.
_PLAIN = frozenset({"", "alt=json"})


@dataclass(frozen=True, slots=True)
class GoogleQuery:
    """A query string taken apart; the key never goes any further than to the books."""

    key: str
    passed: str
    """What is sent on: nothing, or `alt=sse`."""


def google_query(query: str, is_stream: bool) -> GoogleQuery | Refused:
    """Read a query string, matched exactly: no decoding; a parameter that is not known could leave the usage out."""
    key, passed = "", ""
    for parameter in query.split("&"):
        if parameter.startswith("key=") and not key:
            key = parameter.removeprefix("key=")
        elif parameter == _STREAMED and is_stream:
            passed = _STREAMED
        elif parameter not in _PLAIN:
            name = ascii(parameter.partition("=")[0])[1:40]
            return Refused(400, "unreadable", f"the query parameter {name} is not known to bursar at this path")
    return GoogleQuery(key, passed)
