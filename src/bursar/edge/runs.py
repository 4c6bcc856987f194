"""Which run a call belongs to: the first name found counts, and a run key cannot be argued with."""

from __future__ import annotations

import asyncio
import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from bursar.call import Refused
from bursar.clock import SECOND, Instant
from bursar.dialects.body import RefusedError
from bursar.edge.callers import Caller
from bursar.edge.labels import baggage
from bursar.ledger.account import Opened, OpenScope, Taken, TooManyRuns
from bursar.ledger.store import Store
from bursar.money import ensure

RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")

OWN_RUN = "x-bursar-run"
PARENT = "x-bursar-parent-run"
BAGGAGE_RUN = "bursar.run"
# What agents and other gateways already send, most specific first. All of them are labels chosen by the client:
# they group calls inside a key and never yield more than the key's own budget.
CLAUDE_SESSION = "x-claude-code-session-id"
CLAUDE_AGENT = "x-claude-code-agent-id"
CLAUDE_PARENT = "x-claude-code-parent-agent-id"
OPENCODE_PARENT = "x-parent-session-id"
OPENCODE_SESSIONS = ("session-id", "x-session-id")
SESSION_HEADERS = (
    CLAUDE_SESSION,
    *OPENCODE_SESSIONS,
    "goose-session-id",
    "x-cagent-session-id",
    "x-litellm-trace-id",
    "x-litellm-session-id",
    "langfuse_session_id",
    "helicone-session-id",
    "x-portkey-trace-id",
)
_SESSION_HEADERS = frozenset(SESSION_HEADERS)
# Runs are remembered only to spare a write per call; owner and path never change, and take a few bytes each.
_KNOWN_MAX = 65_536
PARENTS_MAX = 8
"""Runs inside each other."""
USED_EVERY_SECONDS = 300.0
"""How often each worker notes that a run is in use."""


@dataclass(frozen=True, slots=True)
class Named:
    """The run that a call names, and the one it says that run is part of."""

    run: str
    parent: str = ""
    is_told_so: bool = False
    """Whether the parent was named in bursar's own words; an agent's own are taken as far as they go."""


