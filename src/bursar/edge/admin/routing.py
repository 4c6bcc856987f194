"""How the routes are written: what each takes, what each may answer, and who may ask."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Header, Query

from bursar.edge.admin.access import Person
from bursar.edge.admin.books import Problem
from bursar.edge.admin.desk import Desk
from bursar.edge.admin.faults import ProblemError
from bursar.edge.admin.guard import ROLES, GuardedRoute, desk_of, person_of
from bursar.edge.admin.shapes import Caps, ErrorAnswer
from bursar.ledger.account import Limits, Unit
from bursar.money import Money

T = TypeVar("T")

ROWS_MAX = 200

AtDesk = Annotated[Desk, Depends(desk_of)]
Asking = Annotated[Person, Depends(person_of)]
Rows = Annotated[int, Query(ge=1, le=ROWS_MAX, description="Most rows of one page.")]
After = Annotated[str, Query(max_length=600, description="`next` of the page before.")]
Repeat = Annotated[
    str,
    Header(
        alias="idempotency-key",
        max_length=128,
        pattern="^[!-~]*$",
        description="A name of your own for this write: sent again within a day it is not done again, and has the same "
        "answer (but for secrets, which are shown once). The same name with another request is a 409.",
    ),
]

_WHEN = {
    400: "The request cannot be read.",
    401: "No key, or one that is unknown, revoked or expired.",
    403: "The role of the key is not enough, or the key may not be used from here.",
    404: "There is no such thing.",
    405: "The path takes other methods.",
    408: "The body did not arrive in time.",
    409: "It cannot be done as things are, or the idempotency key was used for something else.",
    413: "The body is too large.",
    422: "A field is wrong, unknown or missing.",
    429: "The key has opened its runs of this hour.",
    500: "A bug; see the gateway's log.",
    503: "The ledger cannot be asked now; ask again.",
}
_ALWAYS = (400, 401, 403, 405, 408, 413, 422, 500, 503)


def router() -> APIRouter:
    """Give a router whose routes are all guarded."""
    return APIRouter(route_class=GuardedRoute)


def told(roles: tuple[str, ...], *more: int) -> dict[str, Any]:
    """Give what every route says of itself: its roles, and each status that it may answer."""
    answers = {status: {"model": ErrorAnswer, "description": _WHEN[status]} for status in (*_ALWAYS, *more)}
    described = {ROLES: list(roles), "security": [{"bearer": []}]}
    return {"openapi_extra": described, "responses": dict(sorted(answers.items()))}


def done(value: T | Problem) -> T:
    """Give a value, or end the request with the problem that stands in its place."""
    if isinstance(value, Problem):
        raise ProblemError(value)
    return value


def limits_of(caps: Caps | None) -> Limits:
    """Give caps as the ledger takes them."""
    if caps is None:
        return Limits()
    usd = None if caps.usd is None else Money.from_usd(caps.usd).nanodollars
    return Limits(usd=usd, calls=caps.calls, tokens=caps.tokens)


def by_unit(caps: Caps) -> dict[Unit, int | None]:
    """Give the caps that are said, by unit; at least one is."""
    limits = limits_of(caps)
    said = {Unit.USD: limits.usd, Unit.CALLS: limits.calls, Unit.TOKENS: limits.tokens}
    found: dict[Unit, int | None] = {unit: limit for unit, limit in said.items() if limit is not None}
    if not found:
        raise ProblemError(Problem(422, "invalid", "say which cap: usd, calls or tokens"))
    return found
