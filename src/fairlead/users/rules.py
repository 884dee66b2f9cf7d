"""What holds for everybody's log-ins and sessions: a value, made of the system's configuration as it is now. Pure."""

import re
from dataclasses import dataclass

from fairlead.base.clock import HOUR, MINUTE
from fairlead.base.errors import OperatorError

MOST_BYTES = 256
_CLASSES = ("[a-z]", "[A-Z]", "[0-9]", "[^A-Za-z0-9]")


@dataclass(frozen=True, slots=True)
class Rules:
    """The house's rules. Durations in microseconds."""

    minimum_password_length: int = 12
    password_strength: bool = False
    """Whether a password has three of four: small letters, capitals, digits, others."""
    most_failures: int = 3
    """After so many wrong passwords a name is closed to their network; 0: never."""
    locked: int = 30 * MINUTE
    idle: int = 15 * MINUTE
    longest: int = 24 * HOUR
    most_sessions: int = 64
    """Of one account at once; one more ends the oldest."""
    basic_authentication: bool = False

    def check(self, password: str) -> str:
        """*password*, if it can be one. Raises OperatorError FL-PASSWORD."""
        least = self.minimum_password_length
        if len(password) < least or len(password.encode()) > MOST_BYTES:
            raise OperatorError("FL-PASSWORD", f"a password has {least} characters to {MOST_BYTES} bytes",
                                "choose another one")
        if self.password_strength and sum(bool(re.search(one, password)) for one in _CLASSES) < 3:
            raise OperatorError("FL-PASSWORD", "a password has three of these: small letters, capitals, digits, others",
                                "choose another one")
        return password
