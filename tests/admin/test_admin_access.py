"""Every route x everybody who may ask, from the description itself: a route without a rule cannot be made."""

from __future__ import annotations

from pathlib import Path

import pytest
from desk import BASE, DECLARED, Office, an_office
from fastapi import APIRouter

from bursar.edge.admin.api import application, description
from bursar.edge.admin.guard import GuardedRoute

ROLES = ("viewer", "operator", "admin", "key", "run")
NOBODY = ("none", "unknown", "revoked", "expired")
# What the issue of roles says, written down a second time.
VIEWS, OPERATES, ADMINISTERS = {"viewer", "operator", "admin"}, {"operator", "admin"}, {"admin"}
MAY = {
    "GET /runs": VIEWS,
    "POST /runs": OPERATES | {"key"},
    "GET /runs/{run}": VIEWS,
    "POST /runs/{run}/raise": OPERATES,
    "POST /runs/{run}/stop": OPERATES,
    "POST /runs/{run}/resume": OPERATES,
    "GET /me": {"key", "run"},
    "GET /budgets": VIEWS,
    "POST /budgets": OPERATES,
    "DELETE /budgets/{budget}": OPERATES,
    "GET /holds": VIEWS,
    "GET /holds/{call}": VIEWS,
    "GET /entries": VIEWS,
    "GET /entries/stream": VIEWS,
    "GET /quarantine": VIEWS,
    "POST /quarantine/clear": OPERATES,
    "GET /prices": VIEWS,
    "GET /keys": ADMINISTERS,
    "POST /keys": ADMINISTERS,
    "GET /keys/{key}": ADMINISTERS,
    "POST /keys/{key}/rotate": ADMINISTERS,
    "DELETE /keys/{key}": ADMINISTERS,
}


def routes() -> dict[str, set[str]]:
    return {
        f"{method.upper()} {path.removeprefix(BASE)}": set(one["x-roles"])
        for path, methods in description()["paths"].items()
        for method, one in methods.items()
    }


def test_the_roles_of_every_route_are_the_ones_that_were_meant() -> None:
    assert routes() == MAY


def test_a_route_that_names_no_role_cannot_be_made() -> None:
    router = APIRouter(route_class=GuardedRoute)

    async def handler() -> str:
        return ""

    with pytest.raises(KeyError, match="x-roles"):
        router.add_api_route("/open", handler)


def test_every_route_is_guarded_but_for_the_description() -> None:
    open_routes = [
        getattr(route, "path", "") for route in application().router.routes if not isinstance(route, GuardedRoute)
    ]
    paths = {path for path in open_routes if path}
    assert paths <= {f"{BASE}/openapi.json", f"{BASE}/docs"}, paths


async def test_every_route_lets_in_whom_it_names_and_nobody_else(office: Office) -> None:
    wrong = []
    for route, roles in routes().items():
        method, _, path = route.partition(" ")
        asked = path.replace("{", "").replace("}", "")
        for who in (*ROLES, *NOBODY):
            if who in roles and asked == "/entries/stream":
                continue  # followed elsewhere; it lasts
            got = await office.ask(method, asked, who=who)
            if who in NOBODY:
                is_right = got.status == 401 and got.code == "invalid_key" and got.headers["www-authenticate"]
            elif who in roles:
                is_right = got.status not in (401, 403) and got.status < 500
            else:
                is_right = got.status == 403 and got.code == "forbidden"
            if not is_right:
                wrong.append((route, who, got.status, got.body))
    assert not wrong


async def test_a_key_of_the_settings_manages_with_the_role_that_it_has_there(office: Office) -> None:
    assert (await office.ask("GET", "/keys", who=DECLARED)).status == 200


async def test_a_role_that_is_taken_away_is_gone_with_the_next_request(office: Office) -> None:
    assert (await office.ask("GET", "/runs", who="viewer")).status == 200
    await office.gateway.store.revoke_key("viewer")
    assert (await office.ask("GET", "/runs", who="viewer")).status == 401


async def test_two_headers_that_decide_who_asks_are_refused(office: Office) -> None:
    admin = ("authorization", f"Bearer {office.secrets['admin']}")
    for other in (admin, ("authorization", f"Bearer {office.secrets['viewer']}")):
        got = await office.send("GET", "/runs", b"", [admin, other])
        assert (got.status, got.code) == (400, "unreadable")
    got = await office.send("GET", "/runs", b"", [admin, ("x-api-key", office.secrets["viewer"])])
    assert (got.status, got.code) == (401, "invalid_key")


async def test_a_key_that_may_be_used_elsewhere_only_is_refused(tmp_path: Path) -> None:
    async with an_office(tmp_path) as office:
        body = {"name": "far", "role": "admin", "networks": ["10.9.0.0/16"]}
        secret = (await office.ask("POST", "/keys", body)).json["secret"]
        got = await office.ask("GET", "/runs", who=secret)
        assert (got.status, got.code) == (403, "network_not_allowed")
