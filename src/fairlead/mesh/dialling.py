"""How a node dials a Controller of its plan: to the pinned host key, with its own user key."""

from fairlead.base.clock import Clock
from fairlead.base.errors import Refused
from fairlead.keys.ssh import KeyRefused, PrivateKey, PublicKey
from fairlead.link.messages import PlanController
from fairlead.mesh.supervisor import Dial
from fairlead.transport.dialler import dial
from fairlead.transport.options import Keepalive
from fairlead.transport.peer import Peer
from fairlead.transport.tunnel import Tunnel
from fairlead.transport.way import Way


def dialling(user: str, key: PrivateKey, keepalive_s: float, clock: Clock, way: Way) -> Dial:
    """Dials as *user* with *key*. What it gives raises as `transport.dialler.dial`, and Refused FL-LINK-MESSAGE."""
    async def reach(controller: PlanController, address: str) -> Tunnel:
        try:
            pinned = PublicKey.from_line(controller.host_key)
        except KeyRefused as error:
            raise Refused("FL-LINK-MESSAGE", f"the host key that the plan gives {controller.name}: {error}") from error
        peer = Peer(node_id=controller.node_id, node=controller.name, role="controller", user=user, standing="active",
                    fingerprint=pinned.fingerprint)
        return await dial(address, controller.ssh_port, peer=peer, key=key, host_keys=[pinned],
                          keepalive=Keepalive(keepalive_s), clock=clock, way=way)

    return reach
