"""What each node trusts, by the kind of rotation that changes it."""

import ssl
from collections.abc import Sequence

from fairlead.base.errors import FairleadError
from fairlead.store.protocol import StoreUnavailable
from tests.netns.controllers import Town
from tests.netns.rotations import ALL, trust
from tests.processes import until

API_PORT = 443


def presented(town: Town, name: str, port: int = API_PORT) -> str:
    """The certificate that a Controller presents on a port, PEM. Raises StoreUnavailable while nobody answers."""
    host = town.net.hosts[name]
    with host.inside():
        try:
            return ssl.get_server_certificate((host.address, port), timeout=10).strip()
        except OSError as error:
            raise StoreUnavailable("nobody presents anything") from error


def trusted(town: Town, kind: str, name: str, nodes: Sequence[str]) -> frozenset[str]:
    """All by which a node knows others, or one of *nodes* is known to it, as far as that *kind* changes it."""
    node, is_controller = town[name], name in ALL
    match kind:
        case "secure-channel":
            return frozenset(trust(node)["ca_certificates"])
        case "api":  # no node trusts it: it is presented
            return frozenset([presented(town, name)] if is_controller else [])
        case "root-ca":
            members = (node.state / "etcd" / "ca.pem").read_text() if is_controller else ""
            return frozenset(trust(node)["roots"]) | {f"{line}-----BEGIN" for line in members.split("-----BEGIN")[1:]}
        case "host-keys" if is_controller:
            return frozenset(row["host_key"] for row in node.get("/api/hosts/known")["results"])
        case "host-keys":
            return frozenset(key for one in trust(node)["controllers"]
                             for key in (one["host_key"], one["next_host_key"]) if key)
        case "user-keys" if is_controller:
            return frozenset(row["user_fingerprint"] for row in node.listed("node") if row["name"] in nodes)
        case _:
            return frozenset(one["user_key"] for one in trust(node)["controllers"])


def everything(town: Town, kind: str, nodes: Sequence[str]) -> dict[str, frozenset[str]]:
    """The same of each of *nodes*."""
    return {name: trusted(town, kind, name, nodes) for name in nodes}


def until_replaced(town: Town, kind: str, before: dict[str, frozenset[str]]) -> None:
    """Wait until each node trusts as many as *before*, and none of those."""
    def lacking() -> list[str]:
        found = []
        for name, old in before.items():
            try:
                new = trusted(town, kind, name, list(before))
            except FairleadError:
                new = old
            if new & old or len(new) != len(old):
                found.append(name)
        return found

    until(lambda: not lacking(), f"no node trusts what was before ({kind})")
