"""Node names, checked at every door. Pure."""

import re

from fairlead.base.errors import Refused, printable

DOMAIN = "fairlead.internal"
RESERVED = frozenset(("engines", "controllers"))
"""Words that a policy uses for whole roles: a node of that name would take their rights."""
QUOTED = 24
"""Characters of a wrong name that its refusal repeats: what was pasted in the wrong place may be a token."""

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def is_name(text: str) -> bool:
    """Whether *text* may name a node or a service."""
    return _NAME.fullmatch(text) is not None


def check_name(text: str, what: str = "node") -> str:
    """*text* itself when it may name a *what*. Raises Refused FL-NAME."""
    if not is_name(text):
        raise Refused("FL-NAME", f"{printable(text, QUOTED)!r} is not a {what} name",
                      "use 1 to 63 of a-z, 0-9 and -, with a letter or digit at both ends")
    if text in RESERVED:
        raise Refused("FL-NAME", f"{text!r} means all of that role in a policy and names no {what}",
                      "choose another name")
    return text


def full_name(node: str) -> str:
    """The name under which hosts files know the node."""
    return f"{node}.{DOMAIN}"
