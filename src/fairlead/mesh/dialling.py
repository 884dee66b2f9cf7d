"""How a node dials a Controller of its plan: to a pinned host key, with its own user key.

While its user key changes, a node holds several. The one in use is tried first; where it is refused, as after a crash
between two steps, the others are.
"""

from collections.abc import Callable, Sequence

from fairlead.base.clock import Clock
from fairlead.base.errors import Refused
from fairlead.keys.ssh import KeyRefused, PrivateKey
from fairlead.link.messages import PlanController
from fairlead.mesh.supervisor import Dial
from fairlead.transport.dialler import dial
from fairlead.transport.options import Keepalive
from fairlead.transport.peer import Peer
from fairlead.transport.tunnel import Tunnel
from fairlead.transport.way import Way


def dialling(user: str, keys: Callable[[], Sequence[PrivateKey]], keepalive_s: float, clock: Clock, way: Way) -> Dial:
    """Dials as *user* with the first of *keys*, as they are then, that is accepted.

    What it gives raises as `transport.dialler.dial`, and Refused FL-LINK-MESSAGE.
    """
    async def reach(controller: PlanController, address: str) -> Tunnel:
        try:
            pinned = controller.host_keys
        except KeyRefused as error:
            raise Refused("FL-LINK-MESSAGE", f"the host key that the plan gives {controller.name}: {error}") from error
        peer = Peer(node_id=controller.node_id, node=controller.name, role="controller", user=user, standing="active",
                    fingerprint=pinned[0].fingerprint)
        *others, last = keys()
        for key in others:
            try:
                return await dial(address, controller.ssh_port, peer=peer, key=key, host_keys=pinned,
                                  keepalive=Keepalive(keepalive_s), clock=clock, way=way)
            except Refused as error:
                if error.code != "FL-SSH-REFUSED":
                    raise
        return await dial(address, controller.ssh_port, peer=peer, key=last, host_keys=pinned,
                          keepalive=Keepalive(keepalive_s), clock=clock, way=way)

    return reach
