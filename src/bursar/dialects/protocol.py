"""What a dialect does: read a request, set the fields that bound and meter it, and meter the reply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from bursar.call import Call, Head, Refused, Unmetered, Usage, UsageRules


@dataclass(frozen=True, slots=True)
class Quirks:
    """What an upstream does differently from the dialect's reference server; data, never `if`s in the money path."""

    output_field: str = ""
    """The field that bounds the output when the client named none; empty: the dialect's own."""
    takes_stream_options: bool = True
    takes_service_tier: bool = True
    """Whether the tier is made explicit when the client named none."""
    allow_fields: frozenset[str] = frozenset()
    """Top-level request fields that the operator vouches for (`[policy] allow_fields`), and plain ones of its own."""
    set_fields: Mapping[str, str] = field(default_factory=dict)
    """Top-level fields that are always sent, as JSON texts: what the server wants, or what keeps it to one purchase."""
    dropped_fields: frozenset[str] = frozenset()
    """Top-level fields that the server takes in another place, such as a model that is in the path."""
    beta_field: str = ""
    """The field that takes what the header `anthropic-beta` names, for a server that does not look at the header."""
    usage: UsageRules = field(default_factory=UsageRules)
    server_tools: frozenset[str] = frozenset()
    """Tools of the provider's own that the operator lets through, and that this upstream keeps to a bound."""
    server_tool_uses: int = 3
    """How often such a tool may be used where the client sets no bound."""


@dataclass(frozen=True, slots=True)
class Request:
    """A proxied HTTP request, with its body read whole."""

    upstream: str
    path: str
    """The provider's own path, for example `/v1/chat/completions`."""
    headers: Mapping[str, str]
    """Names in lower case; money-relevant ones occur once (the edge refuses repeats)."""
    body: bytes
    quirks: Quirks = Quirks()
    head: Head = field(default_factory=Head)
    """What goes upstream with the body; passed through to the call."""


class Meter(Protocol):
    """Reads one reply as it passes and says at its end what it used."""

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes of the reply; give the bytes for the client (the same, but for a usage event it did not
        ask for)."""
        ...

    def finish(self) -> tuple[bytes, Usage | Unmetered]:
        """Give the bytes still kept back, and the usage; never raises whatever the bytes were."""
        ...


class Dialect(Protocol):
    """One wire format. Pure: no clock, disk, network, log or randomness."""

    name: str

    def parse(self, request: Request) -> Call | Refused:
        """Read the request; never raises whatever the bytes are."""
        ...

    def render(self, call: Call, output_tokens: int, quirks: Quirks) -> bytes:
        """Give the body to send: the client's bytes with only the bounding and metering fields set."""
        ...

    def meter(self, call: Call, status: int, content_type: str) -> Meter:
        """Give the meter for one reply."""
        ...

    def error(self, status: int, code: str, message: str, details: Mapping[str, object]) -> bytes:
        """Give an error body in the dialect's own shape, with `details` in it under the key `bursar`."""
        ...
