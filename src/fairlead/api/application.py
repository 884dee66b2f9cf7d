"""One application behind 443 and the control socket: its routes, who may use them, and how it refuses.

Rules:

1. Every route names the permission that it needs, or is public by name: version and health. `build` refuses a router
   that forgot, so a route without a decision cannot be served.
2. Who asks is known from the door: on the control socket the kernel names the process's user, and only root and the
   daemon's own user get in. Behind 443 nobody is known yet: there, what is not public is refused.
3. Errors are ``{"error", "code", "remedy"}``; nothing else, and never a traceback.
"""

import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from fairlead.base.errors import FairleadError, OperatorError, Refused

log = structlog.get_logger("fairlead.api")

_NOT_FOUND = frozenset(("FL-NODE-UNKNOWN", "FL-SERVICE-UNKNOWN", "FL-TOKEN-UNKNOWN"))
_FORBIDDEN = frozenset(("FL-LOGIN", "FL-PERMISSION"))


class Permission:
    """A route's door. The caller's name is what audit records say."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, request: Request) -> str:
        """Who asks. Raises Refused FL-LOGIN or FL-PERMISSION."""
        uid = request.scope.get("extensions", {}).get("fairlead", {}).get("peer_uid")
        if uid is None:
            raise Refused("FL-LOGIN", "log in first", "use the command line on a Controller")
        if uid not in (0, os.geteuid()):
            raise Refused("FL-PERMISSION", f"user id {uid} may not operate this node",
                          "become root or the daemon's own user")
        return "root" if uid == 0 else f"uid {uid}"


def build(routers: Sequence[APIRouter], *, version: str, public: frozenset[str]) -> FastAPI:
    """The application of *routers*; *public*: paths that need no permission. ValueError when a route has none."""
    app = FastAPI(title="fairlead", version=version, openapi_url=None, docs_url=None, redoc_url=None)
    for router in routers:
        for route in router.routes:
            if isinstance(route, APIRoute) and route.path not in public and permission_of(route) is None:
                raise ValueError(f"{route.path} names no permission")
        app.include_router(router)
    app.add_exception_handler(FairleadError, _handled(_refused))
    app.add_exception_handler(RequestValidationError, _handled(_malformed))
    app.add_exception_handler(HTTPException, _handled(_http))
    return app


def permission_of(route: APIRoute) -> str | None:
    """The permission that a route asks for."""
    return next((d.call.name for d in route.dependant.dependencies if isinstance(d.call, Permission)), None)


def needs(name: str) -> Any:
    """The parameter default of a handler: the caller's name, once he holds the permission *name*."""
    return Depends(Permission(name))


def problem(status: int, error: FairleadError) -> JSONResponse:
    """The refusal as every client reads it."""
    return JSONResponse({"error": error.message, "code": error.code, "remedy": error.remedy}, status)


async def _refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, FairleadError)
    if error.code in _FORBIDDEN:
        return problem(401 if error.code == "FL-LOGIN" else 403, error)
    if error.code in _NOT_FOUND:
        return problem(404, error)
    if error.code in ("FL-STORE", "FL-ETCD-SPACE"):
        return problem(503, error)
    return problem(409 if isinstance(error, OperatorError) else 400, error)


async def _malformed(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:])
    return problem(400, Refused("FL-API-FORMAT", f"{where}: {first['msg']}" if where else str(first["msg"])))


async def _http(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = {404: "FL-API-ROUTE", 405: "FL-API-METHOD"}.get(error.status_code, "FL-API")
    return problem(error.status_code, Refused(code, str(error.detail)))


def _handled(handler: Callable[[Request, Exception], Awaitable[JSONResponse]]) -> Any:
    return handler


def collection(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A listing: ``count`` and ``results``, as clients of the public object model expect it."""
    return {"count": len(results), "results": list(results)}
