"""The HTTP API as one ASGI application, and its description, which is made from the same code."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib import metadata
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.telemetry import TelemetryConfig
from starlette.routing import compile_path

from bursar.edge.admin import book_routes, key_routes, run_routes
from bursar.edge.admin.door import PREFIX
from bursar.edge.admin.faults import add_handlers
from bursar.edge.admin.guard import GuardedRoute
from bursar.edge.admin.page import render

ABOUT = """\
Keys, budgets, runs, holds and entries of a bursar gateway.

Send a key as `Authorization: Bearer KEY`. `x-roles` of each operation says which roles may use it: `viewer` reads,
`operator` also opens, raises, stops and resumes runs, sets budgets and clears quarantine, `admin` also has the keys;
`key` is a key that calls models, `run` the key of one run. Every change is an entry of the ledger that says who made
it.

Lists come in pages: send `next` as `after`. A write may carry an `Idempotency-Key`. Amounts of USD are text.
"""

# Events are what logs and metrics are made from; the framework's own would hold what was sent, and go where the
# environment says.
_SILENT = TelemetryConfig(tracing=False, metrics=False, logs=False, auto_configure=False)
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


@cache
def application() -> FastAPI:
    """Give the application, one for all gateways of a process; the desk comes with each request."""
    app = FastAPI(
        title="bursar",
        version=metadata.version("bursar"),
        description=ABOUT,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
        redirect_slashes=False,
        telemetry=_SILENT,
    )
    add_handlers(app)
    routers = (run_routes.ROUTES, book_routes.ROUTES, key_routes.ROUTES)
    for routes in routers:
        app.include_router(routes, prefix=PREFIX)
    described = _described(app)
    shown, raw = HTMLResponse(render(described), headers={"content-security-policy": _POLICY}), JSONResponse(described)

    async def schema(_request: Request) -> Response:
        return raw

    async def docs(_request: Request) -> Response:
        return shown

    # The two that need no key: they say what anybody can read in the source.
    app.router.add_route(f"{PREFIX}/openapi.json", schema, ["GET"])
    app.router.add_route(f"{PREFIX}/docs", docs, ["GET"])
    open_paths = [(f"{PREFIX}/openapi.json", {"GET"}), (f"{PREFIX}/docs", {"GET"})]
    guarded = [(f"{PREFIX}{one.path}", one.methods) for one in _guarded(routers)]
    app.state.methods = [(compile_path(path)[0], methods) for path, methods in (*open_paths, *guarded)]
    return app


def _guarded(routers: Iterable[APIRouter]) -> list[GuardedRoute]:
    return [route for router in routers for route in router.routes if isinstance(route, GuardedRoute)]


def description() -> dict[str, Any]:
    """Give the OpenAPI description."""
    return _described(application())


def _described(app: FastAPI) -> dict[str, Any]:
    found = app.openapi()
    found["components"]["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
    return found
