"""``fairlead.toml`` of a Controller."""

from ipaddress import ip_address
from ssl import TLSVersion
from typing import Literal

from pydantic import Field, field_validator

from fairlead.base.errors import FairleadError
from fairlead.mesh.settings import NodeSettings
from fairlead.nodes.node import Endpoint, split_address


class ControllerSettings(NodeSettings):
    """What the flags of `controller init` set."""

    role: str = Field(default="controller", pattern="^controller$")
    addresses: list[str] = Field(min_length=1, max_length=4)
    """Where nodes and people find this Controller."""
    listen: list[str] = Field(default_factory=list)
    """Addresses of this host to listen on; empty: all."""
    api_port: int = Field(default=443, ge=1, le=65535)
    portal_port: int = Field(default=8443, ge=1, le=65535)
    ssh_port: int = Field(default=22, ge=1, le=65535)
    api_tls_minimum: Literal["1.2", "1.3"] = "1.3"
    """The oldest TLS for clients of the API; the portal, and nodes among themselves, speak 1.3 only."""
    heartbeat_s: float = Field(default=5.0, ge=0.2, le=300)
    """Between two heartbeats of an engine; one that is silent for two and a half is late."""
    store_quota_mib: int = Field(default=2048, ge=8, le=8192)
    """What etcd's file may take of the disk in a cluster, MiB; the same at every Controller."""

    renew_certificates: bool = True
    """Whether certificates that the cluster issues itself are made anew before they end."""

    @field_validator("addresses")
    @classmethod
    def _addresses(cls, values: list[str]) -> list[str]:
        for value in values:
            try:
                split_address(value, 8443)
            except FairleadError as error:
                raise ValueError(error.message) from None
        return values

    @field_validator("listen")
    @classmethod
    def _listen(cls, values: list[str]) -> list[str]:
        for value in values:
            ip_address(value)
            if not (value.isascii() and value.isprintable()):  # what follows a % is not looked at otherwise
                raise ValueError("no interface has this name")
        return values

    @property
    def api_tls(self) -> TLSVersion:
        """The same."""
        return TLSVersion.TLSv1_2 if self.api_tls_minimum == "1.2" else TLSVersion.TLSv1_3

    @property
    def store_quota(self) -> int:
        """Bytes."""
        return self.store_quota_mib * 1024 * 1024

    @property
    def endpoint(self) -> Endpoint:
        """The public ports, as the cluster knows them."""
        return Endpoint(tuple(self.addresses), self.api_port, self.portal_port, self.ssh_port)
