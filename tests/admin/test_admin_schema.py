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
    """A gateway with a key of every role, made when it is asked for the first time."""

    def __init__(self) -> None:
        self.folder = Path()
        self.office: Office | None = None
        self._turn = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.office is None:
            self.office = Office(a_gateway(self.folder))
        if scope["type"] == "http":
            async with self._turn:
                if not self.office.secrets:
                    await add_keys(self.office)
        await self.office.gateway(scope, receive, send)

    def bearer(self, who: str) -> dict[str, str]:
        with asgi.get_client(self) as client:
            client.get("http://testserver/livez")
        assert self.office is not None
        return {"Authorization": f"Bearer {self.office.secrets[who]}"}


SERVED = Served()
SCHEMA = schemathesis.openapi.from_dict(description())
SCHEMA.app = SERVED


@pytest.fixture(scope="module", autouse=True)
def _served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    SERVED.folder = tmp_path_factory.mktemp("books")
    yield
    asgi.shutdown_lifespans()


# What is right by its form may still be wrong: a page that no list has, a period that no calendar knows.
BEYOND_THE_SCHEMA = [positive_data_acceptance]


@SCHEMA.exclude(path=f"{BASE}/entries/stream").parametrize()
@seed(20_261_124)
@settings(max_examples=12, suppress_health_check=list(HealthCheck))
def test_every_answer_is_one_that_is_described(case: schemathesis.Case) -> None:
    who = "key" if case.operation.label.endswith("/me") else "admin"
    case.call_and_validate(headers=SERVED.bearer(who), excluded_checks=BEYOND_THE_SCHEMA)
