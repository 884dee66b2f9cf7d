"""The command line's way to a Controller from afar: the API on 443, to a certificate of the cluster's CA.

What a log-in leaves is the *context*, a file of this user's, 0600: where the Controller is, the CA by which it is
known, and the session, or in place of one a token for automation. Nothing of the environment has a
say, and there is no way around the CA. When the cluster changes that, the context follows its trust statements.
"""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2

from fairlead.base import files, strict
from fairlead.base.errors import FairleadError, OperatorError
from fairlead.client.api import HEADERS, Api, content, late
from fairlead.client.following import followed
from fairlead.pki.certificate import ders_of
from fairlead.pki.verify import client_context

FILE = "context.json"
_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Context:
    """By what commands are known at a Controller: a session, or a token."""

    url: str
    ca: str
    """PEM."""
    user: str
    """Who logged in; of a token, which one."""
    session: str = field(default="", repr=False)
    csrf: str = field(default="", repr=False)
    token: str = field(default="", repr=False)

    def save(self, path: Path) -> None:
        """Write it to *path*, 0600. Raises OperatorError."""
        files.make_private_folder(path.parent)
        files.write_private(path, json.dumps(asdict(self)).encode())


def place() -> Path:
    """Where this user's context is."""
    home = os.environ.get("XDG_CONFIG_HOME")
    return (Path(home) if home else Path.home() / ".config") / "fairlead" / FILE


def load(path: Path) -> Context | None:
    """The context at *path*; None where there is none. Raises OperatorError FL-CONTEXT, FL-STATE-OPEN."""
    try:
        return Context(**strict.loads(files.read_private(path)))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        raise OperatorError("FL-CONTEXT", f"{path} is no context", "log in again: `fairlead login URL`") from None


def origin(url: str) -> str:
    """*url* as far as it names a Controller. Raises OperatorError FL-URL."""
    try:
        parts = urlsplit(url if "//" in url else f"https://{url}")
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme != "https" or not parts.hostname or parts.path not in ("", "/") or parts.query or parts.username:
        raise OperatorError("FL-URL", "that is no address of a Controller",  # not shown: it may hold a password
                            "such as https://ctl-1.example.com or 192.0.2.1:443")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"https://{host}:{port or 443}"


class _Unverified(OperatorError):
    """What is presented there is not by the CA that this log-in knows."""

    def __init__(self, url: str) -> None:
        super().__init__("FL-AFAR-CA", f"{url} presents a certificate that the CA of this log-in has not issued",
                         "see that nobody is in between; if the cluster has another root CA, log in again with that: "
                         "`fairlead cluster ca` on a Controller prints it")


class Afar(Api):
    """An `Api` at a Controller. Every method raises OperatorError as well: ``FL-AFAR``, ``FL-AFAR-CA``,
    ``FL-DAEMON-ANSWER``."""

    def __init__(self, context: Context, keep: Callable[[Context], None] = lambda _: None) -> None:
        """*keep*: called with the context that takes the place of this one when the cluster's root CA has changed."""
        self._context = context
        self._keep = keep

    def log_in(self, password: str) -> Context:
        """A context with a session. Raises what the Controller refuses."""
        response = self._request("POST", "/login", json={"username": self._context.user, "password": password})
        content(response)
        cookies = response.cookies
        session, csrf = cookies.get("sessionid"), cookies.get("csrftoken")
        if not session or not csrf:
            raise OperatorError("FL-DAEMON-ANSWER", "the answer brings no session", "see what listens there")
        return Context(self._context.url, self._context.ca, self._context.user, session, csrf)

    def try_token(self) -> None:
        """See that the token of the context is good. Raises what the Controller refuses: FL-LOGIN for a bad one."""
        try:
            content(self._request("GET", "/api/cluster/version"))
        except FairleadError as error:
            if error.code != "FL-PERMISSION":  # whose scope does not name that is known there all the same
                raise

    def log_out(self) -> None:
        """End the session there."""
        content(self._request("POST", "/logout"))

    def _send(self, method: str, path: str, **sent: Any) -> Any:
        return content(self._request(method, path, **sent))

    def _request(self, method: str, path: str, **sent: Any) -> httpx2.Response:
        try:
            return self._once(method, path, **sent)
        except _Unverified:  # nothing was sent
            ca = followed(self._context.url, self._context.ca, _TIMEOUT_S)
            if ca is None:
                raise
        self._context = replace(self._context, ca=ca)
        self._keep(self._context)
        return self._once(method, path, **sent)

    def _once(self, method: str, path: str, **sent: Any) -> httpx2.Response:
        headers = HEADERS | self._known_by()
        verify = client_context(ders_of(self._context.ca.encode()))
        try:
            with httpx2.Client(transport=httpx2.HTTPTransport(verify=verify, trust_env=False), trust_env=False,
                               base_url=self._context.url, timeout=_TIMEOUT_S) as client:
                return client.request(method, path, headers=headers, **sent)
        except httpx2.ConnectError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise _Unverified(self._context.url) from error
            raise OperatorError("FL-AFAR", f"{self._context.url} cannot be reached, or is not the Controller that the "
                                f"CA knows: {error}", "check the address, and that the CA is this cluster's") from error
        except httpx2.TransportError as error:
            raise late(error, _TIMEOUT_S) from error

    def _known_by(self) -> dict[str, str]:
        context = self._context
        if context.token:
            return {"authorization": f"Bearer {context.token}"}
        return {"cookie": f"sessionid={context.session}", "x-csrftoken": context.csrf} if context.session else {}
