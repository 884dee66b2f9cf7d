"""The engine changes its user key: it makes the next one, uses what the cluster says, and proves it where it is
connected.

Rules, and what each stops:

1. The next key is on disk before it is shown, and shown again when it was made already: whatever crashes, the cluster
   knows no key that this node does not hold.
2. A Controller says which of the node's own keys is in use; it cannot give it one, and no key ever leaves.
3. Connections that live prove the key that is in use and go on; a new one is dialled with it.
4. What a disk refuses is said: the Controllers count this node among those that are behind, and go back.
"""

import asyncio
from collections.abc import Callable
from uuid import UUID

from fairlead.base.errors import FairleadError, OperatorError
from fairlead.enrol import next_key
from fairlead.enrol.keyring import Keyring
from fairlead.keys.ssh import PrivateKey
from fairlead.link.messages import KeyTrouble, NextKey, NextKeyWanted, UserKeys, UsingKey
from fairlead.mesh.rekeying import prove_all
from fairlead.transport.tunnel import Tunnel

MOST_HELD = 8


class OwnKeys:
    """This engine's user keys, as Controllers speak of them."""

    def __init__(self, keyring: Keyring, cluster: UUID, me: str, host_key: PrivateKey,
                 tunnels_to: Callable[[str], list[Tunnel]], record: Callable[..., None]) -> None:
        """*tunnels_to*: the connections to a Controller by its name. *record*: for this node's journal."""
        self.keyring = keyring
        self._cluster = cluster
        self._me = me
        self._host_key = host_key
        self._tunnels_to = tunnels_to
        self._record = record
        self._turn = asyncio.Lock()
        self._asked = 0
        """How often it was asked for its next key, and not told since which one to use."""
        self._no_next = self._no_use = ""
        """What stands in the way of the one and the other."""

    @property
    def problems(self) -> list[str]:
        """What is not as it should be."""
        return [problem for problem in (self._no_next, self._no_use) if problem]

    async def next(self, wanted: NextKeyWanted) -> NextKey | KeyTrouble:
        """Make the next key for that rotation, if there is none, and show it."""
        async with self._turn:
            self._asked += 1
            try:
                key = await asyncio.to_thread(self.keyring.next)
            except OperatorError as error:
                self._no_next = error.line()
                return _trouble(error)
            self._no_next = ""
            offer = next_key.offer(self._cluster, self._me, wanted.rotation, key, self._host_key)
            return NextKey(rotation=wanted.rotation, key=offer.key, user_proof=offer.user_proof,
                           host_proof=offer.host_proof)

    async def follow(self, told: UserKeys, controller: str) -> UsingKey | KeyTrouble:
        """Use that key, prove it on all connections to *controller*, and drop what is revoked."""
        try:
            async with self._turn:
                before = self.keyring.in_use.public.fingerprint
                if await asyncio.to_thread(self.keyring.use, told.use):
                    self._record("key.used", before=before, fingerprint=told.use, controller=controller)
                key = self.keyring.in_use
                for gone in await asyncio.to_thread(self.keyring.drop, told.revoked):
                    self._record("key.dropped", fingerprint=gone, controller=controller)
            await prove_all(self._tunnels_to(controller), key, self._cluster, self._me)
        except FairleadError as error:
            self._no_use = error.line() if error.code in ("FL-DISK", "FL-KEY-MISSING") else ""
            return _trouble(error)
        self._no_use = ""
        if not self._asked:  # nobody wants a next one any more
            self._no_next = ""
        self._asked = max(0, self._asked - 1)
        return UsingKey(fingerprint=told.use, held=[one.public.fingerprint for one in self.keyring.held][:MOST_HELD])


def _trouble(error: FairleadError) -> KeyTrouble:
    return KeyTrouble(code=error.code[:64], words=error.message[:1000])
