"""People in the public model: users, their roles, and the rules that hold for all of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, get_args

from pydantic import Field

from fairlead.api.asking import ADMIN_TENANT
from fairlead.base.errors import Refused
from fairlead.objects.model import Computed, Fixed, Item, Kind, Model, Ref, Secret, Since
from fairlead.objects.shelf import Built
from fairlead.users.accounts import Account
from fairlead.users.roles import PERMISSIONS, Role
from fairlead.users.rules import MOST_BYTES

DEFAULT_PROFILE = "useraccountprofile-default"
_PUBLIC = {"token": "PERMISSION_SE_TOKEN", "channel": "PERMISSION_CONTROLLER", "fleet": "PERMISSION_CLOUD",
           "node": "PERMISSION_SERVICEENGINE", "system": "PERMISSION_SYSTEMCONFIGURATION", "user": "PERMISSION_USER",
           "certificate": "PERMISSION_SSLKEYANDCERTIFICATE", "tenant": "PERMISSION_TENANT"}
"""What the public model calls permissions of ours."""


class Privilege(Model):
    """What a role may do with a sort of objects."""

    resource: str
    type: str


class RoleObject(Model):
    """A role."""

    name: str
    privileges: list[Privilege]
    tenant_ref: Annotated[str, Ref("tenant")] = f"tenant/{ADMIN_TENANT}"


class UserAccess(Model):
    """A role of somebody."""

    role_ref: Annotated[str | None, Ref("role")] = None
    tenant_ref: Annotated[str | None, Ref("tenant")] = None
    all_tenants: bool = False
    policies: Any = None


class User(Model):
    """An account. ``role`` is fairlead's own way to say what ``access`` says."""

    name: str = Field(max_length=64)
    username: str | None = Field(default=None, max_length=64)
    full_name: str = Field(default="", max_length=256)
    email: str = Field(default="", max_length=256)
    role: Role | None = None
    access: list[UserAccess] = Field(default_factory=list, max_length=1)
    is_superuser: bool | None = None
    password: Annotated[str | None, Secret()] = Field(default=None, max_length=MOST_BYTES, repr=False)
    default_tenant_ref: Annotated[str, Ref("tenant"), Fixed("everybody begins in the tenant admin")] = (
        f"tenant/{ADMIN_TENANT}")
    user_profile_ref: Annotated[str, Ref("useraccountprofile"), Fixed("one profile holds for everybody")] = (
        f"useraccountprofile/{DEFAULT_PROFILE}")
    is_active: Annotated[bool, Fixed("`user remove` takes an account away")] = True
    local: Annotated[bool, Fixed("people are known to the Controllers themselves")] = True
    anonymous_user: Annotated[bool, Fixed("nobody is anonymous")] = False
    passwordless: Annotated[bool, Fixed("everybody has a password")] = False
    date_joined: Annotated[str | None, Computed()] = None
    is_internal_user: Annotated[bool | None, Computed()] = None
    is_staff: Annotated[bool | None, Computed()] = None
    logged_in: Annotated[bool | None, Computed()] = None
    service_user: Annotated[bool | None, Computed()] = None
    token_expiration_date: Annotated[str | None, Computed()] = None
    ui_property: Annotated[str | None, Computed()] = None
    uid: Annotated[int | None, Computed()] = None
    unix_crypt_password: Annotated[str | None, Secret(), Computed()] = None
    recovery_token: Annotated[str | None, Secret(), Computed()] = None


class UserAccountProfile(Model):
    """The rules for log-ins."""

    name: str = Field(min_length=1, max_length=256)
    account_lock_timeout: int = Field(default=30, ge=1, le=1440)
    configpb_attributes: Annotated[Any, Computed()] = None
    credentials_timeout_threshold: int = Field(default=180, ge=0, le=3650)
    login_failure_count_expiry_window: Annotated[int | None, Since("22.1.1")] = None
    max_concurrent_sessions: int = Field(default=64, ge=0, le=1000)
    max_login_failure_count: int = Field(default=3, ge=0, le=20)
    max_password_history_count: int = Field(default=4, ge=0, le=100)


USER = Kind("user", "User", User, "user")
ROLE = Kind("role", "Role", RoleObject, "user", methods=frozenset())
PROFILE = Kind("useraccountprofile", "UserAccountProfile", UserAccountProfile, "system",
               methods=frozenset(("PUT", "PATCH")))
BUILT = (Built(PROFILE, [Item(DEFAULT_PROFILE, UserAccountProfile(name="Default-User-Account-Profile"))]),)


class Roles:
    """The roles that there are."""

    kind = ROLE

    async def items(self) -> Sequence[Item]:
        """Each with what it may do."""
        return [Item(f"role-{role}", RoleObject(name=role, privileges=_privileges(role))) for role in get_args(Role)]

    async def item(self, uuid: str) -> Item | None:
        """One of them."""
        return next((item for item in await self.items() if item.uuid == uuid), None)


