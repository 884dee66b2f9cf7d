"""The API, put together: which routes and kinds of objects there are, and who has them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, FastAPI

from fairlead.api import (
    accounts,
    apitokens,
    audit,
    backup,
    certificates,
    cluster,
    configuration,
    description,
    documents,
    enrolment,
    fleet,
    images,
    keys,
    logs,
    mesh,
    metrics,
    nodes,
    objects,
    rotation,
    securechannel,
    services,
    session,
    swaggerui,
    system,
    upgrade,
    users,
)
from fairlead.api.application import build
from fairlead.api.backup import Saving
from fairlead.api.certificates import Certificates
from fairlead.api.configuration import (
    Configured,
    ControllerProperties,
    Presenting,
    SystemConfiguration,
)
from fairlead.api.welcome import welcoming
from fairlead.base.clock import HOUR, MINUTE
from fairlead.base.networks import Networks
from fairlead.controller.desk import Desk
from fairlead.controller.operations import Operations
from fairlead.controller.signing import Signing
from fairlead.objects.catalogue import Catalogue
from fairlead.objects.model import Item, Kind
from fairlead.objects.shelf import Journal, Records, Shelf, Shelved
from fairlead.rotation.phases import Rotation
from fairlead.transport.rules import SshRules
from fairlead.users.apitokens import ApiTokens
from fairlead.users.keys import UserKeys
from fairlead.users.people import People
from fairlead.users.rules import Rules

PUBLIC = system.PUBLIC | session.PUBLIC | cluster.PUBLIC | rotation.PUBLIC | swaggerui.PUBLIC
"""Paths that are open to strangers."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the stored configuration says now."""

    shelf: Shelf
    _networks: dict[int, tuple[Item, Networks | None]] = field(default_factory=dict)
    """Those of the configuration as it stands: they are asked for at every request."""

    @property
    def system(self) -> SystemConfiguration:
        """``systemconfiguration``."""
        found: SystemConfiguration = self._one(configuration.SYSTEM, SystemConfiguration)
        return found

    def admits(self, source: str | None) -> bool:
        """Whether somebody at that address may use the API; None: a process of this machine."""
        item = self.shelf.one(configuration.SYSTEM.path, str(configuration.SYSTEM.singleton))
        kept = self._networks.get(0)
        if item is not None and (kept is None or kept[0] is not item):
            kept = self._networks[0] = (item, self.system.api_networks)
        networks = kept[1] if kept is not None else None
        return source is None or networks is None or networks.hold(source)

    def rules(self) -> Rules:
        """What holds for everybody's log-ins and sessions."""
        portal, profile = self.system.portal_configuration, self._one(accounts.PROFILE, accounts.UserAccountProfile)
        return Rules(
            minimum_password_length=portal.minimum_password_length, password_strength=portal.password_strength_check,
            most_failures=profile.max_login_failure_count, locked=profile.account_lock_timeout * MINUTE,
            idle=int(self.properties.api_idle_timeout) * MINUTE, longest=portal.api_force_timeout * HOUR,
            most_sessions=profile.max_concurrent_sessions or Rules().most_sessions,
            basic_authentication=portal.allow_basic_authentication)

    def ssh_rules(self) -> SshRules:
        """What holds for people over SSH, and for the port."""
        return self.system.ssh_rules

    @property
    def properties(self) -> Any:
        """``controllerproperties``."""
        return self._one(configuration.PROPERTIES, ControllerProperties)

    @property
    def se_token_timeout(self) -> int:
        """Minutes for which a token lives that was made without a bundle."""
        return int(self.properties.secure_channel_se_token_timeout)

    def _one(self, kind: Kind, model: Any) -> Any:
        item = self.shelf.one(kind.path, kind.singleton or accounts.DEFAULT_PROFILE)
        assert item is not None
        assert isinstance(item.value, model)
        return item.value


def shelf_for(store: Records, journal: Journal, cluster_uuid: str) -> Shelf:
    """The stored objects of all kinds that are stored."""
    return Shelf(store, journal, [*configuration.BUILT, *fleet.BUILT, *accounts.BUILT, *backup.BUILT,
                                  *securechannel.BUILT, *certificates.BUILT, *images.BUILT,
                                  cluster.built(cluster.kind_of(cluster_uuid))])


