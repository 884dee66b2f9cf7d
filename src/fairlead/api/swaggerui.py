"""Swagger UI: pages that show the description of the API. They are static, hold no data, and ask for no login.

Rules, and the attack each stops:

1. Only the files that are named here are served, each by a route of its own: no path of a request reaches the disk.
2. The policy lets the pages run scripts and use styles of this site only, none of them inline, and talk to this site
   only: what a description or an answer holds cannot become code, nor be sent elsewhere.
3. They may be shown inside of no other page, and may be switched off: ``portal_configuration.disable_swagger``.
"""

from collections.abc import Callable
from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import Response
from starlette.exceptions import HTTPException

FILES = {"/swagger": ("page.html", "text/html; charset=utf-8"),
          "/swagger/page.js": ("page.js", "text/javascript; charset=utf-8"),
          "/swagger/page.css": ("page.css", "text/css; charset=utf-8"),
          "/swagger/swagger-ui-bundle.js": ("swagger-ui-bundle.js", "text/javascript; charset=utf-8"),
          "/swagger/swagger-ui.css": ("swagger-ui.css", "text/css; charset=utf-8"),
          "/swagger/favicon-32x32.png": ("favicon-32x32.png", "image/png")}
"""Path: file, and what it is."""
PUBLIC = frozenset(FILES)
POLICY = ("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
          "frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
"""``data:`` is for the pictures inside of swagger-ui.css. Swagger UI sets styles by script, which needs no more."""
_HEADERS = {"content-security-policy": POLICY, "cache-control": "no-cache", "referrer-policy": "no-referrer"}


def routes(disabled: Callable[[], bool]) -> APIRouter:
    """GET swagger, and its files; 404 while *disabled* says so."""
    router = APIRouter(include_in_schema=False)
    for path, (name, media_type) in FILES.items():
        router.add_api_route(path, _serving(name, media_type, disabled), methods=["GET"])
    return router


def _serving(name: str, media_type: str, disabled: Callable[[], bool]) -> Callable[[], Response]:
    content = (files("fairlead.api") / "swagger" / name).read_bytes()

    def serve() -> Response:
        if disabled():
            raise HTTPException(404)
        return Response(content, media_type=media_type, headers=_HEADERS)

    return serve
