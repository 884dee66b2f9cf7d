"""The engine as a witness of its Controllers' audit chains, beside the link, in a subsystem of its own.

A Controller that does not know the subsystem refuses it, and the link goes on: versions need not be the same.
"""

from collections.abc import Callable

import structlog

from fairlead.audit.head import CUT, FORK, SUBSYSTEM, Held, check, said_from
from fairlead.audit.witness import Witness
from fairlead.base.errors import FairleadError
from fairlead.keys.ssh import PublicKey
from fairlead.link import frames
from fairlead.link.messages import PlanController
from fairlead.transport.tunnel import Tunnel

log = structlog.get_logger("fairlead.engine")

Alarm = Callable[[str, PlanController, int], None]
"""*event*, whose chain it is, and the number of the record that is missing or another."""


async def watch(witness: Witness, cluster: str, controller: PlanController, tunnel: Tunnel, alarm: Alarm) -> None:
    """Tell *controller* what was seen of its chain, and see where it ends now, until the connection does."""
    key = PublicKey.from_line(controller.host_key)
    try:
        channel = await tunnel.subsystem(SUBSYSTEM)
        await channel.send(frames.encode(Held(head=witness.held(controller.node_id)).model_dump()))
        decoder, quiet = frames.Decoder(frames.MOST_COMMIT_BYTES), True
        while chunk := await channel.receive():
            for fields in decoder.feed(chunk):
                said = said_from(fields)
                check(said.head, key, cluster, controller.node_id)
                before = witness.held(controller.node_id)
                verdict = witness.take(said.head, follows=said.follows)
                if verdict in ("cut", "fork") and quiet and before is not None:
                    quiet = False  # once per connection is enough
                    alarm(CUT if verdict == "cut" else FORK, controller, before.seq)
                elif verdict == "anew" and before is not None:
                    log.warning("audit.anew", controller=controller.name, before=before.seq, now=said.head.seq)
                await channel.send(frames.encode(Held(head=witness.held(controller.node_id)).model_dump()))
    except FairleadError as error:
        log.info("audit.unwatched", controller=controller.name, code=error.code, reason=error.message)
