"""Bearer tokens of an OpenID provider: who signed, for whom, until when, and which role its claim stands for.

`pyjwt` with `cryptography` checks the signatures; both come with the extra `oidc`.
"""

from __future__ import annotations

import asyncio
import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bursar.clock import SECOND, Clock, Instant
from bursar.edge.callers import Unauthorized
from bursar.upstream.fetch import Fetch, FetchError

TOKEN_CHARACTERS_MAX = 16_384
KEYS_SECONDS = 3600
"""How long the provider's keys are taken as they were."""
REFETCH_SECONDS = 30
"""How soon they are fetched again for a token that names a key which is not among them."""
FAILED_SECONDS = 5
"""How long nobody waits for it after a try that failed."""
LEEWAY_SECONDS = 30
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Of public keys only: never none, and no shared secret."""
_DISCOVERY = "/.well-known/openid-configuration"


class MissingOidcError(Exception):
    """The library is not installed; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Provider:
    """Whose tokens are taken, and what they stand for."""

    issuer: str
    audience: str
    role_claim: str
    roles: Mapping[str, str]
    """From a value of the claim to a role."""


@dataclass(frozen=True, slots=True)
class Bearer:
    """Who a token says it is."""

    name: str
    role: str


def _library() -> Any:
    try:
        importlib.import_module("cryptography")
        return importlib.import_module("jwt")
    except ImportError:
        raise MissingOidcError("[oidc] needs a library that is not installed: pip install 'bursar[oidc]'") from None


@dataclass(slots=True)
class Tokens:
    """Checks tokens; the provider's keys are fetched when one is needed, and kept for an hour."""

    provider: Provider
    fetch: Fetch
    clock: Clock
    _keys: dict[str, Any] = field(default_factory=dict)
    _fetched_at: Instant = Instant(0)  # noqa: RUF009
    _failed_at: Instant = Instant(0)  # noqa: RUF009
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _jwt: Any = field(default_factory=_library)

    async def check(self, token: str) -> Bearer | Unauthorized:
        """Say who sends a token, or why it is refused; the token itself is in no message."""
        jwt = self._jwt
        try:
            head = jwt.get_unverified_header(token)
            kid, algorithm = head.get("kid"), head.get("alg")
            if algorithm not in ALGORITHMS or not isinstance(kid, str):
                return Unauthorized("this token is not signed with a public key that is named by kid")
            key = await self._key(kid)
            if key is None:
                return Unauthorized(f"the token's key is none of those of {self.provider.issuer}")
            if key.algorithm_name not in (algorithm, None):
                return Unauthorized("the token is signed in another way than its key is for")
            claims = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self.provider.audience,
                issuer=self.provider.issuer,
                leeway=LEEWAY_SECONDS,
                options={
                    "require": ["exp", "iss", "aud", "sub"],
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
        except FetchError as error:
            return Unauthorized(f"the keys of {self.provider.issuer} cannot be had: {error}", 503, "oidc_unavailable")
        except jwt.PyJWTError as error:
            return Unauthorized(f"this token is not taken: {error}")
        return self._bearer(claims)

    def _bearer(self, claims: Mapping[str, Any]) -> Bearer | Unauthorized:
        now = self.clock.now() // SECOND
        ends, begins = claims["exp"], claims.get("nbf", 0)
        if not (isinstance(ends, (int, float)) and ends + LEEWAY_SECONDS > now):
            return Unauthorized("this token has expired")
        if not (isinstance(begins, (int, float)) and begins - LEEWAY_SECONDS <= now):
            return Unauthorized("this token is not valid yet")
        if not str(claims["sub"]).isprintable():
            return Unauthorized("this token's sub is not plain text")
        role = self._role(claims)
        if not role:
            message = f"no value of the claim {self.provider.role_claim} stands for a role; [oidc] roles says which do"
            return Unauthorized(message, 403, "forbidden")
        return Bearer(f"oidc:{claims['sub']}"[:200], role)

    def _role(self, claims: Mapping[str, Any]) -> str:
        """Give the highest role that a value of the claim stands for; `realm_access.roles` leads into an object."""
        value: Any = claims.get(self.provider.role_claim)
        if value is None:
            value = claims
            for part in self.provider.role_claim.split("."):
                value = value.get(part) if isinstance(value, dict) else None
        values = value if isinstance(value, list) else [value]
        found = {self.provider.roles[one] for one in values if isinstance(one, str) and one in self.provider.roles}
        return next((role for role in ("admin", "operator", "viewer") if role in found), "")

    async def _key(self, kid: str) -> Any:
        async with self._turn:
            now = self.clock.now()
            age = now - self._fetched_at
            if now - self._failed_at < FAILED_SECONDS * SECOND:
                raise FetchError("it was asked a moment ago")
            if age > KEYS_SECONDS * SECOND or (kid not in self._keys and age > REFETCH_SECONDS * SECOND):
                # Anybody can send a token: a provider that does not answer must not be waited for by each of them.
                self._failed_at = now
                await self._fetch_keys()
                self._failed_at = Instant(0)
            return self._keys.get(kid)

    async def _fetch_keys(self) -> None:
        discovered = await self._json(self.provider.issuer.rstrip("/") + _DISCOVERY)
        place = discovered.get("jwks_uri")
        if discovered.get("issuer") != self.provider.issuer or not isinstance(place, str):
            raise FetchError("what it says of itself names another issuer, or no jwks_uri")
        if not place.startswith("https://") and self.provider.issuer.startswith("https://"):
            raise FetchError("its jwks_uri is not https")
        listed = (await self._json(place)).get("keys")
        found: dict[str, Any] = {}
        for one in listed if isinstance(listed, list) else []:
            if isinstance(one, dict) and one.get("use", "sig") == "sig" and isinstance(one.get("kid"), str):
                try:
                    found[one["kid"]] = self._jwt.PyJWK(one)
                except self._jwt.PyJWTError:
                    continue  # of a kind that nothing here uses
        self._keys, self._fetched_at = found, self.clock.now()

    async def _json(self, url: str) -> dict[str, Any]:
        answer = await self.fetch("GET", url, {"accept": "application/json"}, b"")
        try:
            value = json.loads(answer.data) if answer.status == 200 else None
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise FetchError(f"{url} answered {answer.status} and no JSON object")
        return value
