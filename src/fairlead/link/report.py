"""How a node stands with changes of its version, as it says itself. Pure."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from fairlead.base.clock import LAST_INSTANT
from fairlead.base.errors import printable

Version = Annotated[str, Field(pattern=r"^[0-9A-Za-z.+-]{0,64}$")]
Identifier = Annotated[str, Field(pattern="^[0-9a-f]{0,32}$")]
MOST_WORDS = 400
Words = Annotated[str, Field(max_length=MOST_WORDS), AfterValidator(lambda text: printable(text)[:MOST_WORDS])]
"""What is escaped becomes longer: it is cut afterwards, so that whoever took it can pass it on."""
State = Annotated[str, Field(pattern="^(waiting|fetching|verified|switching|trial|done|failed|back)?$")]


MOST_SECONDS = 1e9


class Report(BaseModel):
    """What a node says of itself; it counts for what is waited for, and for nothing else."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    version: Version
    """That it runs."""
    id: Identifier = ""
    """The upgrade that it speaks of; empty: it was told of none yet."""
    state: State = ""
    why: Words = ""
    since: int = Field(default=0, ge=0, lt=LAST_INSTANT)
    seconds: float = Field(default=0.0, ge=0, lt=MOST_SECONDS)
    """From when it was told until it was through."""
    bytes: int = Field(default=0, ge=0, lt=2**50)
    """That it has fetched."""
    previous: Version = ""
    """That it can go back to; empty: to none."""
    counter: int = Field(default=0, ge=0, lt=2**53)
    """The highest security counter that it has seen: nothing below runs there."""
    number: int = Field(default=0, ge=0, lt=2**53)
    """Of the newest bundle that it has seen: it takes no older one."""
    pinned: bool = False
    """Whether it has a root by which it verifies bundles."""
