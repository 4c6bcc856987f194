"""Tokens of an OpenID provider: its own are taken for the role that they name, and all others are refused."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from desk import Office, an_office

from bursar.clock import SECOND, Instant
from bursar.edge.admin.access import Access
from bursar.edge.admin.oidc import FAILED_SECONDS, KEYS_SECONDS, REFETCH_SECONDS, Bearer, Provider, Tokens
from bursar.edge.callers import Unauthorized
from bursar.settings import SettingsError, parse

NOON = 1_795_435_200
AUDIENCE = "bursar"
ROLES = {"bursar-admins": "admin", "bursar-ops": "operator", "everybody": "viewer"}
RSA_KEY, OTHER_RSA = (rsa.generate_private_key(65_537, 2048) for _ in range(2))
EC_KEY = ec.generate_private_key(ec.SECP256R1())


def jwk(key: Any, kid: str, **more: str) -> dict[str, Any]:
    is_rsa = isinstance(key, rsa.RSAPrivateKey)
    algorithm = jwt.algorithms.RSAAlgorithm if is_rsa else jwt.algorithms.ECAlgorithm
    return {**json.loads(algorithm.to_jwk(key.public_key())), "kid": kid, **more}


@dataclass
class Hands:
    instant: Instant = Instant(NOON * SECOND)  # noqa: RUF009

    def now(self) -> Instant:
        return self.instant


@dataclass
class Idp:
    """A provider on a port of this machine; counts what it is asked."""

    keys: list[dict[str, Any]] = field(
        default_factory=lambda: [
            jwk(RSA_KEY, "k1"),
            jwk(EC_KEY, "k2", alg="ES256"),
            jwk(OTHER_RSA, "enc", use="enc"),
            {"kty": "oct", "kid": "shared", "k": base64.urlsafe_b64encode(b"s" * 32).decode()},
            {"kty": "odd", "kid": "odd"},
        ]
    )
    says: dict[str, Any] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).decode().split(" ", 2)[1]
        self.asked.append(path)
        known = {"issuer": self.url, "jwks_uri": f"{self.url}/keys"} | self.says
        value = known if path.endswith("openid-configuration") else {"keys": self.keys}
        body = json.dumps(value).encode()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()
        writer.close()


@pytest.fixture
async def idp() -> AsyncIterator[Idp]:
    made = Idp()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield made
    server.close()


def tokens_of(idp: Idp, clock: Hands | None = None, claim: str = "groups") -> Tokens:
    from bursar.upstream.fetch import fetch

    return Tokens(Provider(idp.url, AUDIENCE, claim, ROLES), fetch, clock or Hands())


def token(idp: Idp, key: Any = RSA_KEY, kid: str | None = "k1", algorithm: str = "RS256", **changes: Any) -> str:
    claims = {"iss": idp.url, "aud": AUDIENCE, "sub": "ann", "exp": NOON + 600, "groups": ["bursar-ops", "x"]}
    claims = {name: value for name, value in (claims | changes).items() if value is not None}
    return jwt.encode(claims, key, algorithm=algorithm, headers={} if kid is None else {"kid": kid})


async def test_a_token_of_the_provider_stands_for_the_highest_role_that_it_names(idp: Idp) -> None:
    tokens = tokens_of(idp)
    assert await tokens.check(token(idp)) == Bearer("oidc:ann", "operator")
    assert await tokens.check(token(idp, EC_KEY, "k2", "ES256", groups="everybody")) == Bearer("oidc:ann", "viewer")
    both = token(idp, groups=["everybody", "bursar-admins"], aud=["other", AUDIENCE])
    assert await tokens.check(both) == Bearer("oidc:ann", "admin")
    nested = tokens_of(idp, claim="realm_access.roles")
    assert await nested.check(token(idp, realm_access={"roles": ["bursar-ops"]})) == Bearer("oidc:ann", "operator")
    assert len(idp.asked) == 4  # twice the discovery and the keys, however many tokens


def unsigned(idp: Idp, **head: str) -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    claims = {"iss": idp.url, "aud": AUDIENCE, "sub": "ann", "exp": NOON + 600, "groups": "bursar-admins"}
    return f"{part({'typ': 'JWT', 'kid': 'k1'} | head)}.{part(claims)}."


def public_key_as_a_secret(idp: Idp) -> str:
    """The oldest trick: sign with the public key, as if it were a shared secret."""
    import hashlib
    import hmac

    head, claims, _ = unsigned(idp, alg="HS256").split(".")
    mac = hmac.new(json.dumps(idp.keys[0]).encode(), f"{head}.{claims}".encode(), hashlib.sha256).digest()
    return f"{head}.{claims}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"


WRONG: dict[str, Any] = {
    "issuer": lambda idp: token(idp, iss="https://elsewhere.example"),
    "audience": lambda idp: token(idp, aud="another"),
    "no audience": lambda idp: token(idp, aud=None),
    "expired": lambda idp: token(idp, exp=NOON - 31),
    "no end": lambda idp: token(idp, exp=None),
    "an end that is no number": lambda idp: token(idp, exp="never"),
    "not yet": lambda idp: token(idp, nbf=NOON + 60),
    "a name that no book takes": lambda idp: token(idp, sub="a\0b"),
    "nobody": lambda idp: token(idp, sub=None),
    "another key": lambda idp: token(idp, OTHER_RSA),
    "unknown kid": lambda idp: token(idp, kid="k9"),
    "no kid": lambda idp: token(idp, kid=None),
    "a key for something else": lambda idp: token(idp, OTHER_RSA, "enc"),
    "alg none": lambda idp: unsigned(idp, alg="none"),
    "alg None": lambda idp: unsigned(idp, alg="None"),
    "a shared secret": lambda idp: token(idp, b"s" * 32, "shared", "HS256"),
    "the public key as a secret": public_key_as_a_secret,
    "another algorithm than the key's": lambda idp: token(idp, kid="k2", algorithm="RS256"),
    "another hash than the key's": lambda idp: token(idp, algorithm="RS512"),
    "altered": lambda idp: token(idp)[:-6] + "AAAAAA",
    "no JSON": lambda _idp: "a.b.c",
}


@pytest.mark.parametrize("what", WRONG)
async def test_any_other_token_is_refused_and_is_in_no_message(idp: Idp, what: str) -> None:
    sent = WRONG[what](idp)
    got = await tokens_of(idp).check(sent)
    assert isinstance(got, Unauthorized), got
    assert (got.status, got.code) == (401, "invalid_key")
    assert not any(part in got.message for part in sent.split(".") if len(part) > 5)


async def test_a_person_without_a_role_is_known_and_may_nothing(idp: Idp) -> None:
    got = await tokens_of(idp).check(token(idp, groups=["sales"]))
    assert isinstance(got, Unauthorized)
    assert (got.status, got.code) == (403, "forbidden")


async def test_keys_are_fetched_again_when_they_change_but_not_for_every_unknown_one(idp: Idp) -> None:
    clock = Hands()
    tokens = tokens_of(idp, clock)
    assert isinstance(await tokens.check(token(idp)), Bearer)
    for _ in range(5):
        assert isinstance(await tokens.check(token(idp, OTHER_RSA, "k3")), Unauthorized)
    assert len(idp.asked) == 2
    idp.keys = [jwk(OTHER_RSA, "k3")]
    clock.instant = Instant(clock.instant + (REFETCH_SECONDS + 1) * SECOND)
    assert isinstance(await tokens.check(token(idp, OTHER_RSA, "k3")), Bearer)
    assert isinstance(await tokens.check(token(idp)), Unauthorized)
    clock.instant = Instant(clock.instant + (KEYS_SECONDS + 1) * SECOND)
    idp.keys = []
    late = token(idp, OTHER_RSA, "k3", exp=NOON + 10_000)
    assert isinstance(await tokens.check(late), Unauthorized)


@pytest.mark.parametrize(
    "says", [{"issuer": "https://elsewhere.example"}, {"jwks_uri": 7}, {"jwks_uri": "http://127.0.0.1:1/keys"}]
)
async def test_a_provider_that_cannot_be_asked_lets_nobody_in(idp: Idp, says: dict[str, Any]) -> None:
    good, idp.says = idp.says, says
    clock = Hands()
    tokens = tokens_of(idp, clock)
    got = [await tokens.check(token(idp)) for _ in range(3)]
    assert {(one.status, one.code) for one in got if isinstance(one, Unauthorized)} == {(503, "oidc_unavailable")}
    assert len(idp.asked) == 1  # nobody waits for it again at once
    idp.says = good
    clock.instant = Instant(clock.instant + FAILED_SECONDS * SECOND)
    assert isinstance(await tokens.check(token(idp)), Bearer)


async def test_the_api_takes_tokens_beside_keys_and_names_the_person_in_the_books(tmp_path: Path, idp: Idp) -> None:
    oidc = {"issuer": idp.url, "audience": AUDIENCE, "role_claim": "groups", "roles": ROLES}
    async with an_office(tmp_path, oidc=oidc) as office:
        await _at_noon(office, idp)
        ann = token(idp)
        assert (await office.ask("GET", "/runs", who=ann)).status == 200
        assert (await office.ask("POST", "/runs/r1/stop", who=ann)).json["state"] == "stopped"
        assert [entry.detail.get("by") async for entry in office.gateway.store.entries()][-1] == "oidc:ann"
        assert (await office.ask("GET", "/keys", who=ann)).status == 403
        assert (await office.ask("GET", "/me", who=ann)).status == 403
        assert (await office.ask("GET", "/runs", who=token(idp, exp=NOON - 60))).status == 401
        assert (await office.ask("GET", "/runs", who="viewer")).status == 200
        dotted = await office.ask("GET", "/runs", who="a.b.c")
        assert (dotted.status, "unknown" in dotted.json["error"]["message"]) == (401, True)  # a key, as all others


async def _at_noon(office: Office, idp: Idp) -> None:
    """Let the gateway's look at tokens happen at the time for which the tests make them."""
    access = Access(office.gateway._callers, tokens_of(idp))
    desk = office.gateway._door._desk
    object.__setattr__(desk, "access", access)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"issuer": "login.example.com"}, "oidc: issuer is not a URL"),
        ({"issuer": "http://login.example.com"}, "in the clear"),
        ({"roles": {"x": "king"}}, "oidc.roles.x"),
        ({"roles": {}}, "oidc.roles"),
        ({"tenant": "x"}, "unknown key oidc.tenant"),
    ],
)
def test_settings_that_would_let_in_the_wrong_people_are_refused(changes: dict[str, Any], said: str) -> None:
    right = {"issuer": "https://login.example.com", "audience": AUDIENCE, "roles": ROLES}
    assert parse({"oidc": right}, "f").oidc is not None
    with pytest.raises(SettingsError, match=said.replace(".", r"\.")):
        parse({"oidc": right | changes}, "f")
