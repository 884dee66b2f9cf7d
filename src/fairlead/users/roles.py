"""What each role of a person may do. Pure; what is not named here nobody may."""

from dataclasses import dataclass, field
from typing import Literal

Role = Literal["admin", "operator", "viewer"]

_VIEWER = frozenset(("certificate:read", "channel:read", "config:read", "fleet:read", "image:read", "metrics:read",
                     "node:read", "service:read", "session:own", "status:read", "system:read", "tenant:read",
                     "token:read", "tunnel:read"))
_OPERATOR = _VIEWER | {"audit:read", "backup:read", "bundle:write", "channel:write", "config:show", "config:write",
                       "fleet:write", "log:read", "node:write", "service:write", "token:write"}
_ADMIN = _OPERATOR | {"backup:create", "backup:write", "certificate:write", "cluster:certificate", "daemon:stop",
                      "image:write", "status:write", "system:write", "tenant:write", "upgrade:trust", "user:read",
                      "user:write"}
PERMISSIONS: dict[Role, frozenset[str]] = {"admin": _ADMIN, "operator": _OPERATOR, "viewer": _VIEWER}
"""An operator lets nodes in and out and declares services; who people are, and what opens the store, is the admin's."""


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody in a session."""

    name: str
    role: Role
    csrf: str = field(repr=False)
    """What writes in this session are asked for with."""


def permits(role: Role, permission: str) -> bool:
    """Whether somebody of *role* may do what needs *permission*."""
    return permission in PERMISSIONS[role]
