"""What a joined node holds: who it is, and by what it knows the Controllers. One file, written before it first dials.

Nothing in it is secret; the keys lie beside it.
"""

from pathlib import Path
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, ValidationError

from fairlead.base.errors import OperatorError
from fairlead.base.files import read_private, write_private
from fairlead.enrol.exchange import CoreController
from fairlead.keys.ssh import KeyRefused, PrivateKey

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
    removed: bool = False
    """The cluster has told this node that it is no longer a part of it."""

    def save(self, state: Path) -> None:
        """Write it into the state folder. Raises OperatorError."""
        write_private(state / FILE, self.model_dump_json(indent=1).encode() + b"\n")

    def but(self, **changes: Any) -> "Trust":
        """A copy with *changes*."""
        return self.model_validate(self.model_dump() | changes)


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
