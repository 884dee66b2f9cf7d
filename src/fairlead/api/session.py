"""Logging in and out, in the form that clients of the public object model know."""

from collections.abc import Callable, Sequence
from typing import Protocol
from urllib.parse import parse_qsl

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from fairlead.api import answers
from fairlead.api.application import SESSION_COOKIES, check_origin, session_secrets
from fairlead.api.documented import answer
from fairlead.api.welcome import Welcome
from fairlead.base import strict
from fairlead.base.clock import SECOND
from fairlead.base.errors import Refused
from fairlead.users.accounts import Account
from fairlead.users.sessions import csrf_of

PUBLIC = frozenset(("/login", "/logout"))
MOST_BYTES = 4096
_CSRF_S = 31_449_600
_FIELDS = {"type": "object", "required": ["username", "password"], "properties": {
    "username": {"type": "string"}, "password": {"type": "string", "writeOnly": True}}}
_CREDENTIALS = {"requestBody": {"required": True, "content": {
    kind: {"schema": _FIELDS} for kind in ("application/json", "application/x-www-form-urlencoded")}}}


class LoggingIn(Protocol):
    """Who opens and ends sessions."""

    async def log_in(self, name: str, password: str, source: str) -> tuple[Account, str]:
        """The account, and the secret of a new session. Raises Refused FL-LOGIN, FL-LOGIN-LOCKED, FL-LOGIN-BUSY."""
        ...

    async def log_out(self, secrets: Sequence[str]) -> None:
        """End these sessions."""
        ...


def routes(people: LoggingIn, welcome: Welcome, longest: Callable[[], int]) -> APIRouter:
    """POST /login, /logout. *longest*: how long a session lasts, microseconds."""
    router = APIRouter(tags=["Session"])

    @router.post("/login", summary="Log in", responses=answer(answers.Welcome), openapi_extra=_CREDENTIALS)
    async def login(request: Request) -> JSONResponse:
        check_origin(request)
        source = request.scope.get("extensions", {}).get("fairlead", {}).get("source")
        name, password = _credentials(request.headers.get("content-type", ""), await request.body())
        account, secret = await people.log_in(name, password, source or "")
        answer = JSONResponse(await welcome(request, account), headers={"cache-control": "no-store"})
        answer.set_cookie("csrftoken", csrf_of(secret), max_age=_CSRF_S, path="/", secure=True, samesite="strict")
        for cookie in SESSION_COOKIES:
            answer.set_cookie(cookie, secret, max_age=longest() // SECOND, path="/", secure=True, httponly=True,
                              samesite="strict")
        return answer

    @router.post("/logout", summary="End the session", responses=answer(answers.Empty))
    async def logout(request: Request) -> JSONResponse:
        check_origin(request)
        await people.log_out(session_secrets(request))
        answer = JSONResponse({})
        for cookie in ("csrftoken", *SESSION_COOKIES):
            answer.delete_cookie(cookie, path="/", secure=True, samesite="strict")
        return answer

    return router


def _credentials(kind: str, body: bytes) -> tuple[str, str]:
    """User name and password of a form or of JSON. Raises Refused FL-API-FORMAT, in which nothing of them is shown."""
    try:
        if len(body) > MOST_BYTES:
            raise ValueError("too long")
        if kind.partition(";")[0].strip().lower() == "application/json":
            fields = strict.loads(body)
        else:
            pairs = parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=True, max_num_fields=16)
            fields = dict(pairs)
        name, password = fields["username"], fields["password"]
        if not isinstance(name, str) or not isinstance(password, str):
            raise TypeError("no texts")
    except (ValueError, TypeError, KeyError):
        raise Refused("FL-API-FORMAT", "a log-in has a username and a password",
                      "send them as a form or as JSON") from None
    return name, password
