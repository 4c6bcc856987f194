"""Which run a call belongs to: the first name found counts, and a run key cannot be argued with."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from bursar.call import Refused
from bursar.clock import SECOND, Instant
from bursar.edge.callers import Caller
from bursar.ledger.account import Opened, OpenScope, Taken, TooManyRuns
from bursar.ledger.store import Store

RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")

# What agents and other gateways already send, most specific first. All of them are labels chosen by the client:
# they group calls inside a key and never yield more than the key's own budget.
SESSION_HEADERS = (
    "x-claude-code-session-id",
    "session-id",
    "x-session-id",
    "goose-session-id",
    "x-cagent-session-id",
    "x-litellm-trace-id",
    "x-litellm-session-id",
    "langfuse_session_id",
    "helicone-session-id",
    "x-portkey-trace-id",
)
_SESSION_HEADERS = frozenset(SESSION_HEADERS)
# Owners are remembered only to spare a write per call; an owner never changes, and a name maps to at most a few bytes.
_OWNERS_MAX = 65_536


def name(
    caller: Caller, in_path: str, headers: Mapping[str, str], in_body: tuple[str, ...], now: Instant
) -> str | Refused:
    """Give the run's name by first match: run key, path, `x-bursar-run`, known headers, body, else key and day."""
    if caller.run:
        return caller.run
    explicit = in_path or headers.get("x-bursar-run", "")
    if explicit:
        return explicit if RUN_NAME.fullmatch(explicit) else _bad_name("the run name")
    for header in SESSION_HEADERS if _SESSION_HEADERS & headers.keys() else ():
        if value := headers.get(header, ""):
            return value if RUN_NAME.fullmatch(value) else _bad_name(f"the header {header}")
    if value := _baggage_session(headers.get("baggage", "")):
        return value if RUN_NAME.fullmatch(value) else _bad_name("session.id in the header baggage")
    for value in in_body:
        if RUN_NAME.fullmatch(value):
            return value
    day = datetime.datetime.fromtimestamp(now // SECOND, datetime.UTC).date().isoformat()
    return f"{caller.key}@{day}"  # no client can send an "@", so nobody can take this name first


def _bad_name(what: str) -> Refused:
    return Refused(
        400, "unreadable", f"{what} is not a run name: 1 to 128 letters, digits, dots, colons, hyphens and underscores"
    )


def _baggage_session(baggage: str) -> str:
    for member in baggage.split(","):
        key, _, value = member.partition("=")
        if key.strip() == "session.id":
            return value.partition(";")[0].strip()
    return ""


@dataclass(slots=True)
class Runs:
    """Opens runs on first sight, each for the key that named it."""

    store: Store
    _owners: dict[str, str] = field(default_factory=dict)

    async def admit(self, caller: Caller, run: str) -> Taken | TooManyRuns | None:
        """Make sure that the run exists and is the caller's; raises LedgerUnavailableError.

        A run key's run was opened before the key was made and is never opened here: if its accounts are gone, the
        authorize that follows says so.
        """
        if caller.run:
            return None
        owner = self._owners.get(run)
        if owner is None:
            answer = await self.store.submit(
                OpenScope(
                    scope=f"run:{run}",
                    owner=caller.scope,
                    limits=caller.template,
                    runs_per_hour_max=caller.runs_per_hour_max,
                )
            )
            if isinstance(answer, (Taken, TooManyRuns)):
                return answer
            self._remember(run, caller.scope, answer)
            return None
        return None if owner == caller.scope else Taken(scope=f"run:{run}", owner=owner)

    def _remember(self, run: str, owner: str, answer: object) -> None:
        if isinstance(answer, Opened):
            if len(self._owners) >= _OWNERS_MAX:
                self._owners.clear()
            self._owners[run] = owner
