"""Who is calling: a secret becomes a caller, and only its digest is ever kept."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from bursar.call import Refused
from bursar.ledger.account import Limits
from bursar.ledger.store import KeyRow, Store

LOCAL_KEY = "local"
"""The key that `bursar run` opens its runs with."""
SECRET_CHARACTERS_MAX = 512
RUNS_PER_HOUR_MAX = 100
"""How many runs a key may open within an hour when nothing else is said."""
ANY_MODEL = ("*",)
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

    @property
    def scope(self) -> str:
        """Give the scope of the key's own accounts."""
        return f"key:{self.key}"


@dataclass(frozen=True, slots=True)
class Unauthorized:
    """No key, or one that is unknown or revoked."""

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


@dataclass(slots=True)
class Callers:
    """Finds the caller behind a request; asks the books every time, so that a revoked key is gone at once."""

    store: Store
    declared: Mapping[str, Caller]
    """Keys of the settings by the digest of their secret; they live and die with the settings."""
    rules: Mapping[str, Caller]
    """The same by name: a run key takes over what its key may do."""

    async def identify(self, headers: Mapping[str, str]) -> Caller | Unauthorized:
        """Take the key from `Authorization: Bearer`, `x-api-key` or `x-goog-api-key`; two different are refused."""
        secret = secret_of(headers)
        if isinstance(secret, Unauthorized):
            return secret
        wanted = digest(secret)
        if caller := self.declared.get(wanted):
            return caller
        row = await self.store.find_key(wanted)
        if row is None or row.revoked_at is not None:
            return Unauthorized("this key is unknown or revoked; make one with `bursar keys create NAME`")
        caller = self._caller(row)
        if not caller.run and caller.template == Limits():
            return Unauthorized("this key has no caps for its runs, and no run is without; make one that has")
        return caller

    def _caller(self, row: KeyRow) -> Caller:
        rules = self.rules.get(row.name)
        return Caller(
            key=row.name,
            run=row.run,
            template=template_from_json(row.limits_json),
            models=rules.models if rules else ANY_MODEL,
            runs_per_hour_max=rules.runs_per_hour_max if rules else RUNS_PER_HOUR_MAX,
        )


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


def refused_model(caller: Caller, model: str) -> Refused:
    """Say that the key may not call this model."""
    return Refused(
        403, "model_not_allowed", f"key {caller.key} may not call {model}; it may call {', '.join(caller.models)}"
    )
