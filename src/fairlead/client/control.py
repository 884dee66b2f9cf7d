"""The command line's way to the daemon of this machine: the API, over the control socket in the state folder."""

import errno
import os
import ssl
from pathlib import Path
from typing import Any

import httpx2

from fairlead.base.errors import OperatorError
from fairlead.client.api import HEADERS, Api, content, late

SOCKET = "control.sock"


class ControlClient(Api):
    """An `Api`. Every method raises OperatorError as well: ``FL-DAEMON-DOWN``, ``FL-DAEMON-ANSWER``,
    ``FL-STATE-MISSING``, ``FL-STATE-OWNER``.
    """

    def __init__(self, state: Path, timeout: float = 60.0) -> None:
        self._state = state
        self._timeout = timeout
        self._headers: dict[str, str] = {}

    def _send(self, method: str, path: str, **sent: Any) -> Any:
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
                response = client.request(method, path, headers=HEADERS | self._headers, **sent)
        except httpx2.ConnectError as error:
            raise self._down(error) from error
        except httpx2.TransportError as error:
            raise late(error, self._timeout) from error
        finally:
            os.close(folder)
        return content(response)

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


class InSession(ControlClient):
    """The same in somebody's session: the daemon lets it do what that person may, whoever's process this is."""

    def __init__(self, state: Path, session: str, csrf: str) -> None:
        super().__init__(state)
        self._headers = {"cookie": f"sessionid={session}", "x-csrftoken": csrf}


def _errno(error: BaseException | None) -> int | None:
    """The number of the system's error at the bottom of a chain of exceptions."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno
        error = error.__cause__ or error.__context__
    return None
