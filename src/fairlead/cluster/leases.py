"""The leader's lease in etcd: granted under a number of our own, kept alive, taken back.

The number is drawn by who asks, so that an answer that was lost leaves no lease behind that nobody can take back.
"""

import secrets
from typing import Any, Protocol

from fairlead.store.gateway import GatewayRefused, GatewayUnavailable
from fairlead.store.protocol import StoreUnavailable

BEYOND = 2**60
"""Leases of leaders are numbered below; etcd's own draws and the store's are not told apart by number."""
GONE = 5
"""gRPC's NOT_FOUND."""


class Calls(Protocol):
    """etcd's JSON gateway."""

    async def call(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request. Raises GatewayRefused, GatewayUnavailable."""
        ...


class GatewayLeases:
    """Leases over the gateway."""

    def __init__(self, gateway: Calls) -> None:
        self._gateway = gateway

    async def grant(self, lease: int, seconds: int) -> int:
        """Begin a lease; for how many seconds it was granted, which etcd may make longer. Raises StoreUnavailable."""
        return int((await self._call("lease/grant", {"ID": str(lease), "TTL": str(seconds)})).get("TTL", 0))

    async def keep_alive(self, lease: int) -> bool:
        """Begin its time anew; whether it still ran. Raises StoreUnavailable."""
        answer = await self._call("lease/keepalive", {"ID": str(lease)})
        return int(answer.get("result", answer).get("TTL", 0)) > 0

    async def revoke(self, lease: int) -> None:
        """End it, and with it its keys; one that has ended is no fault. Raises StoreUnavailable."""
        try:
            await self._gateway.call("lease/revoke", {"ID": str(lease)})
        except GatewayRefused as refusal:
            if refusal.code != GONE:
                raise StoreUnavailable(refusal.message) from refusal
        except GatewayUnavailable as reason:
            raise StoreUnavailable(str(reason)) from reason

    async def _call(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        try:
            return await self._gateway.call(path, body)
        except GatewayRefused as refusal:
            raise StoreUnavailable(refusal.message) from refusal
        except GatewayUnavailable as reason:
            raise StoreUnavailable(str(reason)) from reason


def draw_lease() -> int:
    """A number for a lease."""
    return 1 + secrets.randbelow(BEYOND - 1)
