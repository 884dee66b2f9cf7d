"""The way back of a member of the store whose certificate has expired while all was switched off.

No member lets it in, and it lets nobody in, not even us: the root's key that could issue another one lies in the store
behind it. So a copy of its data is opened once, by a member that knows nobody else and believes certificates of a CA
that lives as long as it does; what is read there is sealed, and opens with this Controller's ``node.key`` only.

Nothing is decided or changed there: the copy is removed, and the member itself starts as ever.
"""

import asyncio
import shutil
from pathlib import Path

import structlog

from fairlead.base import files
from fairlead.base.clock import Clock, rfc3339
from fairlead.base.errors import OperatorError
from fairlead.cluster.etcd import (
    MOST_QUOTA_BYTES,
    Etcd,
    Plan,
    certificate,
    check_etcd,
    client_url,
    folder,
    member_context,
    put_identity,
)
from fairlead.controller import secrets
from fairlead.enrol.trust import Trust
from fairlead.pki.authority import Authority
from fairlead.pki.certificate import der_of
from fairlead.pki.chain import is_issued_by, read
from fairlead.pki.expiry import life
from fairlead.pki.request import new_request, read_request
from fairlead.store.etcd import EtcdStore
from fairlead.store.gateway import Gateway

BIRTH_S = 60.0
"""For the member to come up with all of its data."""
COPY = "reissue"

log = structlog.get_logger("fairlead.cluster")


async def reissue(state: Path, trust: Trust, clock: Clock) -> bool:
    """Give the member in *state*, which does not run, another certificate if its own is not valid now; whether it was.

    One that is not valid yet was made while this machine's clock was ahead. Raises FairleadError when there can be
    none, such as FL-ETCD-IDENTITY.
    """
    copy = folder(state) / COPY
    shutil.rmtree(copy, ignore_errors=True)
    its = life(der_of(await asyncio.to_thread(certificate, state)))
    if its.first <= clock.now() <= its.last:
        return False
    log.warning("certificate.not-valid", certificate="store", begins=rfc3339(its.first), ends=rfc3339(its.last))
    try:
        await asyncio.to_thread(_lay_out, state, copy)
        root = await _root(copy, state, trust, clock.now())
    finally:
        shutil.rmtree(copy, ignore_errors=True)
    key, request = new_request()
    made = root.certify_member(trust.cluster_uuid, trust.node, trust.internal_address, read_request(request),
                               clock.now())
    known = files.read_private(folder(state) / "ca.pem")
    if not any(is_issued_by(read(made, "certificate")[0], one) for one in read(known, "CA")):
        raise OperatorError("FL-ETCD-IDENTITY", "the other members do not know the root CA that this one has",
                            "start the others first")
    put_identity(state, made, key, known)
    log.warning("certificate.renewed", certificate="store", ends=rfc3339(life(der_of(made)).last))
    return True


def _lay_out(state: Path, copy: Path) -> None:
    files.make_private_folder(copy)
    files.make_private_folder(folder(copy))
    try:
        shutil.copytree(folder(state) / "data", folder(copy) / "data")
    except (OSError, shutil.Error) as error:
        raise OperatorError("FL-DISK", f"the store's data cannot be copied to {copy}: {error}",
                            "make room for it, then start again; nothing has changed") from None


async def _root(copy: Path, state: Path, trust: Trust, now: int) -> Authority:
    """The root CA with its key, as the data in *copy* has it."""
    passing = Authority.create(trust.cluster_uuid, now)
    key, request = new_request()
    put_identity(copy, passing.certify_member(trust.cluster_uuid, trust.node, trust.internal_address,
                                              read_request(request), now), key, passing.certificate_pem)
    own = Gateway([client_url(trust.internal_address)], member_context(copy))
    etcd = Etcd(await asyncio.to_thread(check_etcd), copy, Plan(
        trust.node, trust.internal_address, trust.cluster_uuid, {trust.node: trust.internal_address}, existing=False,
        alone=True, quota_bytes=MOST_QUOTA_BYTES), own)
    running = asyncio.get_running_loop().create_task(etcd.run())
    try:
        async with asyncio.timeout(BIRTH_S):
            await etcd.ready()
        store = EtcdStore(own)
        cluster_key = await secrets.open_cluster_key(store, state, trust.node_id)
        found = await secrets.open_certified(store, cluster_key, secrets.ROOT)
        return Authority.load(found.certificate_pem, found.key_pem)
    except TimeoutError:
        raise OperatorError("FL-ETCD-DOWN", "the certificate of this node's etcd has expired, and a copy of its data "
                            "does not come up: " + ("; ".join(etcd.problems) or "it does not answer"),
                            "see its lines in the log, then start again") from None
    finally:
        running.cancel()
        await asyncio.wait([running])
        await own.close()
