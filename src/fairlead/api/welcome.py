"""What a log-in is answered with, in the form that clients of the public object model read."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request

from fairlead.api.accounts import describe
from fairlead.api.application import SESSION_COOKIES
from fairlead.api.asking import Asking
from fairlead.objects.catalogue import Catalogue
from fairlead.users.accounts import Account

Welcome = Callable[[Request, Account], Awaitable[dict[str, Any]]]


def welcoming(catalogue: Catalogue, version: dict[str, Any], idle_minutes: Callable[[], int]) -> Welcome:
    """What makes the answer; *version*: `api.system.public_version`."""
    async def shown(request: Request, path: str) -> list[dict[str, Any]]:
        source = catalogue.source(path)
        if source is None:
            return []
        return await Asking(request, catalogue, source.kind).show(source, await source.items())

    async def welcome(request: Request, account: Account) -> dict[str, Any]:
        system = await shown(request, "systemconfiguration")
        return {"user_initialized": True, "version": version, "user": describe(account),
                "tenants": await shown(request, "tenant"), "system_config": system[0] if system else {},
                "controller": {"api_idle_timeout": idle_minutes()}, "session_cookie_name": SESSION_COOKIES[0]}

    return welcome