class Keeping(Protocol):
    """Who keeps accounts; each change names who asked."""

    async def revised(self) -> list[tuple[Account, int]]:
        """All accounts, by name, each with the revision of the store that wrote it."""
        ...

    def check_new(self, password: str) -> None:
        """Whether it can be one. Raises OperatorError FL-PASSWORD."""
        ...

    async def add(self, name: str, role: Role, password: str, by: str) -> Account:
        """A new account. Raises Refused, OperatorError FL-PASSWORD."""
        ...

    async def set_password(self, name: str, password: str, by: str) -> None:
        """Another password. Raises Refused, OperatorError FL-PASSWORD."""
        ...

    async def set_role(self, name: str, role: Role, by: str) -> None:
        """Another role. Raises Refused."""
        ...

    async def introduce(self, name: str, full_name: str, email: str, by: str) -> None:
        """What people call somebody, and where he is written to. Raises Refused."""
        ...

    async def remove(self, name: str, by: str) -> None:
        """No such account any more. Raises Refused."""
        ...


@dataclass(frozen=True, slots=True)
class Users:
    """The accounts. They are found by uuid and by name."""

    people: Keeping

    @property
    def kind(self) -> Kind:
        """Their kind."""
        return USER

    async def items(self) -> Sequence[Item]:
        """All of them, by name."""
        return [_item(account, revision) for account, revision in await self.people.revised()]

    async def item(self, uuid: str) -> Item | None:
        """One of them."""
        return next((item for item in await self.items() if uuid in (item.uuid, item.name)), None)

    async def make(self, value: Model, by: str, *, tenant: str, uuid: str | None) -> Item:  # noqa: ARG002
        """A new account. Raises Refused, OperatorError."""
        assert isinstance(value, User)
        role = _role(value)
        if value.username not in (None, value.name):
            raise Refused("FL-OBJECT-FIELD", "User.name and User.username differ", "say one of them")
        if role is None or value.password is None:
            raise Refused("FL-OBJECT-FIELD", "a new user has a role and a password",
                          "say access or role, and password")
        made = await self.people.add(value.name, role, value.password, by)
        if value.full_name or value.email:
            await self.people.introduce(value.name, value.full_name, value.email, by)
        return await self._now(made.name)

    async def change(self, old: Item, value: Model, by: str) -> Item:
        """Another role, password or address; a name stays. Raises Refused, OperatorError."""
        before = old.value
        assert isinstance(value, User)
        assert isinstance(before, User)
        if value.name != old.name or value.username not in (None, old.name):
            raise Refused("FL-OBJECT-FIXED", "a user's name cannot be changed", "add another user")
        role = _role(value, before)
        if value.password is not None:
            self.people.check_new(value.password)
        if (value.full_name, value.email) != (before.full_name, before.email):
            await self.people.introduce(old.name, value.full_name, value.email, by)
        if role is not None and role != before.role:
            await self.people.set_role(old.name, role, by)
        if value.password is not None:
            await self.people.set_password(old.name, value.password, by)
        return await self._now(old.name)

    async def remove(self, old: Item, by: str) -> None:
        """Let somebody log in no longer. Raises Refused."""
        await self.people.remove(old.name, by)

    async def _now(self, name: str) -> Item:
        found = await self.item(name)
        if found is None:
            raise Refused("FL-USER-UNKNOWN", f"there is no user {name!r}", "see `fairlead user list`")
        return found


def describe(account: Account) -> dict[str, Any]:
    """An account as answers about oneself show it."""
    return {"name": account.name, "username": account.name, "full_name": account.full_name or account.name,
            "email": account.email, "role": account.role, "local": True, "uuid": f"user-{account.name}",
            "is_superuser": account.role == "admin"}


def _role(value: User, before: User | None = None) -> Role | None:
    """The role that *value* says, in any of three ways; of those, what is new against *before* counts."""
    said: list[Role] = []
    if value.role is not None and (before is None or value.role != before.role):
        said.append(value.role)
    if value.access and (before is None or value.access != before.access):
        found = next((r for r in get_args(Role) if value.access[0].role_ref == f"role/role-{r}"), None)
        if found is None:
            raise Refused("FL-OBJECT-FIELD", "User.access.0.role_ref is needed", "see GET /api/role")
        said.append(found)
    if value.is_superuser and (before is None or not before.is_superuser):
        said.append("admin")
    now = said[0] if said else before.role if before is not None else None
    less = value.is_superuser is False and now == "admin"
    if less or (before is not None and not value.access and "access" in value.model_fields_set and not said):
        raise Refused("FL-OBJECT-FIELD", "that takes a role away and does not say which one comes in its place",
                      "say role, or access with another role_ref")
    if len(set(said)) > 1:
        raise Refused("FL-OBJECT-FIELD", "role, access and is_superuser say different things", "say one of them")
    return said[0] if said else None


def _item(account: Account, revision: int) -> Item:
    return Item(f"user-{account.name}", User(
        name=account.name, username=account.name, full_name=account.full_name, email=account.email, role=account.role,
        access=[UserAccess(role_ref=f"role/role-{account.role}", tenant_ref=f"tenant/{ADMIN_TENANT}",
                           all_tenants=True)], is_superuser=account.role == "admin"), revision)


def _privileges(role: Role) -> list[Privilege]:
    held = PERMISSIONS[role]
    return [Privilege(resource=public, type="WRITE_ACCESS" if f"{ours}:write" in held else
                      "READ_ACCESS" if f"{ours}:read" in held else "NO_ACCESS") for ours, public in _PUBLIC.items()]
