"""``fairlead.toml`` of an engine."""

import ipaddress

from pydantic import Field, field_validator

from fairlead.base.configuration import Settings
from fairlead.engine.spool import MOST_BYTES
from fairlead.mesh.settings import NodeSettings

Program = list[str]
"""A program's path or name, and its arguments; no shell is between."""


class Destination(Settings):
    """``[destinations.NAME]``: where documents of the kind ``files`` may put theirs."""

    folder: str = Field(pattern="^/")
    check: Program = Field(default_factory=list)
    """Run when the files are in place; when it fails they are put back."""
    reload: Program = Field(default_factory=list)
    """Run after that; the same."""


class HaproxySettings(Settings):
    """``[haproxy]``: this engine runs an HAProxy for documents of that kind."""

    program: str = "haproxy"
    bind: list[str] = Field(default_factory=lambda: ["127.0.0.0/8", "::1/128"])
    """Networks in whose addresses documents may have it listen."""
    drain_s: float = Field(default=30.0, gt=0, le=86400)
    """After a reload, so long connections that were there before go on."""

    @field_validator("bind")
    @classmethod
    def _networks(cls, value: list[str]) -> list[str]:
        for text in value:
            ipaddress.ip_network(text)
        return value


class EngineSettings(NodeSettings):
    """What the flags of `engine join` set, and what its owner declares."""

    role: str = Field(default="engine", pattern="^engine$")
    spool_mib: int = Field(default=MOST_BYTES // (1024 * 1024), ge=8, le=1024 * 1024)
    """Of logs that no Controller has yet; of more the oldest goes."""
    destinations: dict[str, Destination] = Field(default_factory=dict)
    haproxy: HaproxySettings | None = None