@dataclass(frozen=True, slots=True)
class Parts:
    """Who answers behind the API."""

    version: str
    shelf: Shelf
    catalogue: Catalogue
    certificates: Certificates
    signing: Signing
    operations: Operations
    desk: Desk
    people: People
    tokens: ApiTokens
    keys: UserKeys
    presenting: Presenting
    backups: Saving
    configuration: documents.Configuring
    commands: nodes.Commanding
    logs: logs.Reading
    draining: nodes.Draining
    changes: nodes.Observing
    measuring: metrics.Measuring
    rotations: rotation.Rotating
    upgrade_trust: images.Trusting
    images: images.Uploads
    upgrading: upgrade.Upgrading
    stop: Callable[[], None]


def application(parts: Parts) -> FastAPI:
    """The application behind 443 and the control socket."""
    settings = Settings(parts.shelf)
    return build(routers(parts), version=parts.version, public=PUBLIC, people=parts.people,
                 admits=settings.admits)


def certificates_of(shelf: Shelf, signing: Signing, catalogue: Catalogue,
                    rotating: Callable[[], Rotation | None] = lambda: None) -> Certificates:
    """All certificates; those that a rotation leads to, or away from, are in use."""
    async def referrers(kind: str, uuid: str) -> Sequence[str]:
        found, rotation = await catalogue.referrers(kind, uuid), rotating()
        if rotation is None or uuid not in (rotation.to, rotation.material.get("from"), rotation.material.get("to")):
            return found
        return [*found, f"the rotation {rotation.id} of {rotation.kind}"]

    return Certificates(Shelved(shelf, certificates.CERTIFICATE, referrers), signing, referrers)


def routers(parts: Parts) -> Sequence[APIRouter]:
    """Every route; *parts*' catalogue has every kind afterwards."""
    operations, desk, people, catalogue = parts.operations, parts.desk, parts.people, parts.catalogue

    def shelved(kind: Kind) -> Shelved:
        return Shelved(parts.shelf, kind, catalogue.referrers)

    settings = Settings(parts.shelf)
    own = cluster.kind_of(str(parts.signing.trust.cluster_uuid))
    groups, clouds = shelved(fleet.GROUP), shelved(fleet.CLOUD)
    engines = fleet.Engines(operations, groups)
    sources = (
        Configured(shelved(configuration.SYSTEM), parts.presenting), shelved(configuration.PROPERTIES),
        parts.certificates, securechannel.Mappings(operations),
        securechannel.ChannelTokens(desk, shelved(securechannel.TOKEN)), securechannel.LocalIPs(operations),
        shelved(fleet.TENANT), clouds, groups, engines, accounts.Users(people), accounts.Roles(),
        shelved(accounts.PROFILE), cluster.TheCluster(shelved(own), operations), shelved(backup.BACKUP),
        parts.images, upgrade.StatusInfos(parts.upgrading))
    for source in sources:
        catalogue.add(source)
    settings = Settings(parts.shelf)

    def no_pages() -> bool:
        return settings.system.portal_configuration.disable_swagger

    return [
        system.routes(operations, parts.version), system.stopping(parts.stop), session.routes(people, welcoming(
            catalogue, system.public_version(parts.version), lambda: int(settings.properties.api_idle_timeout)),
            lambda: settings.rules().longest),
        users.routes(people), keys.routes(parts.keys),
        apitokens.routes(parts.tokens), enrolment.routes(desk, operations), nodes.reading(operations),
        nodes.writing(operations, operations), nodes.commanding(parts.commands), nodes.draining(parts.draining),
        logs.routes(parts.logs), nodes.watching(parts.changes), services.reading(operations),
        services.writing(operations), documents.routes(parts.configuration), mesh.routes(operations),
        metrics.routes(parts.measuring), rotation.routes(parts.rotations),
        images.routes(parts.images), images.trusting(parts.upgrade_trust),
        upgrade.routes(parts.upgrading),
        audit.reading(operations), audit.exporting(operations), backup.routes(parts.backups),
        cluster.routes(operations, operations, system.public_version(parts.version)),
        securechannel.generating(desk, catalogue, settings), fleet.runtimes(engines, catalogue),
        fleet.cloud_status(clouds, catalogue), certificates.renewing(parts.certificates, catalogue),
        description.routes(catalogue.kinds.values), swaggerui.routes(no_pages),
        *(objects.routes(source, catalogue) for source in sources)]
