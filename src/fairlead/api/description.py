"""The description of the API (OpenAPI 3.1), made from the routes that are served.

Nothing in it is said twice by hand: permissions are those that the doors of the routes check, fields those of the
models that read them. So it cannot promise a route that is not there, nor leave one out; a test holds both.
"""

from collections.abc import Callable, Iterable

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from fairlead.api.application import SESSION_COOKIES, needs, permission_of
from fairlead.api.documented import Extra, Problem, components
from fairlead.objects.model import Kind

PATH = "/api/openapi.json"
_PROBLEM = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
_TEXT = {"text/plain": {"schema": {"type": "string"}}}
_WORDS = {400: "The request is not as described, or what it asks for cannot be done.", 401: "Nobody is logged in.",
          403: "The permission is missing, or the page that sent this is of another site.",
          404: "There is no such object.", 409: "What is there stands in the way.",
          412: "It was changed since it was read.", 413: "The body is too large.", 429: "Too many at once.",
          503: "The store is not there, or has no quorum; nothing was changed."}
_BODIES = ("post", "put", "patch")
_SECURITY: Extra = {
    "session": {"type": "apiKey", "in": "cookie", "name": SESSION_COOKIES[1],
                "description": f"Set by POST /login, also as {SESSION_COOKIES[0]}."},
    "csrf": {"type": "apiKey", "in": "header", "name": "X-CSRFToken",
             "description": "On writes of a session: what the cookie csrftoken says."},
    "bearer": {"type": "http", "scheme": "bearer", "description": "A token of POST /api/apitoken."},
    "basic": {"type": "http", "scheme": "basic",
              "description": "Where allow_basic_authentication of the portal configuration is on."}}
"""How requests say who sends them. Another way is one more entry here, and one in `_demands`."""


def routes(kinds: Callable[[], Iterable[Kind]]) -> APIRouter:
    """GET openapi.json; *kinds*: those that there are, once all are known."""
    router = APIRouter(tags=["System"])
    made: list[Extra] = []

    @router.get(PATH, summary="This description", responses={200: {
        "description": "OpenAPI 3.1.", "content": {"application/json": {"schema": {
            "type": "object", "required": ["openapi", "info", "paths"]}}}}})
    async def description(request: Request, caller: str = needs("status:read")) -> JSONResponse:  # noqa: ARG001
        if not made:
            made.append(document(request.app, kinds()))
        return JSONResponse(made[0])

    return router


def document(app: FastAPI, kinds: Iterable[Kind]) -> Extra:
    """The description of *app*, whose objects are of *kinds*."""
    served: list[APIRoute] = app.state.routes
    found = get_openapi(title=app.title, version=app.version, routes=app.routes,
                        description="Fairlead: a secure fabric between Controllers and Service Engines.")
    found["servers"] = [{"url": "/"}]
    parts = found.setdefault("components", {})
    schemas = parts.setdefault("schemas", {})
    schemas |= components(dict.fromkeys(kinds)) | {"Problem": Problem.model_json_schema()}
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    parts["securitySchemes"] = dict(_SECURITY)
    for route in served:
        for method in route.methods or () if route.include_in_schema else ():
            _complete(found["paths"][route.path_format][method.lower()], method.lower(), route)
    return found


def _complete(operation: Extra, method: str, route: APIRoute) -> None:
    """Say of one operation what its function's signature does not: its door, and how it refuses."""
    permission = permission_of(route)
    operation["operationId"] = _name(method, route.path_format)
    operation["security"] = _demands(method, permission)
    door = f"Needs the permission `{permission}`." if permission else "Open to everybody."
    operation["description"] = f"{operation['description']}\n\n{door}" if operation.get("description") else door
    operation["x-permission"] = permission
    operation["responses"].pop("422", None)
    for answer in operation["responses"].values():
        for content in answer.get("content", {}).values():
            if "$ref" in content["schema"]:  # beside it stands what the function's annotation says, which is less
                content["schema"] = {"$ref": content["schema"]["$ref"]}
    for status in _refusals(method, route.path_format, permission):
        content = _PROBLEM | (_TEXT if status == 401 and method != "get" else {})
        operation["responses"].setdefault(str(status), {"description": _WORDS[status], "content": content})


def _demands(method: str, permission: str | None) -> list[dict[str, list[str]]]:
    """One of these has to be shown."""
    if permission is None:
        return []
    return [{"session": []} if method == "get" else {"session": [], "csrf": []}, {"bearer": []}, {"basic": []}]


def _refusals(method: str, path: str, permission: str | None) -> list[int]:
    """The statuses of refusals that can come."""
    found = [400, 429, 503]
    if permission is not None or path == "/login":
        found += [401, 403]
    if permission is None and method == "post":
        found.append(403)
    if "{" in path or method != "post" or permission is not None:
        found.append(404)
    if method in _BODIES:
        found.append(413)
    if method != "get":
        found += [409, 412]
    return sorted(set(found))


def _name(method: str, path: str) -> str:
    return "_".join([method, *(part.strip("{}") for part in path.split("/") if part not in ("", "api"))])
