"""The gateway itself: its ledger, its server, and what happens near the cap."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from bursar.settings.values import SQLITE_PREFIX, LedgerUrl, SecondsOrZero, Section, ServerToolName, known_zone


def _default_ledger_url() -> str:
    state = os.environ.get("XDG_STATE_HOME", "")
    # The XDG rules say that a relative value is to be ignored.
    folder = Path(state) if state.startswith("/") else Path.home() / ".local" / "state"
    return f"{SQLITE_PREFIX}{folder / 'bursar' / 'ledger.db'}"


class LedgerSettings(Section):
    """Where the books are."""

    url: LedgerUrl = Field(default_factory=_default_ledger_url)
    marker: Annotated[str, StringConstraints(pattern=r"^(/.+)?$")] = ""
    keep_days: Annotated[int, Field(ge=2, le=36_500)] | None = None
    """Entries and settled calls that are older are folded into balances; None keeps them for ever."""


class ServerSettings(Section):
    """Where the gateway listens, and how much it takes."""

    host: Annotated[str, StringConstraints(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 4100
    body_bytes_max: Annotated[int, Field(ge=1024, le=2**30)] = 33_554_432
    connections_max: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    backlog_max: Annotated[int, Field(ge=1, le=65_535)] = 2048
    keepalive_seconds_max: Annotated[int, Field(ge=1, le=3600)] = 75
    drain_seconds_max: Annotated[int, Field(ge=0, le=3600)] = 30
    canary_seconds: Annotated[int, Field(ge=1, le=3600)] = 60
    """How often each worker proves that a call with nothing left is refused."""


class PolicySettings(Section):
    """What happens near the cap, and at it."""

    near_cap: Literal["clamp", "refuse"] = "clamp"
    output_tokens_default: Annotated[int, Field(ge=1, le=10_000_000)] = 32_768
    output_tokens_comfort: Annotated[int, Field(ge=1, le=10_000_000)] = 4096
    output_tokens_floor: Annotated[int, Field(ge=1, le=10_000_000)] = 256
    wait_seconds_max: SecondsOrZero = 30
    ask_seconds_max: SecondsOrZero = 0
    """How long a call at a spent cap waits for a person to raise it; 0 refuses at once."""
    read_on_seconds_max: SecondsOrZero = 30
    refusal_status: Literal["auto", 429, 402, 400] = "auto"
    allow_fields: Annotated[tuple[str, ...], Field(strict=False)] = ()
    server_tools: Annotated[tuple[ServerToolName, ...], Field(strict=False)] = ()
    """Tools of the provider's own that are let through, bounded, with their fees."""
    server_tool_uses_default: Annotated[int, Field(ge=1, le=100)] = 3
    """How often such a tool may be used in a call whose client sets no bound."""
    timezone: Annotated[str, AfterValidator(known_zone)] = "UTC"
    """Of budgets that come anew by the calendar and name no time zone of their own."""
