"""What operators do to the books: budgets and runs. The command line and HTTP do it by these functions alone."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from bursar.clock import Instant
from bursar.edge.admin.positions import Position, positions
from bursar.ledger.account import (
    PERSON,
    TAG_NAME,
    TAG_VALUE,
    AccountState,
    Changed,
    ClearModel,
    Note,
    SetLimit,
    SetState,
    Unit,
)
from bursar.ledger.books import OWN_RUN_PREFIX
from bursar.ledger.periods import LIFETIME
from bursar.ledger.store import Store

_RUN_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
_EXISTING = re.compile(r"(key|run):[!-~]{1,200}")
_OPENED = re.compile(
    rf"org|(team|user):{PERSON}|tag:{TAG_NAME}(={TAG_VALUE})?|model:[!-)+-~]{{0,200}}[!-~]|upstream:[a-z0-9][a-z0-9_-]{{0,31}}"
)
SCOPES = "org, team:NAME, user:NAME, key:NAME, run:ID, tag:NAME=VALUE, model:NAME (or model:gpt-*), upstream:NAME"

Limits = Mapping[Unit, int | None]


@dataclass(frozen=True, slots=True)
class Problem:
    """Why something cannot be done, as HTTP and the command line say it."""

    status: int
    code: str
    message: str


def new_run() -> str:
    """Make the name of a run: 60 random bits."""
    return "r-" + "".join(secrets.choice(_RUN_ALPHABET) for _ in range(12))


# ---- budgets --------------------------------------------------------------------------------------------------------


def wrong_scope(scope: str) -> Problem | None:
    """Say what is wrong with the name of a spender, or nothing."""
    if _EXISTING.fullmatch(scope) or _OPENED.fullmatch(scope):
        return None
    return Problem(422, "invalid", f"{scope[:80]!r} is nobody who can have a budget; there are {SCOPES}")


async def budgets(store: Store, scope: str | None, now: Instant) -> list[Position] | Problem:
    """Give every budget that limits something, but for the gateway's own; of one scope all that is counted."""
    found = positions(await store.accounts(scope), now)
    if scope is None:
        return [row for row in found if row.limit is not None and not row.scope.startswith(OWN_RUN_PREFIX)]
    return found or nobody(scope)


async def set_limits(
    store: Store, scope: str, limits: Limits, spec: str, by: str, now: Instant
) -> list[Position] | Problem:
    """Set the budgets of a scope for one period, higher or lower; give where they stand.

    A key or a run has to be there; teams, users, tags, models, upstreams and the organisation are known from then on.
    """
    if problem := wrong_scope(scope):
        return problem
    accounts = await store.accounts(scope)
    if not accounts and _EXISTING.fullmatch(scope):
        return nobody(scope)
    there = {(row.unit, row.spec) for row in positions(accounts, now)}
    for unit, limit in limits.items():
        if limit is None and (unit.value, spec) not in there:
            return Problem(
                404, "unknown", f"{scope} has no such budget; `bursar budgets list --scope {scope}` shows them"
            )
    for unit, limit in limits.items():
        opens = limit is not None and not _EXISTING.fullmatch(scope)
        await store.submit(SetLimit(scope, unit, limit, spec, by, opens))
    return [row for row in positions(await store.accounts(scope), now) if row.spec == spec]


def nobody(scope: str) -> Problem:
    """Say that a scope has no account."""
    return Problem(404, "unknown", f"the ledger does not know {scope}; keys are written key:NAME, runs run:ID")


# ---- runs -----------------------------------------------------------------------------------------------------------


def no_run(run: str) -> Problem:
    """Say that there is no such run."""
    return Problem(404, "unknown", f"there is no run {run}; `bursar runs list` shows them")


async def raise_run(store: Store, run: str, limits: Limits, by: str) -> Problem | None:
    """Set the lifetime caps of a run anew; lower is possible, too."""
    if not await store.accounts(f"run:{run}"):
        return no_run(run)
    for unit, limit in limits.items():
        await store.submit(SetLimit(f"run:{run}", unit, limit, LIFETIME, by))
    return None


async def set_state(store: Store, run: str, state: AccountState, by: str) -> Problem | None:
    """Stop a run, or let it go on; one that goes on counts as used, or it would be stopped again for being idle."""
    if state is AccountState.OPEN:
        await store.use_run(f"run:{run}")
    answer = await store.submit(SetState(f"run:{run}", state, by))
    return None if isinstance(answer, Changed) else no_run(run)


# ---- models ---------------------------------------------------------------------------------------------------------


async def clear_model(store: Store, model: str, by: str) -> Problem | None:
    """Take a model out of quarantine."""
    answer = await store.submit(ClearModel(model))
    if not isinstance(answer, Changed) or not answer.count:
        return Problem(404, "unknown", f"{model} is not in quarantine; `bursar prices quarantine` lists what is")
    await store.submit(Note(by, "model cleared", model))
    return None
