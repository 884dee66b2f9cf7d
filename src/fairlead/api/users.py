"""The accounts of people."""

from typing import Any, Protocol

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from fairlead.api.application import collection, needs
from fairlead.users.accounts import MOST_BYTES, Account
from fairlead.users.roles import Role


class Managing(Protocol):
    """Who keeps them; each change names who asked."""

    async def everybody(self) -> list[Account]:
        """All accounts, by name."""
        ...

    async def named(self, name: str) -> Account:
        """The account *name*. Raises Refused FL-USER-UNKNOWN."""
        ...

    async def add(self, name: str, role: Role, password: str, by: str) -> Account:
        """A new account. Raises Refused, OperatorError FL-PASSWORD."""
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

    async def remove(self, name: str, by: str) -> None:
        """No such account any more. Raises Refused."""
        ...


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class New(_Body):
    """The body of POST /api/user."""

    name: str = Field(max_length=64)
    role: Role
    password: str = Field(max_length=MOST_BYTES, repr=False)


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
    """GET, POST user; GET, DELETE user/NAME; PUT user/NAME/password, user/NAME/role; PUT useraccount."""
    router = APIRouter()

    @router.get("/api/user")
    async def users(caller: str = needs("user:read")) -> dict[str, Any]:  # noqa: ARG001
        return collection([describe(one) for one in await people.everybody()])

    @router.post("/api/user")
    async def add(body: New, caller: str = needs("user:write")) -> JSONResponse:
        made = await people.add(body.name, body.role, body.password, caller)
        return JSONResponse(describe(made), 201, {"location": f"/api/user/{made.name}"})

    @router.get("/api/user/{name}")
    async def user(name: str, caller: str = needs("user:read")) -> dict[str, Any]:  # noqa: ARG001
        return describe(await people.named(name))

    @router.put("/api/user/{name}/password")
    async def password(name: str, body: Password, caller: str = needs("user:write")) -> dict[str, Any]:
        await people.set_password(name, body.password, caller)
        return describe(await people.named(name))

    @router.put("/api/user/{name}/role")
    async def role(name: str, body: Change, caller: str = needs("user:write")) -> dict[str, Any]:
        await people.set_role(name, body.role, caller)
        return describe(await people.named(name))

    @router.delete("/api/user/{name}")
    async def remove(name: str, caller: str = needs("user:write")) -> dict[str, Any]:
        await people.remove(name, caller)
        return {"removed": name}

    @router.put("/api/useraccount")
    async def own(body: Own, caller: str = needs("session:own")) -> dict[str, Any]:
        await people.change_own(caller, body.old_password, body.password)
        return describe(await people.named(caller))

    return router


def describe(account: Account) -> dict[str, Any]:
    """An account as listings show it."""
    return {"name": account.name, "username": account.name, "role": account.role, "local": True,
            "is_superuser": account.role == "admin"}
