"""Who may do what: a secret or a token becomes a person with a role, and every route names the roles it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bursar.edge.admin.books import Problem
from bursar.edge.admin.oidc import TOKEN_CHARACTERS_MAX, Tokens
from bursar.edge.callers import Caller, Callers, Unauthorized

VIEWER, OPERATOR, ADMIN, KEY, RUN = "viewer", "operator", "admin", "key", "run"
READERS = (VIEWER, OPERATOR, ADMIN)
OPERATORS = (OPERATOR, ADMIN)
ADMINS = (ADMIN,)
EVERYBODY = (*READERS, KEY, RUN)


@dataclass(frozen=True, slots=True)
class Person:
    """Who asks."""

    name: str
    """As audit entries name them: `key:ci`, `run:r1`, `oidc:subject`."""
    role: str
    caller: Caller | None
    """The holder of a key; None for a token."""


@dataclass(frozen=True, slots=True)
class Access:
    """Finds out who asks; the books are asked each time, so that a revoked key is gone at once."""

    callers: Callers
    tokens: Tokens | None

    async def identify(self, headers: Mapping[str, str], address: str) -> Person | Problem:
        """Say who asks, or why nobody may; raises LedgerUnavailableError."""
        token = _token(headers)
        if token and self.tokens is not None:
            bearer = await self.tokens.check(token)
            if isinstance(bearer, Unauthorized):
                return Problem(bearer.status, bearer.code, bearer.message)
            return Person(bearer.name, bearer.role, None)
        caller = await self.callers.identify(headers, address)
        if isinstance(caller, Unauthorized):
            return Problem(caller.status, caller.code, caller.message)
        if caller.role:
            return Person(caller.scope, caller.role, caller)
        return Person(f"run:{caller.run}", RUN, caller) if caller.run else Person(caller.scope, KEY, caller)


def refusal(person: Person, roles: tuple[str, ...]) -> Problem | None:
    """Say that a role is not enough, or nothing where it is."""
    if person.role in roles:
        return None
    return Problem(403, "forbidden", f"{person.name} has the role {person.role}; this takes {' or '.join(roles)}")


def _token(headers: Mapping[str, str]) -> str:
    """Give the bearer token where it looks like a signed one: three parts, the first of them a JSON object."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    is_signed = (
        token.strip().startswith("eyJ")
        and token.count(".") == 2
        and len(token) <= TOKEN_CHARACTERS_MAX
        and token.isascii()
    )
    return token.strip() if scheme.lower() == "bearer" and is_signed else ""
