"""A whole gateway in this process, spoken to over ASGI, and a key of every role."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bursar.clock import Instant
from bursar.edge.app import Gateway, create_app
from bursar.edge.callers import digest, new_run_secret, new_secret, template_to_json, terms_to_json
from bursar.ledger.account import Limits, OpenScope
from bursar.settings import parse
from bursar.stores import open_store

BASE = "/bursar/v1"
TEMPLATE = Limits(usd=5_000_000_000, calls=100)
DECLARED_ENV = "BURSAR_ADMIN_TEST_KEY"
DECLARED = "declared-admin-secret-for-tests"


@dataclass(frozen=True)
class Answered:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        assert set(self.json) == {"error"}
        assert {"code", "message", "fields"} == set(self.json["error"])
        return str(self.json["error"]["code"])


@dataclass
class Office:
    gateway: Gateway
    secrets: dict[str, str] = field(default_factory=dict)
    last: Answered = Answered(0, {}, b"")

    async def ask(self, method: str, path: str, body: object = None, who: str = "admin", **more: str) -> Answered:
        headers = {name.replace("_", "-"): value for name, value in more.items()}
        if secret := self.secrets.get(who, who):
            headers.setdefault("authorization", f"Bearer {secret}")
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        if raw:
            headers.setdefault("content-type", "application/json")
        return await self.send(method, path, raw, list(headers.items()))

    async def send(self, method: str, path: str, raw: bytes, headers: list[tuple[str, str]]) -> Answered:
        target, _, query = f"{BASE}{path}".partition("?")
        sent: list[dict[str, Any]] = []
        incoming = [{"type": "http.request", "body": raw, "more_body": False}]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": target,
            "raw_path": target.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
            "client": ("127.0.0.1", 50_000),
            "server": ("testserver", 80),
        }

        async def receive() -> dict[str, Any]:
            return incoming.pop() if incoming else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        try:
            await self.gateway(scope, receive, send)
        finally:
            head = {name.decode(): value.decode("latin-1") for name, value in sent[0]["headers"]}
            body = b"".join(one.get("body", b"") for one in sent[1:])
            self.last = Answered(sent[0]["status"], head, body)
        return self.last


def settings(**more: Any) -> dict[str, Any]:
    os.environ[DECLARED_ENV] = DECLARED
    declared = {"boss": {"key_env": DECLARED_ENV, "role": "admin"}}
    mine = {"upstreams": {"openai": {"base_url": "http://127.0.0.1:9", "key_env": "NOBODY"}}, "keys": declared}
    return mine | more


def a_gateway(folder: Path, **more: Any) -> Gateway:
    return create_app(parse(settings(**more), "test"), open_store(f"sqlite:///{folder / 'ledger.db'}"), {})


async def add_keys(office: Office) -> None:
    """Make a key of every role, one that is revoked, one that has expired, and one that nobody has."""
    store = office.gateway.store
    await store.submit(OpenScope("key:ci", "", Limits()))
    await store.submit(OpenScope("run:r1", "key:ci", TEMPLATE, path=("tag:env=prod",)))
    template = template_to_json(TEMPLATE)
    for role in ("viewer", "operator", "admin", "revoked", "expired"):
        secret = office.secrets[role] = new_secret()
        terms = terms_to_json({"role": role if role in ("viewer", "operator", "admin") else "admin"})
        end = Instant(1) if role == "expired" else None
        await store.put_key(role, digest(secret), "", template_to_json(Limits()), terms, end)
    await store.revoke_key("revoked")
    office.secrets |= {"key": new_secret(), "run": new_run_secret(), "none": "", "unknown": new_secret()}
    await store.put_key("ci", digest(office.secrets["key"]), "", template, "{}")
    await store.put_key("ci", digest(office.secrets["run"]), "r1", template, "{}")


@asynccontextmanager
async def an_office(folder: Path, **more: Any) -> AsyncIterator[Office]:
    gateway = a_gateway(folder, **more)
    await gateway.start()
    office = Office(gateway)
    await add_keys(office)
    try:
        yield office
    finally:
        await gateway.stop()
