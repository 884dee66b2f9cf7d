"""``fairlead.toml`` of an engine."""

from pydantic import Field

from fairlead.mesh.settings import NodeSettings


class EngineSettings(NodeSettings):
    """What the flags of `engine join` set."""

    role: str = Field(default="engine", pattern="^engine$")
