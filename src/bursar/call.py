"""A call: one request to one model, read once at the border, with all that bounds and prices it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from bursar.money import Money


@dataclass(frozen=True, slots=True)
class Member:
    """A top-level member of the JSON body: where its key starts and where its value starts and ends, in characters."""

    key_start: int
    value_start: int
    value_end: int


@dataclass(frozen=True, slots=True)
class Body:
    """The request body as the client sent it, and where its top-level members are, so that edits leave the rest be."""

    text: str
    members: dict[str, Member]


@dataclass(frozen=True, slots=True)
class Image:
    """One image in the input; width and height in pixels when its header could be read, else None."""

    width: int | None
    height: int | None
    low_detail: bool = False


@dataclass(frozen=True, slots=True)
class Input:
    """What the gateway can see of the input; pricing turns it into an upper bound in tokens."""

    text_bytes: int
    """UTF-8 bytes of the body's JSON, media taken out and escapes undone; at least the bytes of all visible text."""
    is_ascii: bool
    """Whether that text is ASCII only."""
    nfc_bytes: int
    """UTF-8 bytes of its NFC form; the same as `text_bytes` when it is ASCII."""
    messages: int
    tools: int
    tool_json_bytes: int = 0
    """Bytes of the tool definitions as JSON (part of `text_bytes`)."""
    fixed_tokens: int = 0
    """Tokens that the provider adds by itself for typed tools."""
    images: tuple[Image, ...] = ()
    opaque: bool = False
    """Something the gateway cannot see (URL, file id, stored state): only the context window bounds the input."""
    lone_ascii_bytes: int = 0
    """Bytes of ASCII text with nothing but ASCII around it (part of `nfc_bytes`); 0 where that was not looked at."""
    pieces: int = 1
    """How many inputs are worked on apart, each with a context window of its own (prompts or embeddings in a list)."""
    audio: bool = False
    """Whether some of the input may be audio, which has rates of its own."""


class ServerTool(StrEnum):
    """A tool that the provider runs: paid by the use, and what it brings is billed as input."""

    WEB_SEARCH = "web_search"
    WEB_FETCH = "web_fetch"
    FILE_SEARCH = "file_search"


@dataclass(frozen=True, slots=True)
class ServerTools:
    """The tools that the provider runs for one call, and what bounds them."""

    uses_max: Mapping[ServerTool, int] = field(default_factory=dict)
    """For each tool that is offered, how often it may be used at most."""
    passes_max: int = 1
    """How often the model is asked at most; every time after the first it reads what the tools have brought as well."""
    uses_unasked: int = 0
    """The bound that is put into the request for a tool that came with none."""


class CacheWrite(StrEnum):
    """The dearest cache write that the request can cause."""

    NONE = "none"
    IMPLICIT = "implicit"
    FIVE_MINUTES = "5m"
    ONE_HOUR = "1h"


@dataclass(frozen=True, slots=True)
class Output:
    """What the client asked for on the output side."""

    tokens_asked: int | None
    """The client's own bound per choice, or None when it sent none."""
    choices: int = 1
    """How many answers are generated and billed (`n`, `best_of`), each up to the bound."""
    tokens_min: int = 1
    """The lowest bound that the provider accepts for this request (thinking budget + 1, or 16 for responses)."""
    tokens_extra: int = 0
    """Output tokens billed beyond the bound, per choice (rejected prediction tokens)."""


@dataclass(frozen=True, slots=True)
class Head:
    """The HTTP head that goes upstream with the call: path with query, and the headers that are passed on."""

    target: str = ""
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class UsageRules:
    """How the usage of an upstream is read where it differs from what the wire format says."""

    reasoning_apart: bool = False
    """Whether the completion of a chat leaves out the reasoning, which is billed as output all the same."""
    cached_field: str = ""
    """Where a chat counts cached input when it is not in the details."""
    reports_cost: bool = False
    """Whether the usage says in USD what was charged (`cost`)."""


@dataclass(frozen=True, slots=True)
class Repeated:
    """The last turn of the conversation: which tools it called, and how often it is there with the same results."""

    tools: tuple[str, ...] = ()
    times: int = 0
    """One after another, up to the end; 0 where the conversation does not end with the results of tools."""


@dataclass(frozen=True, slots=True)
class Call:
    """One bounded request to one model."""

    dialect: str
    upstream: str
    model: str
    stream: bool
    body: Body
    input: Input
    output: Output
    cache_write: CacheWrite
    service_tier: str
    """The tier as it is sent upstream, made explicit: `default`, `flex`, `priority` ..."""
    wants_usage: bool = True
    """Whether the client itself asked for the usage chunk of a stream (else it is asked for, and dropped)."""
    client_names: tuple[str, ...] = field(default=())
    """Session names that the body carries, most trusted first; labels for a run, never the holder of a budget."""
    head: Head = Head()
    takes_long_context: bool = True
    """False when the request lacks what a model's longer context window has to be asked for with."""
    usage_rules: UsageRules = UsageRules()
    """The upstream's own, for the meter."""
    server_tools: ServerTools = ServerTools()
    repeated: Repeated = Repeated()


@dataclass(frozen=True, slots=True)
class Refused:
    """The request cannot be read, or asks for something that nothing bounds; nothing is sent and nothing is held."""

    status: int
    code: str
    """`unreadable`, `unbounded`, `unpriced` or `unmetered`."""
    message: str
    """Says which field, and what to do about it."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What the provider says it metered, in the classes that are billed apart; all counts are tokens."""

    input_tokens: int
    """Input billed at the full rate: without cache reads and cache writes."""
    output_tokens: int
    """All billed output, reasoning included."""
    cache_read_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    service_tier: str = "default"
    """The tier that the provider reports; `default` when it reports none."""
    model: str = ""
    """The model as the reply names it, or empty."""
    audio_input_tokens: int = 0
    """Audio in `input_tokens`."""
    audio_cache_read_tokens: int = 0
    """Audio in `cache_read_tokens`."""
    tool_uses: Mapping[ServerTool, int] = field(default_factory=dict)
    """How often the provider's own tools were used, as far as that is billed."""
    cost: Money | None = None
    """What the provider says that it charged, where it says so; then that is the bill."""


@dataclass(frozen=True, slots=True)
class Unmetered:
    """The reply carries no usage that can be trusted; the hold is captured whole."""

    why: str
