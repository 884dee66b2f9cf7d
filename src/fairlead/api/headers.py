"""Headers that every answer of the API has, so that a browser makes nothing of it but what it is.

It is not guessed to be something else (``nosniff``), not kept (``no-store``), not shown inside of another site's page,
and, behind 443, never asked for without TLS again.
"""

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

ALWAYS = {"x-content-type-options": "nosniff", "cache-control": "no-store", "x-frame-options": "DENY",
          "content-security-policy": "default-src 'none'; frame-ancestors 'none'"}
"""An answer that says otherwise is left as it is."""
TLS_ONLY = ("strict-transport-security", "max-age=31536000")


class Headers:
    """Adds them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        local = scope.get("extensions", {}).get("fairlead", {}).get("peer_uid") is not None

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in ALWAYS.items():
                    headers.setdefault(name, value)
                if not local:
                    headers.setdefault(*TLS_ONLY)
            await send(message)

        await self._app(scope, receive, sending if scope["type"] == "http" else send)
