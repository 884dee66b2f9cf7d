"""Tunnels, and where this node finds whom."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from fastapi import APIRouter, Request

from fairlead.api import answers
from fairlead.api.application import needs
from fairlead.api.asking import listing
from fairlead.api.documented import several
from fairlead.base.clock import rfc3339
from fairlead.keys.ssh import PublicKey
from fairlead.nodes.name import full_name
from fairlead.transport.tunnel import Tunnel

SSH_PORT = 22
"""Which ``known_hosts`` leaves out."""


class Connected(Protocol):
    """Who knows the tunnels."""

    def tunnels(self) -> list[dict[str, Any]]:
        """Each with peer, direction, user, state, since, streams, bytes_in, bytes_out, cipher, kex, transport."""
        ...

    def hosts(self) -> list[dict[str, Any]]:
        """Where this node finds whom: address, name, full_name."""
        ...

    def known_hosts(self) -> list[dict[str, Any]]:
        """By which SSH host keys the Controllers are known: name, address, port, host_key, line."""
        ...


def routes(node: Connected) -> APIRouter:
    """GET tunnel, hosts, hosts/known."""
    router = APIRouter(tags=["Node"])

    @router.get("/api/tunnel", summary="List the connections", responses=several(answers.Tunnel))
    async def tunnels(request: Request, caller: str = needs("tunnel:read")) -> dict[str, Any]:  # noqa: ARG001
        return listing(request, node.tunnels())

    @router.get("/api/hosts", summary="Where this node finds whom", responses=several(answers.Host))
    async def hosts(request: Request, caller: str = needs("node:read")) -> dict[str, Any]:  # noqa: ARG001
        return listing(request, node.hosts())

    @router.get("/api/hosts/known", summary="By which SSH host keys the Controllers are known",
                responses=several(answers.KnownHost))
    async def known_hosts(request: Request, caller: str = needs("node:read")) -> dict[str, Any]:  # noqa: ARG001
        return listing(request, node.known_hosts())

    return router


def describe(tunnel: Tunnel, kind: str, state: str = "up") -> dict[str, Any]:
    """A tunnel as listings show it; *kind*: control or streams."""
    return {"peer": tunnel.peer.node, "direction": tunnel.direction, "user": tunnel.peer.user, "state": state,
            "since": rfc3339(tunnel.since), "streams": tunnel.streams, "bytes_in": tunnel.bytes_in,
            "bytes_out": tunnel.bytes_out, "cipher": tunnel.cipher, "kex": tunnel.kex, "transport": tunnel.transport,
            "kind": kind, "address": tunnel.address, "epoch": tunnel.epoch}


def connecting(peer: str, user: str, address: str) -> dict[str, Any]:
    """A tunnel that is being dialled."""
    return {"peer": peer, "direction": "out", "user": user, "state": "connecting", "since": None, "streams": 0,
            "bytes_in": 0, "bytes_out": 0, "cipher": None, "kex": None, "transport": None, "kind": "control",
            "address": address, "epoch": 0}


def describe_hosts(names: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """Names and addresses as listings show them."""
    return [{"address": address, "name": name, "full_name": full_name(name)} for address, name in names]


def describe_known_hosts(name: str, addresses: Iterable[str], port: int, keys: Sequence[PublicKey],
                         ) -> list[dict[str, Any]]:
    """The lines of a Controller in a ``known_hosts`` file: each address with each key, the present one first."""
    return [{"name": name, "address": address, "port": port, "host_key": key.line, "fingerprint": key.fingerprint,
             "line": f"{address if port == SSH_PORT else f'[{address}]:{port}'} {key.line}"}
            for address in dict.fromkeys(addresses) for key in keys]
