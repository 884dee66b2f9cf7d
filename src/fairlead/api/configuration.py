"""The system's configuration: what of it fairlead heeds, what it keeps for its clients, and what it refuses.

A setting whose being passed over would leave the system less safe than whoever set it believes is refused with the
reason. Other settings of the public model, which do not concern fairlead, are kept and shown again without effect:
clients that send everything find what they have sent.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_address, ip_network, summarize_address_range
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field, create_model

from fairlead.base.errors import FairleadError, Refused
from fairlead.base.networks import NOWHERE, Network, Networks
from fairlead.objects.model import Computed, Fixed, Item, Kind, Model, Ref, Secret, Since
from fairlead.objects.shelf import Built, Shelved
from fairlead.transport.options import Algorithms
from fairlead.transport.rules import SshRules, check_ssh_algorithms

CERTIFICATE = "sslkeyandcertificate"
PORTAL_CERTIFICATE = f"{CERTIFICATE}-system-default-portal-cert"
CHANNEL_CERTIFICATE = f"{CERTIFICATE}-system-default-secure-channel-cert"
"""The uuids of the certificates that the cluster makes for itself."""
SINGLE = frozenset(("PUT", "PATCH"))
Kept = Any
MOST_NETWORKS = 4096
_NOT_BUILT = Fixed("fairlead does not have it")


class IpAddr(Model):
    """An address."""

    addr: str = Field(max_length=255)
    type: Literal["V4", "V6", "DNS"] = "V4"


class IpAddrPrefix(Model):
    """A network."""

    ip_addr: IpAddr
    mask: int = Field(ge=0, le=128)


class IpAddrRange(Model):
    """Addresses, both ends included."""

    begin: IpAddr
    end: IpAddr


class IpAddrMatch(Model):
    """Addresses that are meant, or all others."""

    match_criteria: Literal["IS_IN", "IS_NOT_IN"]
    addrs: list[IpAddr] = Field(default_factory=list, max_length=256)
    prefixes: list[IpAddrPrefix] = Field(default_factory=list, max_length=256)
    ranges: list[IpAddrRange] = Field(default_factory=list, max_length=256)
    group_refs: Annotated[list[str] | None, _NOT_BUILT] = None

    def networks(self) -> Networks:
        """Them all. Raises Refused FL-OBJECT-FIELD for what is no address."""
        try:
            found: list[Network] = [ip_network(one.addr) for one in self.addrs]
            found += [ip_network(f"{one.ip_addr.addr}/{one.mask}", strict=False) for one in self.prefixes]
            for one in self.ranges:
                begin, end = ip_address(one.begin.addr), ip_address(one.end.addr)
                found += summarize_address_range(begin, end)
        except (ValueError, TypeError) as error:
            raise Refused("FL-OBJECT-FIELD", f"an address that is none: {error}", "use IP addresses") from None
        if len(found) > MOST_NETWORKS:
            raise Refused("FL-OBJECT-FIELD", f"the ranges make {len(found)} networks, {MOST_NETWORKS} are allowed",
                          "use prefixes")
        merged: list[Network] = [*collapse_addresses(n for n in found if isinstance(n, IPv4Network))]
        merged += collapse_addresses(n for n in found if isinstance(n, IPv6Network))
        return Networks(self.match_criteria, tuple(merged))


class MgmtIpAccessControl(Model):
    """From where people may come."""

    api_access: IpAddrMatch | None = None
    ssh_access: IpAddrMatch | None = None
    shell_server_access: Kept = None
    snmp_access: Kept = None
    sysint_access: Annotated[Kept, Since("18.1.3")] = None


class PortalConfiguration(Model):
    """The API on 443."""

    allow_basic_authentication: bool = False
    api_force_timeout: Annotated[int, Field(ge=1, le=24), Since("18.2.3")] = 24
    disable_remote_cli_shell: bool = False
    disable_swagger: Annotated[bool, Since("18.2.3")] = False
    enable_clickjacking_protection: Annotated[bool, Fixed("pages of the API are never shown inside of others")] = True
    enable_http: bool = True
    enable_https: Annotated[bool, Fixed("the API is there by HTTPS only")] = True
    http_port: Annotated[int | None, Fixed("`--api-port` says where the API is")] = None
    https_port: Annotated[int | None, Fixed("`--api-port` says where the API is")] = None
    minimum_password_length: Annotated[int, Field(ge=8, le=32), Since("20.1.3")] = 12
    password_strength_check: bool = False
    pkiprofile_ref: Annotated[str | None, _NOT_BUILT, Since("30.1.2")] = None
    redirect_to_https: bool = True
    sslkeyandcertificate_refs: Annotated[list[str], Ref(CERTIFICATE), Field(max_length=1)] = Field(
        default_factory=lambda: [f"{CERTIFICATE}/{PORTAL_CERTIFICATE}"])
    sslprofile_ref: Annotated[str | None, _NOT_BUILT] = None
    use_uuid_from_input: bool = False


class SecureChannelConfiguration(Model):
    """What the system portal on 8443 presents."""

    sslkeyandcertificate_refs: Annotated[list[str], Ref(CERTIFICATE), Field(max_length=1), Since("18.1.4")] = Field(
        default_factory=lambda: [f"{CERTIFICATE}/{CHANNEL_CERTIFICATE}"])


class LinuxConfiguration(Model):
    """What people are greeted with."""

    banner: str = Field(default="", max_length=4096)
    motd: str = Field(default="", max_length=4096)
    cis_mode: Annotated[bool, Since("17.2.8"), Fixed("the host's own configuration decides on that")] = False


class SystemConfiguration(Model):
    """The singleton ``systemconfiguration``."""

    admin_auth_configuration: Annotated[Kept, Fixed("people are known to the Controllers themselves")] = None
    common_criteria_mode: Annotated[bool, Since("20.1.3"), _NOT_BUILT] = False
    configpb_attributes: Annotated[Kept, Computed()] = None
    controller_analytics_policy: Annotated[Kept, Since("21.1.3")] = None
    default_license_tier: Annotated[str, Field(max_length=100), Since("17.2.5")] = "ENTERPRISE_WITH_CLOUD_SERVICES"
    dns_configuration: Kept = None
    dns_virtualservice_refs: Annotated[list[str] | None, _NOT_BUILT] = None
    docker_mode: bool = False
    email_configuration: Kept = None
    enable_cors: Annotated[bool, Since("20.1.3"), Fixed("pages of other sites do not use the API")] = False
    fips_mode: Annotated[bool, Since("20.1.1"), _NOT_BUILT] = False
    global_tenant_config: Kept = None
    host_key_algorithm_exclude: Annotated[str, Field(max_length=1000), Since("22.1.3")] = ""
    kex_algorithm_exclude: Annotated[str, Field(max_length=1000), Since("22.1.3")] = ""
    linux_configuration: LinuxConfiguration = Field(default_factory=LinuxConfiguration)
    mgmt_ip_access_control: MgmtIpAccessControl | None = None
    ntp_configuration: Kept = None
    portal_configuration: PortalConfiguration = Field(default_factory=PortalConfiguration)
    proxy_configuration: Annotated[Kept, Fixed("fairlead goes through no proxy")] = None
    rekey_time_limit: Annotated[str, Since("30.2.1"), Fixed("keys are renewed by volume")] = "none"
    rekey_volume_limit: Annotated[str, Since("30.2.1"), Fixed("the limit of the cipher holds")] = "default"
    secure_channel_configuration: Annotated[SecureChannelConfiguration, Since("18.1.4")] = Field(
        default_factory=SecureChannelConfiguration)
    snmp_configuration: Kept = None
    ssh_ciphers: list[str] = Field(default_factory=list, max_length=32)
    ssh_hmacs: list[str] = Field(default_factory=list, max_length=32)
    welcome_workflow_complete: Annotated[bool, Since("18.2.3")] = True

    @property
    def api_networks(self) -> Networks | None:
        """From where the API is used; None: from everywhere."""
        match = self.mgmt_ip_access_control.api_access if self.mgmt_ip_access_control else None
        return match.networks() if match is not None else None

    def algorithms(self) -> Algorithms:
        """What SSH offers. Raises OperatorError FL-SSH-ALGORITHM for what is outside of the safe set."""
        return check_ssh_algorithms(self.ssh_ciphers, self.ssh_hmacs, _names(self.kex_algorithm_exclude),
                                    _names(self.host_key_algorithm_exclude))

    @property
    def ssh_rules(self) -> SshRules:
        """What holds for people over SSH, and for the port."""
        match = self.mgmt_ip_access_control.ssh_access if self.mgmt_ip_access_control else None
        networks = match.networks() if match is not None else None
        if self.portal_configuration.disable_remote_cli_shell:
            networks = NOWHERE
        return SshRules(networks, self.linux_configuration.banner, self.algorithms())


_ELSEWHERE = """
api_perf_logging_threshold=10000 async_patch_request_cleanup_duration=60 attach_ip_retry_interval=360
attach_ip_retry_limit=4 cleanup_expired_authtoken_timeout_period=60 cleanup_sessions_timeout_period=60
cloud_discovery_interval=5 cloud_reconcile_interval=5 cluster_ip_gratuitous_arp_period=60
consistency_check_timeout_period=60 controller_resource_info_collection_period=525600 crashed_se_reboot=900
dead_se_detection_timer=360 default_minimum_api_timeout=60 del_offline_se_after_reboot_delay=300
detach_ip_retry_interval=60 detach_ip_retry_limit=4 detach_ip_timeout=300 dns_refresh_period=60
fatal_error_lease_time=120 federated_datastore_cleanup_duration=120 file_object_cleanup_period=1440
gslb_purge_batch_size=1000 gslb_purge_sleep_time_ms=50 max_dead_se_in_grp=1 max_pcap_per_tenant=4
max_se_spawn_interval_delay=1800 max_seq_attach_ip_failures=3 max_seq_vnic_failures=3
max_threads_cc_vip_bg_worker=20 postgres_vacuum_period=20160 process_locked_useraccounts_timeout_period=1
process_pki_profile_timeout_period=1440 query_host_fail=180 resmgr_log_caching_period=21600
se_create_timeout=900 se_failover_attempt_interval=300 se_offline_del=172000 se_spawn_retry_interval=300
se_upgrade_flow_cleanup_timeout=90 se_vnic_cooldown=120 se_vnic_gc_wait_time=300
secure_channel_cleanup_timeout=60 secure_channel_controller_token_timeout=60 seupgrade_copy_buffer_size=512
seupgrade_copy_pool_size=5 seupgrade_fabric_pool_size=20 seupgrade_segroup_min_dead_timeout=360
skopeo_retry_interval=5 skopeo_retry_limit=3 soft_min_mem_per_se_limit=1900 system_report_limit=10
unresponsive_se_reboot=300 update_dns_entry_retry_limit=3 update_dns_entry_timeout=120 upgrade_dns_ttl=5
upgrade_fat_se_lease_time=1200 upgrade_lease_time=600 upgrade_se_per_vs_scale_ops_txn_time=3
vnic_op_fail_time=180 vs_awaiting_se_timeout=60 vs_key_rotate_period=360 vs_scaleout_ready_check_interval=60
vs_se_attach_ip_fail=600 vs_se_bootup_fail=480 vs_se_bootup_fail_patch=600 vs_se_create_fail=1500
vs_se_ping_fail=60 vs_se_vnic_fail=300 vs_se_vnic_ip_fail=120 vsphere_ha_detection_timeout=120
vsphere_ha_recovery_timeout=480 vsphere_ha_timer_interval=20 warmstart_se_reconnect_wait_time=480
warmstart_vs_resync_wait_time=300
bm_use_ansible=True check_vsvip_fqdn_syntax=True cloud_reconcile=True enable_api_sharding=True
enable_memory_balancer=True allow_admin_network_updates=False allow_ip_forwarding=False appviewx_compat_mode=False
edit_system_limits=False enable_per_process_stop=False enable_resmgr_log_cache_print=False
ignore_vrf_in_networksubnetlist=False permission_scoped_shared_admin_networks=False
restrict_cloud_read_access=False shared_ssl_certificates=False
"""
"""Settings of the public model that concern what fairlead does not do, with their published defaults."""
_ELSEWHERE_OPEN = ("async_patch_merge_period", "dummy", "persistence_key_rotate_period", "portal_request_burst_limit",
                   "portal_request_rate_limit", "false_positive_learning_config", "file_reference_mappings",
                   "safenet_hsm_version", "se_from_marketplace", "user_agent_cache_config")


def _elsewhere() -> Mapping[str, Any]:
    fields: dict[str, Any] = dict.fromkeys(_ELSEWHERE_OPEN, (Kept, None))
    for pair in _ELSEWHERE.split():
        name, _, default = pair.partition("=")
        fields[name] = (int, int(default)) if default.isdigit() else (bool, default == "True")
    return fields


class _Heeded(Model):
    allow_unauthenticated_apis: Annotated[bool, Fixed("nobody uses the API unknown")] = False
    allow_unauthenticated_nodes: Annotated[bool, Fixed("no node joins without a token")] = False
    api_idle_timeout: int = Field(default=15, ge=1, le=1440)
    configpb_attributes: Annotated[Kept, Computed()] = None
    portal_token: Annotated[str | None, Secret(), Fixed("a session begins with a log-in")] = None
    secure_channel_se_token_timeout: int = Field(default=10, ge=1, le=1440)
    ssl_certificate_expiry_warning_days: list[int] = Field(default_factory=lambda: [30, 7, 1], max_length=16)


ControllerProperties: type[_Heeded] = create_model("ControllerProperties", __base__=_Heeded, __doc__=(
    "The singleton ``controllerproperties``."), **_elsewhere())

SYSTEM = Kind("systemconfiguration", "SystemConfiguration", SystemConfiguration, "system", "default", methods=SINGLE)
PROPERTIES = Kind("controllerproperties", "ControllerProperties", ControllerProperties, "system", "global",
                  methods=SINGLE)
BUILT = (Built(SYSTEM, [Item("default", SystemConfiguration())]),
         Built(PROPERTIES, [Item("global", ControllerProperties())]))


class Presenting(Protocol):
    """Who presents certificates, and checks SSH's settings."""

    async def check(self, before: SystemConfiguration, after: SystemConfiguration, by: str) -> None:
        """Whether the one may follow the other now; what is broken of its own is mended. Raises Refused, with every
        reason."""
        ...

    async def settle(self, before: SystemConfiguration, after: SystemConfiguration, by: str) -> None:
        """Have it take effect here before the answer says so. Raises Refused when it cannot; then *before* is kept."""
        ...