def named(caller: Caller, in_path: str, headers: Mapping[str, str], in_body: tuple[str, ...], now: Instant) -> Named:
    """Give the run by first match: run key, path, `x-bursar-run`, known headers, body, else key and day.

    Raises RefusedError for what is no name, and for two of bursar's own words that differ.
    """
    if caller.run:
        return Named(caller.run)
    parent = headers.get(PARENT, "")
    if parent:
        _name(parent, f"the header {PARENT}")
    if explicit := _explicit(in_path, headers):
        return Named(explicit, parent, bool(parent))
    found = _session(headers, in_body)
    if found is None:
        day = datetime.datetime.fromtimestamp(now // SECOND, datetime.UTC).date().isoformat()
        found = Named(f"{caller.key}@{day}")  # no client can send an "@", so nobody can take this name first
    if parent and "@" in found.run:
        raise _bad(f"the header {PARENT} needs the name of the child in {OWN_RUN}")
    return Named(found.run, parent, is_told_so=True) if parent else found


def _explicit(in_path: str, headers: Mapping[str, str]) -> str:
    said = [
        ("the path", in_path),
        (f"the header {OWN_RUN}", headers.get(OWN_RUN, "")),
        *((f"{name} in the header baggage", value) for name, value in baggage(headers) if name == BAGGAGE_RUN),
    ]
    names = [(where, _name(run, "the run name" if where == "the path" else where)) for where, run in said if run]
    for where, run in names:
        if run != names[0][1]:
            raise _bad(f"the run is {names[0][1]} in {names[0][0]} and {run} in {where}; name one")
    return names[0][1] if names else ""


def _session(headers: Mapping[str, str], in_body: tuple[str, ...]) -> Named | None:
    for header in SESSION_HEADERS if _SESSION_HEADERS & headers.keys() else ():
        if value := headers.get(header, ""):
            return _part_of(header, _name(value, f"the header {header}"), headers)
    for name, value in baggage(headers):
        if name == "session.id" and value:
            return Named(_name(value, "session.id in the header baggage"))
    return next((Named(value) for value in in_body if RUN_NAME.fullmatch(value)), None)


def _part_of(header: str, session: str, headers: Mapping[str, str]) -> Named:
    """Give the run of a session, or that of a sub-agent in it where the agent says that it is one."""
    if header == CLAUDE_SESSION and (agent := headers.get(CLAUDE_AGENT, "")):
        above = headers.get(CLAUDE_PARENT, "")
        parent = f"{session}:{above}" if above else session
        child = f"{session}:{agent}"
    elif header in OPENCODE_SESSIONS:
        child, parent = session, headers.get(OPENCODE_PARENT, "")
    else:
        return Named(session)
    is_child = child != parent and RUN_NAME.fullmatch(child) and RUN_NAME.fullmatch(parent)
    return Named(child, parent) if is_child else Named(session)


def _name(value: str, what: str) -> str:
    if not RUN_NAME.fullmatch(value):
        allowed = "1 to 128 letters, digits, dots, colons, hyphens and underscores"
        raise _bad(f"{what} is not a run name: {allowed}")
    return value


def _bad(message: str) -> RefusedError:
    return RefusedError(Refused(400, "unreadable", message))


@dataclass(slots=True)
class _Known:
    owner: str
    path: tuple[str, ...]
    used_at_seconds: float = -USED_EVERY_SECONDS
    """When it was last noted that the run is in use, by the clock of the event loop."""


@dataclass(slots=True)
class Runs:
    """Opens runs on first sight, each for the key that named it."""

    store: Store
    _known: dict[str, _Known] = field(default_factory=dict)

    async def admit(self, caller: Caller, named: Named) -> tuple[str, ...] | Taken | TooManyRuns | Refused:
        """Make sure that the run exists and is the caller's, and give who else pays for it.

        A run key's run was opened before the key was made and is never opened here: if its accounts are gone, the
        authorize that follows says so. Raises LedgerUnavailableError.
        """
        # What a run key says is known of its run is kept apart: the owner is told by the books to whoever opens one.
        known = self._known.get(f"@{named.run}" if caller.run else named.run)
        if known is None:
            found = await (self._bound(caller, named.run) if caller.run else self._open(caller, named))
            if not isinstance(found, _Known):
                return found
            known = found
        if known.owner != caller.scope:
            return Taken(scope=f"run:{named.run}", owner=known.owner)
        if named.is_told_so and known.path[:1] != (f"run:{named.parent}",):
            message = f"the run {named.run} was opened before and is not part of {named.parent}; name another"
            return Refused(400, "unreadable", message)
        await self._note_use(named.run, known)
        return known.path

    async def _bound(self, caller: Caller, run: str) -> _Known | tuple[str, ...]:
        path = await self.store.path_of(f"run:{run}")
        return () if path is None else self._remember(f"@{run}", _Known(caller.scope, path))

    async def _open(self, caller: Caller, named: Named) -> _Known | Taken | TooManyRuns | Refused:
        path: tuple[str, ...] = ()
        if named.parent:
            above = await self._parent(caller, named)
            if not isinstance(above, _Known):
                return above
            path = (f"run:{named.parent}", *above.path)
            if sum(scope.startswith("run:") for scope in path) > PARENTS_MAX:
                return Refused(400, "unreadable", f"runs are inside each other {PARENTS_MAX} deep at most")
        answer = await self._opened(caller, named.run, path, caller.runs_per_hour_max)
        if not isinstance(answer, Opened):
            return answer
        if not answer.created:
            path = await self.store.path_of(f"run:{named.run}") or ()
        known = _Known(caller.scope, path)
        if answer.created and not path:
            known.used_at_seconds = asyncio.get_running_loop().time()
        return self._remember(named.run, known)

    async def _parent(self, caller: Caller, named: Named) -> _Known | Taken | TooManyRuns | Refused:
        """Give the run that another one is to be part of; one that nobody knows is opened where an agent named it."""
        known = self._known.get(named.parent)
        if known is None and not named.is_told_so:
            return await self._open(caller, Named(named.parent))
        if known is None:
            # No run may be opened in this hour: what is there is found, and what is not is not made.
            answer = await self._opened(caller, named.parent, (), 0)
            if isinstance(answer, TooManyRuns):
                message = f"there is no run {named.parent} that {named.run} could be part of"
                return Refused(400, "unreadable", message)
            if not isinstance(answer, Opened):
                return answer
            path = await self.store.path_of(f"run:{named.parent}") or ()
            known = self._remember(named.parent, _Known(caller.scope, path))
        return known if known.owner == caller.scope else Taken(f"run:{named.parent}", known.owner)

    async def _opened(
        self, caller: Caller, run: str, path: tuple[str, ...], runs_per_hour_max: int | None
    ) -> Opened | Taken | TooManyRuns:
        opening = OpenScope(f"run:{run}", caller.scope, caller.template, runs_per_hour_max, path=path)
        answer = await self.store.submit(opening)
        ensure(isinstance(answer, (Opened, Taken, TooManyRuns)), "a run is opened, or is said to be another's", run)
        return cast(Opened | Taken | TooManyRuns, answer)

    def _remember(self, run: str, known: _Known) -> _Known:
        if len(self._known) >= _KNOWN_MAX:
            self._known.clear()
        self._known[run] = known
        return known

    async def _note_use(self, run: str, known: _Known) -> None:
        """Note now and then that a run is in use, and all that it is part of: none of them is idle."""
        now = asyncio.get_running_loop().time()
        if now - known.used_at_seconds < USED_EVERY_SECONDS:
            return
        known.used_at_seconds = now
        for scope in (f"run:{run}", *(one for one in known.path if one.startswith("run:"))):
            await self.store.use_run(scope)
