"""One application behind 443 and the control socket: its routes, who may use them, and how it refuses.

Rules:

1. Every route names the permission that it needs, or is public by name. `build` refuses a router that forgot, so a
   route without a decision cannot be served.
2. Who asks is known from the door: on the control socket the kernel names the process's user, and only root and the
   daemon's own user get in. Behind 443 it is whoever the session belongs to, and what his role permits. A request on
   the control socket that shows a session, or tries to, is that person's alone, as behind 443: it is made for somebody
   who came in over SSH, and nothing that goes wrong with his session gives him the rights of the process.
3. A session's cookie alone changes nothing: any other page makes a browser send it. Whoever writes also shows the token
   that belongs to the session, which that page cannot read; and a browser names where a write comes from: here,
   over TLS.
   By which name we were asked for decides nothing: a browser shows a session's cookie under the name that it logged in
   at, and under no other one that leads here (`docs/decisions/0019-any-host.md`).
4. Errors are ``{"error", "code", "remedy"}``; nothing else, and never a traceback.
"""

import base64
import hmac
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import structlog
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from fastapi.routing import APIRoute
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from fairlead.api.headers import Headers
from fairlead.base.errors import FairleadError, OperatorError, Refused
from fairlead.users.roles import Person, permits

log = structlog.get_logger("fairlead.api")

SESSION_COOKIES = ("avi-sessionid", "sessionid")
"""Both hold the session's secret: clients of the public object model know it by either name."""
_NOT_FOUND = frozenset(("FL-API-TOKEN-UNKNOWN", "FL-NODE-UNKNOWN", "FL-OBJECT-UNKNOWN", "FL-SERVICE-UNKNOWN",
                        "FL-TENANT", "FL-TOKEN-UNKNOWN", "FL-USER-KEY-UNKNOWN", "FL-USER-UNKNOWN"))
_STATUS = {"FL-PASSWORD": 400, "FL-SSH-ALGORITHM": 400, "FL-LOGIN": 401, "FL-LOGIN-BASIC": 401, "FL-LOGIN-LOCKED": 401,
           "FL-ORIGIN": 403, "FL-PERMISSION": 403, "FL-OBJECT-EXISTS": 409, "FL-OBJECT-REFERRED": 409,
           "FL-SERVICE-EXISTS": 409, "FL-USER-EXISTS": 409, "FL-OBJECT-STALE": 412, "FL-LOGIN-BUSY": 429,
           "FL-STORE": 503, "FL-ETCD-SPACE": 503}
_MOST_SECRETS = 4
_IN_SESSION = ("authorization", "cookie", "x-csrftoken")
_READING = frozenset(("GET", "HEAD"))


class Knowing(Protocol):
    """Who knows whose session is whose."""

    async def who(self, secrets: Sequence[str]) -> Person | None:
        """Whose session the first of *secrets* is that is one."""
        ...

    async def basic(self, name: str, password: str, source: str) -> Person:
        """Who sends his password along. Raises Refused."""
        ...

    async def bearer(self, text: str, permission: str, source: str) -> Person:
        """Whose token it is, if it may what needs *permission*. Raises Refused."""
        ...


class Permission:
    """A route's door. The caller's name is what audit records say."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def __call__(self, request: Request) -> str:
        """Who asks. Raises Refused FL-LOGIN, FL-CSRF, FL-ORIGIN or FL-PERMISSION."""
        uid = request.scope.get("extensions", {}).get("fairlead", {}).get("peer_uid")
        if uid is None:
            return await self._from_afar(request)
        if uid not in (0, os.geteuid()):
            raise Refused("FL-PERMISSION", f"user id {uid} may not operate this node",
                          "become root or the daemon's own user")
        if any(name in request.headers for name in _IN_SESSION):
            return await self._from_afar(request)
        return "root" if uid == 0 else f"uid {uid}"

    async def _from_afar(self, request: Request) -> str:
        people: Knowing | None = request.app.state.people
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        source = request.scope.get("extensions", {}).get("fairlead", {}).get("source") or ""
        if people is None:
            person: Person | None = None
        elif kind.lower() == "bearer":
            person = await people.bearer(given, self.name, source)
        elif kind:
            person = await people.basic(*_basic(kind, given), source)
        else:
            person = await self._in_session(request, people)
        if person is None:
            raise Refused("FL-LOGIN", "log in first", "`fairlead login URL`, or use the command line on a Controller")
        if not permits(person.role, self.name):
            raise Refused("FL-PERMISSION", f"{person.name} is {person.role}, which does not permit {self.name}",
                          "ask an admin")
        return person.name

    async def _in_session(self, request: Request, people: Knowing) -> Person | None:
        person = await people.who(session_secrets(request))
        if person is not None and request.method not in _READING:
            check_origin(request)
            shown = request.headers.get("x-csrftoken", "")
            if not hmac.compare_digest(shown.encode(), person.csrf.encode()):
                raise Refused("FL-CSRF", "CSRF token missing or incorrect.")
        return person


def _basic(kind: str, given: str) -> tuple[str, str]:
    """Name and password that a request brings along (RFC 7617). Raises Refused FL-LOGIN."""
    try:
        if kind.lower() != "basic":
            raise ValueError("another way")
        name, colon, password = base64.b64decode(given, validate=True).decode().partition(":")
        if not colon:
            raise ValueError("no password")
    except ValueError:
        raise Refused("FL-LOGIN", "the Authorization header is none that is taken here",
                      "send a token as Bearer, or log in") from None
    return name, password


async def caller_of(request: Request, permission: str) -> str | None:
    """Who asks, if he holds the *permission*; None for a stranger at a door that is open to strangers."""
    try:
        return await Permission(permission)(request)
    except Refused:
        return None


def session_secrets(request: Request) -> list[str]:
    """What a request's cookies say, each once: a client may send an old one beside the one that is good."""
    pairs = (part.strip().partition("=") for line in request.headers.getlist("cookie") for part in line.split(";"))
    return list(dict.fromkeys(value.strip('"') for name, _, value in pairs if name in SESSION_COOKIES))[:_MOST_SECRETS]


