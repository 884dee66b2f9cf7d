"""`controller join`: from a credential bundle to a Controller whose join is committed, and which `run` brings in.

What can fail is looked at before the bundle is used: a bundle that was spent on a machine that cannot be a Controller
would have to be exported again. The next Controller that answers reserves and commits; `run` then asks for admission.
"""

from collections.abc import Callable
from pathlib import Path

from fairlead.base import configuration, files
from fairlead.base.clock import Clock
from fairlead.base.errors import OperatorError
from fairlead.cluster import note as notes
from fairlead.cluster.etcd import CLIENT_PORT, PEER_PORT, check_etcd
from fairlead.cluster.note import Note
from fairlead.controller.initialise import COPY, STORE, refuse_foreign
from fairlead.controller.settings import ControllerSettings
from fairlead.enrol.bundle import Bundle
from fairlead.enrol.join import Joiner, Progress
from fairlead.enrol.trust import Trust
from fairlead.portal.listener import bind_tcp

RESERVED = (CLIENT_PORT, PEER_PORT)


def preflight(state: Path, settings: ControllerSettings, progress: Progress) -> None:
    """See that this machine can be a Controller of a cluster. Raises OperatorError, or Refused; nothing has changed."""
    if (state / STORE).exists():
        raise OperatorError("FL-STATE-FOREIGN", f"{state} holds the store of another Controller",
                            "use an empty folder, or `fairlead controller destroy` first")
    if not (state / notes.FILE).exists():
        refuse_foreign(state)
    if settings.view is not None:
        raise OperatorError("FL-CLUSTER-VIEW", "a Controller of a cluster sees internal addresses as they are",
                            "leave --view out; Controllers need a host, or a network namespace, each")
    progress(f"etcd: {check_etcd()}")
    for port, flag in ((settings.api_port, "--api-port"), (settings.portal_port, "--portal-port"),
                       (settings.ssh_port, "--ssh-port")):
        if port in RESERVED:
            raise OperatorError("FL-FLAG", f"{flag}: {port} is the port of the cluster's store", "choose another")
        for sock in bind_tcp(settings.listen, port, flag):
            sock.close()
    progress(f"ports free: {settings.api_port}, {settings.portal_port}, {settings.ssh_port}")


async def join(state: Path, name: str, settings: ControllerSettings, bundle: Callable[[Joiner], Bundle],
               forget: Callable[[], None], clock: Clock, progress: Progress) -> Trust:
    """Exchange keys, commit, and write what `controller run` goes on from. Raises FairleadError."""
    joiner = Joiner(state, "controller", name, clock, endpoint=settings.endpoint, progress=progress)

    def settle() -> None:
        files.remove(state / COPY)  # of the cluster from which this folder's Controller was removed
        Note(stage="committed").save(state)
        configuration.save(state, settings)

    return await joiner.join(bundle(joiner), forget, settle)