@dataclass(frozen=True, slots=True)
class Configured:
    """``systemconfiguration``: a `Changeable` that looks before it changes."""

    shelved: Shelved
    presenting: Presenting

    @property
    def kind(self) -> Kind:
        """Its kind."""
        return SYSTEM

    async def items(self) -> Any:
        """The one."""
        return await self.shelved.items()

    async def item(self, uuid: str) -> Item | None:
        """The one."""
        return await self.shelved.item(uuid)

    async def change(self, old: Item, value: Model, by: str) -> Item:
        """Another configuration, if it may follow the one that is. Raises Refused, with every reason."""
        before, after = old.value, _whole(value)
        assert isinstance(before, SystemConfiguration)
        for match in ((access.api_access, access.ssh_access) if (access := after.mgmt_ip_access_control) else ()):
            if match is not None:
                match.networks()
        after.algorithms()
        await self.presenting.check(before, after, by)
        made = await self.shelved.exchange(old, replace(old, value=after), by, details=_told(before, after))
        try:
            await self.presenting.settle(before, after, by)
        except FairleadError:
            await self.shelved.exchange(made, replace(made, value=before), by, details={"back": "1"})
            raise
        return made


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _whole(value: Model) -> SystemConfiguration:
    """With the default certificates where a list is empty: *leave list empty to use system default certs*."""
    assert isinstance(value, SystemConfiguration)
    changes: dict[str, Any] = {}
    if not value.secure_channel_configuration.sslkeyandcertificate_refs:
        changes["secure_channel_configuration"] = SecureChannelConfiguration(
            sslkeyandcertificate_refs=[f"{CERTIFICATE}/{CHANNEL_CERTIFICATE}"])
    if not value.portal_configuration.sslkeyandcertificate_refs:
        changes["portal_configuration"] = value.portal_configuration.model_copy(update={
            "sslkeyandcertificate_refs": [f"{CERTIFICATE}/{PORTAL_CERTIFICATE}"]})
    return value.model_copy(update=changes)


def _told(before: SystemConfiguration, after: SystemConfiguration) -> Mapping[str, str]:
    """Which settings have changed, for the record."""
    changed = [name for name in SystemConfiguration.model_fields if getattr(before, name) != getattr(after, name)]
    return {"changed": " ".join(changed)}
