"""The API against its own description: no 5xx, no status and no body that the description does not name."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from desk import BASE, Office, a_gateway, add_keys
from hypothesis import HealthCheck, seed, settings
from schemathesis.python import asgi
from schemathesis.specs.openapi.checks import positive_data_acceptance

from bursar.edge.admin.api import description
from bursar.edge.asgi import Receive, Scope, Send


class Served:
    """A gateway with a key of every role, made with the first request: a lifespan would be each test's own."""

    def __init__(self) -> None:
        self.folder = Path()
        self.office: Office | None = None
        self._turn = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for step in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{step}.complete"})
            return
        async with self._turn:
            if self.office is None:
                gateway = a_gateway(self.folder)
                await gateway.start()
                await add_keys(made := Office(gateway))
                self.office = made
        if scope["path"] == STOP:
            await self.office.gateway.stop()
        await self.office.gateway(scope, receive, send)

    def get(self, path: str) -> None:
        with asgi.get_client(self) as client:
            client.get(f"http://testserver{path}")

    def bearer(self, who: str) -> dict[str, str]:
        if self.office is None:
            self.get("/livez")
        assert self.office is not None
        return {"Authorization": f"Bearer {self.office.secrets[who]}"}


STOP = "/stop"
SERVED = Served()
SCHEMA = schemathesis.openapi.from_dict(description())
SCHEMA.app = SERVED


@pytest.fixture(scope="module", autouse=True)
def _served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    SERVED.folder = tmp_path_factory.mktemp("books")
    yield
    SERVED.get(STOP)
    asgi.shutdown_lifespans()


# What is right by its form may still be wrong: a page that no list has, a period that no calendar knows.
BEYOND_THE_SCHEMA = [positive_data_acceptance]


@SCHEMA.exclude(path=f"{BASE}/entries/stream").parametrize()
@seed(20_261_124)
@settings(max_examples=8, suppress_health_check=list(HealthCheck))
def test_every_answer_is_one_that_is_described(case: schemathesis.Case) -> None:
    who = "key" if case.operation.label.endswith("/me") else "admin"
    case.call_and_validate(headers=SERVED.bearer(who), excluded_checks=BEYOND_THE_SCHEMA)
