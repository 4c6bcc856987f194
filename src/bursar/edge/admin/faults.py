"""Errors of the HTTP API: one shape for all of them."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from bursar.edge.admin.books import Problem
from bursar.edge.admin.shapes import Error, ErrorAnswer
from bursar.ledger.store import LedgerUnavailableError

FIELDS_SHOWN_MAX = 10
_CODES = {404: "no_such_path", 405: "method_not_allowed"}


class ProblemError(Exception):
    """Carries a problem out of a handler; nothing was changed."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def answer(
    status: int, code: str, message: str, fields: tuple[str, ...] = (), headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Give an error in the one shape."""
    body = ErrorAnswer(error=Error(code=code, message=message, fields=list(fields)))
    return JSONResponse(body.model_dump(), status, headers)


def add_handlers(app: FastAPI) -> None:
    """Answer every error in the one shape."""
    app.add_exception_handler(ProblemError, _problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(LedgerUnavailableError, _unavailable)
    app.add_exception_handler(Exception, _bug)


async def _problem(request: Request, error: Exception) -> JSONResponse:
    problem = error.problem if isinstance(error, ProblemError) else Problem(500, "internal", "")
    headers = {"www-authenticate": "Bearer"} if problem.status == 401 else None
    return answer(problem.status, problem.code, problem.message, headers=headers)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    """Name the fields and what is wrong with them, never what was sent: it may be a secret in the wrong place."""
    found = error.errors() if isinstance(error, RequestValidationError) else ()
    lines = {".".join(str(part) for part in one["loc"]): str(one["msg"]) for one in found[:FIELDS_SHOWN_MAX]}
    said = "; ".join(f"{field}: {message}" for field, message in lines.items())
    return answer(422, "invalid", f"the request cannot be used: {said}", tuple(lines))


async def _http(request: Request, error: Exception) -> JSONResponse:
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 405:
        allowed = ", ".join(sorted(_methods(request)))
        message = f"{request.url.path} takes {allowed}"
        return answer(405, "method_not_allowed", message, headers={"allow": allowed})
    detail = error.detail if isinstance(error, HTTPException) else ""
    message = f"there is nothing at {request.url.path}" if status == 404 else detail
    return answer(status, _CODES.get(status, "unreadable"), message)


def _methods(request: Request) -> set[str]:
    """Give the methods of all routes with this path; the framework's own answer names those of one."""
    return {
        method
        for path, methods in request.app.state.methods
        if path.match(request.url.path)
        for method in (methods | {"HEAD"} if "GET" in methods else methods)
    }


async def _unavailable(request: Request, error: Exception) -> JSONResponse:
    return answer(503, "ledger_unavailable", f"the ledger cannot be asked now: {error}", headers={"retry-after": "1"})


async def _bug(request: Request, error: Exception) -> JSONResponse:
    return answer(500, "internal", "internal error, see the gateway's log")
