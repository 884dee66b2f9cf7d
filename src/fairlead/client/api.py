"""The API as a client sees it: one request per call; answers are parsed JSON, refusals raised by their code."""

from typing import Any, Protocol

import httpx2

from fairlead.base.errors import FairleadError, OperatorError
from fairlead.base.version import PUBLIC_MODEL

HEADERS = {"x-avi-version": PUBLIC_MODEL}
"""Of every request: objects are shown whole."""


class Api:
    """A way to a daemon's API, by `_send`. What the daemon refuses is raised as a FairleadError of its code."""

    def get(self, path: str, **params: Any) -> Any:
        """Read *path*; parameters that are None are left out."""
        return self._send("GET", path, params={name: value for name, value in params.items() if value is not None})

    def post(self, path: str, body: Any = None) -> Any:
        """Send *body* as JSON."""
        return self._send("POST", path, json=body)

    def put(self, path: str, body: Any = None) -> Any:
        """Replace *path* by *body*."""
        return self._send("PUT", path, json=body)

    def patch(self, path: str, body: Any = None) -> Any:
        """Change *path* as *body* says."""
        return self._send("PATCH", path, json=body)

    def delete(self, path: str) -> Any:
        """Delete *path*."""
        return self._send("DELETE", path)

    def send(self, method: str, path: str, data: bytes, **params: Any) -> Any:
        """Send *data* as it is."""
        return self._send(method, path, content=data, params=params)

    def _send(self, method: str, path: str, **content: Any) -> Any:
        raise NotImplementedError


class Response(Protocol):
    """What of an answer is looked at."""

    status_code: int

    @property
    def text(self) -> str:
        """The body as text."""
        ...

    @property
    def headers(self) -> Any:
        """Its header fields."""
        ...

    @property
    def content(self) -> bytes:
        """The body."""
        ...

    def json(self) -> Any:
        """What it says."""
        ...


def content(response: Response) -> Any:
    """The answer's JSON, None for an empty one, the text of what is text; an error as the exception that it means."""
    kind = response.headers.get("content-type", "")
    if response.status_code < 400 and kind.startswith(("application/x-ndjson", "text/plain")):
        return response.text
    try:
        said = response.json() if response.content else None
    except ValueError as error:
        raise strange(response.status_code) from error
    if response.status_code < 400:
        return said
    match said:
        case {"error": str(text), "code": str(code), **rest}:
            raise FairleadError(code, text, str(rest.get("remedy") or ""))
        case _:
            raise strange(response.status_code)


def strange(status: int) -> OperatorError:
    """What to say of an answer that is none of ours."""
    return OperatorError("FL-DAEMON-ANSWER", f"the daemon's answer ({status}) is none that this version understands",
                         "see that the command and the daemon are of the same version")


def late(error: httpx2.TransportError, timeout: float) -> OperatorError:
    """What to say when an answer did not come, or not whole."""
    if isinstance(error, httpx2.TimeoutException):
        return OperatorError("FL-DAEMON-ANSWER", f"the daemon did not answer within {timeout:g} seconds",
                             "see its log; what was asked for may still be done")
    return OperatorError("FL-DAEMON-ANSWER", f"the daemon cut the connection off ({error})",
                         "see its log; what was asked for may have been done")
