"""Who is calling: a secret becomes a caller, and only its digest is ever kept."""

from __future__ import annotations

import fnmatch
import hashlib
import hmac
import ipaddress
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from bursar.call import Refused
from bursar.clock import Clock, Instant, SystemClock
from bursar.ledger.account import Limits
from bursar.ledger.store import KeyRow, Store

LOCAL_KEY = "local"
"""The key that `bursar run` opens its runs with."""
SECRET_CHARACTERS_MAX = 512
RUNS_PER_HOUR_MAX = 100
"""How many runs a key may open within an hour when nothing else is said."""
ANY_MODEL = ("*",)
ANY_UPSTREAM = ("*",)
ANY_USER = "*"
"""The user of a key whose clients name the user."""
ROLES = ("viewer", "operator", "admin")
"""What a key may do with the books, each more than the one before it."""
_SECRET_BYTES = 30
_KEY_HEADERS = ("x-api-key", "x-goog-api-key")
_AWS_KEY_ID = re.compile(r"AWS4-HMAC-SHA256 Credential=([^/,\s]+)/")


@dataclass(frozen=True, slots=True)
class Caller:
    """The holder of a key."""

    key: str
    run: str
    """The run that a run key is bound to, or empty."""
    template: Limits
    """What a new run of this key is opened with."""
    models: tuple[str, ...] = ANY_MODEL
    """Globs of the models that the key may call."""
    runs_per_hour_max: int | None = None
    team: str = ""
    user: str = ""
    tags: tuple[str, ...] = ()
    """Tags of every call of the key, such as `env=prod`, which no client can change."""
    tags_required: tuple[str, ...] = ()
    """Names of tags that a call must have."""
    upstreams: tuple[str, ...] = ANY_UPSTREAM
    """Globs of the upstreams that the key may call."""
    networks: tuple[str, ...] = ()
    """Where the key may be used; empty: everywhere."""
    role: str = ""
    """What the key may do with the books; a key with a role makes no model calls."""
    expires_at: Instant | None = None

    @property
    def scope(self) -> str:
        """Give the scope of the key's own accounts."""
        return f"key:{self.key}"


@dataclass(frozen=True, slots=True)
class Unauthorized:
    """No key, or one that is unknown, revoked, expired, or may not be used from here."""

    message: str
    status: int = 401
    code: str = "invalid_key"


def new_secret() -> str:
    """Make a key's secret: 240 random bits."""
    return f"bursar-{secrets.token_urlsafe(_SECRET_BYTES)}"


def new_run_secret() -> str:
    """Make a run key's secret: 240 random bits."""
    return f"bursar-run-{secrets.token_urlsafe(_SECRET_BYTES)}"


def digest(secret: str) -> str:
    """Give the hex SHA-256 under which a secret is known; its 240 random bits need no salt."""
    return hashlib.sha256(secret.encode()).hexdigest()


def template_to_json(limits: Limits) -> str:
    """Write a run template as the books keep it."""
    return json.dumps({"usd": limits.usd, "calls": limits.calls, "tokens": limits.tokens})


def template_from_json(text: str) -> Limits:
    """Read a run template from the books."""
    return Limits(**json.loads(text)) if text else Limits()


_TERMS = ("team", "user", "tags", "tags_required", "models", "upstreams", "networks", "role", "runs_per_hour_max")


class UnknownTermError(Exception):
    """The books have a term that this version does not know, and could not keep."""


def terms_to_json(terms: Mapping[str, object]) -> str:
    """Write what a key may do as the books keep it; what is empty is left out."""
    return json.dumps({name: terms[name] for name in _TERMS if terms.get(name)})


def terms_from_json(text: str) -> dict[str, Any]:
    """Read what a key may do from the books; raises UnknownTermError."""
    terms = json.loads(text)
    if unknown := sorted(terms.keys() - set(_TERMS)):
        raise UnknownTermError(f"this key has the term {unknown[0]}, which this version does not know")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in terms.items()}


