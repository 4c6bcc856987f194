"""Who is spending: one function turns a request into its account path, and the money path takes only its result."""

from __future__ import annotations

from dataclasses import dataclass

from bursar.edge.callers import Caller

ORGANISATION = "org"
"""The scope of everybody's budget."""


@dataclass(frozen=True, slots=True)
class AccountPath:
    """Whose accounts must agree before a call is sent."""

    run: str
    scopes: tuple[str, ...]
    """Those that must exist: the run, the runs it is part of, the key."""
    also: tuple[str, ...]
    """Those that count where somebody set a budget: organisation, team, user, tags."""


def account_path(caller: Caller, run: str, run_path: tuple[str, ...] = (), tags: tuple[str, ...] = ()) -> AccountPath:
    """Put the accounts of a call together; `run_path` is what the run was opened with: its parents and its tags."""
    parents = tuple(scope for scope in run_path if scope.startswith("run:"))
    of_run = tuple(scope for scope in run_path if not scope.startswith("run:"))
    who = (ORGANISATION, *_named("team", caller.team), *_named("user", caller.user))
    labels = dict.fromkeys((*(f"tag:{tag}" for tag in (*caller.tags, *tags)), *of_run))
    return AccountPath(run, (f"run:{run}", *parents, caller.scope), (*who, *labels))


def _named(kind: str, name: str) -> tuple[str, ...]:
    return (f"{kind}:{name}",) if name else ()
