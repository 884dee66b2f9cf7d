"""What a joined node holds: who it is, and by what it knows the Controllers. One file, written before it first dials.

Nothing in it is secret; the keys lie beside it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, ValidationError

from fairlead.base.errors import OperatorError
from fairlead.base.files import read_private, write_private
from fairlead.enrol.exchange import CoreController
from fairlead.keys.ssh import KeyRefused, PrivateKey
from fairlead.keys.wire import b64, from_b64
from fairlead.pki import statement as statements

FILE = "trust.json"
KEYS = "keys"
HOST_KEY = "host"
USER_KEY = "user"


class Trust(BaseModel):
    """The node's own identity and its Controllers."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    fairlead_trust: Literal[1] = 1
    cluster_uuid: UUID
    node: str
    node_id: str
    role: Literal["controller", "engine"]
    user: str
    internal_address: str
    ca_certificates: list[str]
    """Base64 of DER."""
    tls_name: str
    controllers: list[CoreController]
    tls_names: list[str] = []
    """Further names that a portal's certificate may carry, while one takes the place of the other."""
    roots: list[str] = []
    """Base64 of DER: whose signature the next trust statement needs. Empty before the first."""
    statement: int = 0
    """The number of the trust statement that is followed."""
    removed: bool = False
    """The cluster has told this node that it is no longer a part of it."""

    def save(self, state: Path) -> None:
        """Write it into the state folder. Raises OperatorError."""
        write_private(state / FILE, self.model_dump_json(indent=1).encode() + b"\n")

    def but(self, **changes: Any) -> "Trust":
        """A copy with *changes*."""
        return self.model_validate(self.model_dump() | changes)


    @property
    def portal_names(self) -> list[str]:
        """Each name that a portal's certificate may carry."""
        return list(dict.fromkeys((self.tls_name, *self.tls_names)))

    def after(self, texts: Sequence[str]) -> "Trust":
        """What is believed after the trust statements *texts*; itself, where they bring nothing newer.

        Raises Refused FL-TRUST-...: then nothing of them counts.
        """
        found = statements.follow(self.cluster_uuid, self.statement, [from_b64(root) for root in self.roots], texts)
        if found is None:
            return self
        content = found.content
        return self.but(
            statement=found.number, roots=[b64(root) for root in content.roots],
            ca_certificates=[b64(der) for der in content.portal_certificates], tls_name=content.portal_names[0],
            tls_names=list(content.portal_names[1:]),
            controllers=[CoreController(
                name=c.name, address=address, portal_port=port, ssh_port=c.ssh_port,
                internal_address=c.internal_address, host_key=c.host_keys[0].line, user_key=c.user_key.line,
                node_id=c.node_id, next_host_key="".join(key.line for key in c.host_keys[1:])).model_dump()
                for c in content.controllers for address, port in c.places])


def load(state: Path) -> Trust:
    """The trust of the node in *state*. Raises OperatorError when it has not joined or the file is damaged."""
    try:
        return Trust.model_validate_json(read_private(state / FILE))
    except FileNotFoundError:
        raise OperatorError("FL-NOT-JOINED", f"the node in {state} has not joined a cluster",
                            "`fairlead engine join BUNDLE --name NAME` with the same --state") from None
    except ValidationError:
        raise OperatorError("FL-STATE-DAMAGED", f"{state / FILE} is damaged", "join again with a new bundle and an "
                            "empty state folder") from None


def load_key(state: Path, name: str) -> PrivateKey:
    """One of the node's two private keys. Raises OperatorError."""
    path = state / KEYS / name
    try:
        return PrivateKey.from_openssh(read_private(path))
    except FileNotFoundError:
        raise OperatorError("FL-STATE-DAMAGED", f"{path} is missing",
                            "restore it, or join again with a new bundle and an empty state folder") from None
    except KeyRefused as error:
        raise OperatorError("FL-STATE-DAMAGED", f"{path}: {error}",
                            "restore it, or join again with a new bundle and an empty state folder") from None


def save_key(state: Path, name: str, key: PrivateKey) -> None:
    """Write a private key, as ``ssh -i`` reads it. Raises OperatorError."""
    write_private(state / KEYS / name, key.openssh())
    write_private(state / KEYS / f"{name}.pub", f"{key.public.line}\n".encode())