@dataclass(slots=True)
class Callers:
    """Finds the caller behind a request; asks the books every time, so that a revoked key is gone at once."""

    store: Store
    declared: Mapping[str, Caller]
    """Keys of the settings by the digest of their secret; they live and die with the settings."""
    rules: Mapping[str, Caller]
    """The same by name: a run key takes over what its key may do."""

    clock: Clock = field(default_factory=SystemClock)

    async def identify(self, headers: Mapping[str, str], address: str = "") -> Caller | Unauthorized:
        """Take the key from `Authorization: Bearer`, `x-api-key` or `x-goog-api-key`; two different are refused.

        `address` is where the request comes from.
        """
        secret = secret_of(headers)
        if isinstance(secret, Unauthorized):
            return secret
        wanted = digest(secret)
        caller = self._declared(wanted) or await self._found(wanted)
        if isinstance(caller, Unauthorized):
            return caller
        if caller.expires_at is not None and caller.expires_at <= self.clock.now():
            return Unauthorized("this key has expired; `bursar keys create NAME` makes another")
        if caller.networks and not _is_within(address, caller.networks):
            return Unauthorized(f"key {caller.key} may not be used from here", 403, "network_not_allowed")
        if not caller.role and not caller.run and caller.template == Limits():
            return Unauthorized("this key has no caps for its runs, and no run is without; make one that has")
        return caller

    async def named(self, key: str, template: Limits) -> Caller:
        """Give the holder of a key by its name: what the newest of the keys may do, or what the settings say."""
        now = self.clock.now()
        rows = [row for row in await self.store.keys() if row.name == key and not row.run and row.revoked_at is None]
        live = [row for row in rows if row.expires_at is None or row.expires_at > now]
        newest = max(live, key=lambda row: (row.created_at, row.id), default=None)
        if newest is not None:
            return replace(self._caller(newest), template=template)
        plain = Caller(key, "", template, runs_per_hour_max=RUNS_PER_HOUR_MAX)
        return replace(self.rules.get(key, plain), template=template)

    def _declared(self, wanted: str) -> Caller | None:
        # All are looked at, each in constant time: how long it takes says nothing about any of them.
        found = [caller for known, caller in self.declared.items() if hmac.compare_digest(known, wanted)]
        return found[0] if found else None

    async def _found(self, wanted: str) -> Caller | Unauthorized:
        row = await self.store.find_key(wanted)
        if row is None or row.revoked_at is not None or not hmac.compare_digest(row.digest, wanted):
            return Unauthorized("this key is unknown or revoked; make one with `bursar keys create NAME`")
        try:
            return self._caller(row)
        except UnknownTermError as error:
            return Unauthorized(f"{error}; bring this gateway up to date", 403, "unknown_term")

    def _caller(self, row: KeyRow) -> Caller:
        """Put together what the key was made with, and for the rest what the settings say about its name."""
        template = template_from_json(row.limits_json)
        declared = self.rules.get(row.name) or Caller(row.name, "", template, runs_per_hour_max=RUNS_PER_HOUR_MAX)
        ends = [at for at in (row.expires_at, declared.expires_at) if at is not None]
        own = {"run": row.run, "template": template, "expires_at": min(ends, default=None)}
        return replace(declared, **{**terms_from_json(row.terms_json), **own})


def _is_within(address: str, networks: tuple[str, ...]) -> bool:
    try:
        here = ipaddress.ip_address(address)
    except ValueError:
        return False  # what is not known is not allowed
    if isinstance(here, ipaddress.IPv6Address) and here.ipv4_mapped is not None:
        here = here.ipv4_mapped
    return any(here in ipaddress.ip_network(network) for network in networks)


def secret_of(headers: Mapping[str, str]) -> str | Unauthorized:
    """Take the secret from the headers that may carry one."""
    bearer = _authorized(headers.get("authorization", ""))
    plain = (headers.get(name, "").strip() for name in _KEY_HEADERS)
    found = sorted({key for key in (bearer, *plain) if key})
    if len(found) > 1:
        return Unauthorized("the headers authorization and x-api-key carry two different keys; send one")
    if not found:
        return Unauthorized("no key: send it as `Authorization: Bearer KEY` or `x-api-key: KEY`")
    secret = found[0]
    if len(secret) > SECRET_CHARACTERS_MAX or not secret.isascii():
        return Unauthorized("this key is unknown or revoked")
    return secret


def _authorized(value: str) -> str:
    scheme, _, bearer = value.partition(" ")
    if scheme.lower() == "bearer":
        return bearer.strip()
    # Clients of AWS send no bearer token without TLS, but sign. The id of the key that they sign with is the key here;
    # the signature is as good as the id, since nobody else knows it.
    signed = _AWS_KEY_ID.match(value)
    return signed[1] if signed else ""


def refused_call(caller: Caller, upstream: str, model: str) -> Refused | None:
    """Say that the key may not make this call, or nothing where it may."""
    if caller.role:
        why = f"key {caller.key} has the role {caller.role}: it is for the books and makes no model calls"
        return Refused(403, "not_for_calls", why)
    if not may(caller.upstreams, upstream):
        allowed = ", ".join(caller.upstreams)
        why = f"key {caller.key} may not call the upstream {upstream}; it may call {allowed}"
        return Refused(403, "upstream_not_allowed", why)
    if not may(caller.models, model):
        why = f"key {caller.key} may not call {model}; it may call {', '.join(caller.models)}"
        return Refused(403, "model_not_allowed", why)
    return None


def may(allowed: tuple[str, ...], name: str) -> bool:
    """Say whether a name is among the globs."""
    return any(fnmatch.fnmatchcase(name, one) for one in allowed)
