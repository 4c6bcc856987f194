"""What stands before every route: who asks, whether the role is enough, and whether this very write was done before."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from bursar.edge.admin.access import Person, refusal
from bursar.edge.admin.books import Problem
from bursar.edge.admin.desk import DESK, Desk
from bursar.edge.admin.faults import ProblemError
from bursar.ledger.store import LedgerUnavailableError, Store

ROLES = "x-roles"
"""Where the description of a route names its roles; the guard reads it from there."""
IDEMPOTENCY_KEY = "idempotency-key"
_NAME = re.compile(r"[!-~]{1,128}")
_REPEATED = "this is the answer to a write that was sent before; its secret was shown then, and is kept nowhere"

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


def desk_of(request: Request) -> Desk:
    """Give what the route works with."""
    desk: Desk = request.scope[DESK]
    return desk


def person_of(request: Request) -> Person:
    """Give who asks; the guard has found out."""
    person: Person = request.state.person
    return person


class GuardedRoute(APIRoute):
    """A route that nobody passes without a role that it names; one that names none cannot be made."""

    def get_route_handler(self) -> Handler:
        """Give the handler behind the guard."""
        handle = super().get_route_handler()
        roles = tuple((self.openapi_extra or {})[ROLES])
        is_write = bool((self.methods or set()) - {"GET", "HEAD"})

        known = frozenset(field.alias for field in self.dependant.query_params)

        async def guarded(request: Request) -> Response:
            desk = desk_of(request)
            headers = {name.lower(): value for name, value in request.headers.items()}
            address = request.client.host if request.client else ""
            person = await desk.access.identify(headers, address)
            if isinstance(person, Problem):
                raise ProblemError(person)
            if problem := refusal(person, roles):
                raise ProblemError(problem)
            if problem := _unknown_query(request, known):
                raise ProblemError(problem)
            request.state.person = person
            name = request.headers.get(IDEMPOTENCY_KEY, "") if is_write else ""
            return await _once(desk.store, person, name, request, handle) if name else await handle(request)

        return guarded


def _unknown_query(request: Request, known: frozenset[str]) -> Problem | None:
    """Refuse a query parameter that the route does not know, or that is there twice: it would be read as nothing."""
    names = [name for name, _ in request.query_params.multi_items()]
    odd = next((name for name in names if name not in known or names.count(name) > 1), None)
    if odd is None:
        return None
    said = f"it takes {', '.join(sorted(known))}" if known else "it takes none"
    return Problem(
        422, "invalid", f"the query parameter {ascii(odd)[:60]} is not known here, or is there twice; {said}"
    )


async def _once(store: Store, person: Person, name: str, request: Request, handle: Handler) -> Response:
    """Do a write, or give the answer that it had; one that changed nothing is not remembered."""
    if not _NAME.fullmatch(name):
        raise ProblemError(Problem(422, "invalid", "idempotency-key takes 1 to 128 visible ASCII characters"))
    place = f"{person.name} {name}"
    digest = hashlib.sha256(
        b"\n".join(
            (request.method.encode(), str(request.url.path).encode(), request.url.query.encode(), await request.body())
        )
    ).hexdigest()
    said = await store.recall(place, digest)
    if said is not None:
        if said.request != digest:
            raise ProblemError(
                Problem(409, "idempotency_conflict", f"the idempotency key {name} was another request's")
            )
        if not said.status:
            message = f"the write with the idempotency key {name} is not done yet; ask again in a minute"
            raise ProblemError(Problem(409, "idempotency_pending", message))
        return Response(said.body, said.status, {"idempotent-replayed": "true"}, "application/json")
    is_done = False
    try:
        response = await handle(request)
        is_done = response.status_code < 300
    finally:
        if not is_done:
            await _forget(store, place)
    await store.remember(place, response.status_code, _without_secret(bytes(response.body)))
    return response


async def _forget(store: Store, place: str) -> None:
    try:
        await store.forget(place)
    except LedgerUnavailableError:
        return  # the claim ends by itself


def _without_secret(body: bytes) -> str:
    """Give an answer as it may be kept."""
    value = json.loads(body) if body else {}
    if isinstance(value, dict) and "secret" in value:
        value |= {"secret": None, "note": _REPEATED}
    return json.dumps(value)
