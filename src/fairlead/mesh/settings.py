"""What every node's ``fairlead.toml`` says of its place in the mesh."""

from pydantic import Field, field_validator

from fairlead.base.configuration import Settings
from fairlead.base.errors import FairleadError
from fairlead.nodes.address import View


class NodeSettings(Settings):
    """Settings of Controllers and engines alike."""

    view: str | None = None
    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$")
    keepalive_s: float = Field(default=5.0, ge=0.2, le=300)
    """A dead peer is noticed after three times this."""
    upgrade_trial_s: float = Field(default=60.0, ge=5, le=3600)
    """In which a version that is new here proves itself, or the one before it runs again."""

    @field_validator("view")
    @classmethod
    def _view(cls, value: str | None) -> str | None:
        try:
            View.parse(value) if value else None
        except FairleadError as error:
            raise ValueError(error.message) from None
        return value

    def see(self) -> View:
        """How this node sees internal addresses."""
        return View.parse(self.view) if self.view else View()