def check_origin(request: Request) -> None:
    """Refuse a write that a browser says comes from another site's page. Raises Refused FL-ORIGIN.

    A page that came from this very place without TLS is another site's: anybody on the way has written it.
    """
    here = _origin(f"https://{request.headers.get('host', '')}")
    if any(_origin(origin) != here for origin in request.headers.getlist("origin")):
        raise Refused("FL-ORIGIN", "the request comes from a page of another site")


def _origin(said: str) -> str:
    """An origin without the port that goes without saying. Compared as a whole: what is none equals none."""
    return said.lower().removesuffix(":443")


def build(routers: Sequence[APIRouter], *, version: str, public: frozenset[str],
          people: Knowing | None = None, admits: Callable[[str | None], bool] | None = None) -> FastAPI:
    """The application of *routers*; *public*: paths that need no permission. ValueError when a route has none.

    Without *people* nobody is known but processes of this machine. *admits*: whether somebody at an address may come.
    """
    app = FastAPI(title="fairlead", version=version, openapi_url=None, docs_url=None, redoc_url=None)
    app.state.people = people
    app.state.routes = [route for router in routers for route in router.routes if isinstance(route, APIRoute)]
    for router in routers:
        for route in router.routes:
            if isinstance(route, APIRoute) and route.path not in public and permission_of(route) is None:
                raise ValueError(f"{route.path} names no permission")
        app.router.routes.extend(router.routes)  # flat: a router in between is searched for, too, and costs more
    app.router.redirect_slashes = False
    app.add_middleware(_Plain)
    if admits is not None:
        app.add_middleware(_Gate, admits=admits)
    app.add_middleware(Headers)
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


class Json(JSONResponse):
    """JSON by pydantic's encoder: of a thousand objects in a third of the time that the standard library takes."""

    def render(self, content: Any) -> bytes:
        """The body."""
        return to_json(content, inf_nan_mode="null")


def problem(status: int, error: FairleadError) -> JSONResponse:
    """The refusal as every client reads it."""
    return JSONResponse({"error": error.message, "code": error.code, "remedy": error.remedy}, status)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, FairleadError)
    if error.code == "FL-CSRF":  # in the words, and without the braces, that clients log in again for
        return PlainTextResponse(error.message, 401)
    if error.code in _NOT_FOUND:
        return problem(404, error)
    return problem(_STATUS.get(error.code) or (409 if isinstance(error, OperatorError) else 400), error)


async def _malformed(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:])
    return problem(400, Refused("FL-API-FORMAT", f"{where}: {first['msg']}" if where else str(first["msg"])))


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = {404: "FL-API-ROUTE", 405: "FL-API-METHOD"}.get(error.status_code, "FL-API")
    text = f"Method {request.method!r} not allowed" if error.status_code == 405 else str(error.detail)
    answer = problem(error.status_code, Refused(code, text))
    if error.status_code == 405:
        answer.headers["allow"] = ", ".join(sorted(_methods(request)))
    return answer


def _methods(request: Request) -> set[str]:
    """Those of every route that has the request's path."""
    return {method for route in request.app.state.routes if route.path_regex.fullmatch(request.scope["path"])
            for method in route.methods}


class _Plain:
    """Takes the slash off the end of a path: clients write it, and what is there is the same."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        if scope["type"] == "http" and len(scope["path"]) > 1:
            scope = dict(scope) | {"path": scope["path"].removesuffix("/")}
        await self._app(scope, receive, send)


class _Gate:
    """Answers nobody who comes from where nobody may come, whatever he asks for."""

    def __init__(self, app: ASGIApp, admits: Callable[[str | None], bool]) -> None:
        self._app = app
        self._admits = admits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or refuse it."""
        source = scope.get("extensions", {}).get("fairlead", {}).get("source")
        if self._admits(source):
            await self._app(scope, receive, send)
        else:
            refusal = Refused("FL-SOURCE", "nobody may use the API from there", "ask an admin to let that network in")
            await problem(403, refusal)(scope, receive, send)


def _handled(handler: Callable[[Request, Exception], Awaitable[Response]]) -> Any:
    return handler


def collection(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A listing: ``count`` and ``results``, as clients of the public object model expect it."""
    return {"count": len(results), "results": list(results)}
