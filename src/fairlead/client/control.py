"""The command line's way to the daemon of this machine: the API, over the control socket in the state folder."""

import errno
import os
import ssl
from pathlib import Path
from typing import Any, Protocol

import httpx2

from fairlead.base.errors import FairleadError, OperatorError

SOCKET = "control.sock"


class ControlClient:
    """One request per call; answers are parsed JSON. What the daemon refuses is raised as a FairleadError of its code.

    Every method raises OperatorError as well: ``FL-DAEMON-DOWN``, ``FL-DAEMON-ANSWER``, ``FL-STATE-MISSING``,
    ``FL-STATE-OWNER``.
    """

    def __init__(self, state: Path, timeout: float = 60.0) -> None:
        self._state = state
        self._timeout = timeout

    def get(self, path: str, **params: Any) -> Any:
        """Read *path*; parameters that are None are left out."""
        return self._send("GET", path, params={name: value for name, value in params.items() if value is not None})

    def post(self, path: str, body: Any = None) -> Any:
        """Send *body* as JSON."""
        return self._send("POST", path, json=body)

    def put(self, path: str, body: Any = None) -> Any:
        """Replace *path* by *body*."""
        return self._send("PUT", path, json=body)

    def delete(self, path: str) -> Any:
        """Delete *path*."""
        return self._send("DELETE", path)

    def _send(self, method: str, path: str, **content: Any) -> Any:
        try:
            folder = os.open(self._state, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise self._no_folder(error) from error
        try:
            # The address of a unix socket holds 107 bytes; the path of a state folder may be longer. The context
            # trusts nobody and is never used: the default one would read certificates that the environment names.
            transport = httpx2.HTTPTransport(uds=f"/proc/self/fd/{folder}/{SOCKET}", trust_env=False,
                                             verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
            with httpx2.Client(transport=transport, base_url="http://fairlead", trust_env=False,
                               timeout=self._timeout) as client:
                response = client.request(method, path, **content)
        except httpx2.ConnectError as error:
            raise self._down(error) from error
        except httpx2.TimeoutException as error:
            raise OperatorError("FL-DAEMON-ANSWER", f"the daemon did not answer within {self._timeout:g} seconds",
                                "see its log; what was asked for may still be done") from error
        except httpx2.TransportError as error:
            raise OperatorError("FL-DAEMON-ANSWER", f"the daemon cut the connection off ({error})",
                                "see its log; what was asked for may have been done") from error
        finally:
            os.close(folder)
        return _content(response)

    def _down(self, error: BaseException) -> OperatorError:
        if _errno(error) in (errno.EACCES, errno.EPERM):
            return self._not_ours()
        return OperatorError("FL-DAEMON-DOWN", f"no fairlead runs with the state folder {self._state}",
                             "start it with `fairlead controller run` or `fairlead engine run`")

    def _no_folder(self, error: OSError) -> OperatorError:
        if error.errno in (errno.EACCES, errno.EPERM):
            return self._not_ours()
        return OperatorError("FL-STATE-MISSING", f"there is no state folder at {self._state}: {error.strerror}",
                             "name the node's folder with --state, or make the node first")

    def _not_ours(self) -> OperatorError:
        return OperatorError("FL-STATE-OWNER", f"the state folder {self._state} is not this user's",
                             "run the command as the folder's owner")


class _Response(Protocol):
    status_code: int

    @property
    def content(self) -> bytes: ...

    def json(self) -> Any: ...


def _content(response: _Response) -> Any:
    """The answer's JSON, None for an empty one; an error as the exception that the daemon means."""
    try:
        content = response.json() if response.content else None
    except ValueError as error:
        raise _strange(response.status_code) from error
    if response.status_code < 400:
        return content
    match content:
        case {"error": str(text), "code": str(code), **rest}:
            raise FairleadError(code, text, str(rest.get("remedy") or ""))
        case _:
            raise _strange(response.status_code)


def _strange(status: int) -> OperatorError:
    return OperatorError("FL-DAEMON-ANSWER", f"the daemon's answer ({status}) is none that this version understands",
                         "see that the command and the daemon are of the same version")


def _errno(error: BaseException | None) -> int | None:
    """The number of the system's error at the bottom of a chain of exceptions."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno
        error = error.__cause__ or error.__context__
    return None
