"""What is done to an account apart from its fields: passwords and roles; and what everybody does to his own."""

from typing import Any, Protocol

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from fairlead.api import answers
from fairlead.api.accounts import describe
from fairlead.api.application import needs
from fairlead.api.documented import answer
from fairlead.users.accounts import Account
from fairlead.users.roles import Role
from fairlead.users.rules import MOST_BYTES


class Managing(Protocol):
    """Who keeps them; each change names who asked."""

    async def named(self, name: str) -> Account:
        """The account *name*. Raises Refused FL-USER-UNKNOWN."""
        ...

    async def set_password(self, name: str, password: str, by: str) -> None:
        """Another password. Raises Refused, OperatorError FL-PASSWORD."""
        ...

    async def change_own(self, name: str, old: str, new: str) -> None:
        """The same for somebody who knows *old*. Raises Refused FL-LOGIN as well."""
        ...

    async def set_role(self, name: str, role: Role, by: str) -> None:
        """Another role. Raises Refused."""
        ...


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class Password(_Body):
    """The body of PUT /api/user/NAME/password."""

    password: str = Field(max_length=MOST_BYTES, repr=False)


class Change(_Body):
    """The body of PUT /api/user/NAME/role."""

    role: Role


class Own(_Body):
    """The body of PUT /api/useraccount."""

    old_password: str = Field(max_length=MOST_BYTES, repr=False)
    password: str = Field(max_length=MOST_BYTES, repr=False)


def routes(people: Managing) -> APIRouter:
    """PUT user/NAME/password, user/NAME/role; GET, PUT useraccount."""
    router = APIRouter(tags=["User"])

    @router.put("/api/user/{name}/password", summary="Set somebody's password", responses=answer(answers.Account))
    async def password(name: str, body: Password, caller: str = needs("user:write")) -> dict[str, Any]:
        await people.set_password(name, body.password, caller)
        return describe(await people.named(name))

    @router.put("/api/user/{name}/role", summary="Set somebody's role", responses=answer(answers.Account))
    async def role(name: str, body: Change, caller: str = needs("user:write")) -> dict[str, Any]:
        await people.set_role(name, body.role, caller)
        return describe(await people.named(name))

    @router.get("/api/useraccount", summary="My account", responses=answer(answers.Account))
    async def me(caller: str = needs("session:own")) -> dict[str, Any]:
        return describe(await people.named(caller))

    @router.put("/api/useraccount", summary="Change my password", responses=answer(answers.Account))
    async def own(body: Own, caller: str = needs("session:own")) -> dict[str, Any]:
        await people.change_own(caller, body.old_password, body.password)
        return describe(await people.named(caller))

    return router
