"""Whether the code nodes of an app may use the network, and their way to it.

The settings file states it for all tenants, an operator for one tenant, and an
administrator of the tenant for one app. Each app is off unless it or what is above it
turns it on.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal
from weakref import WeakValueDictionary

from modelyard.sandbox.program_network import NetworkAccess
from modelyard.tenancy.directory import Directory
from modelyard.tenancy.resource_types import StoredApp, Tenant
from modelyard.transport.egress import EgressRules
from modelyard.transport.egress_proxy import EgressProxy, TransferBudget

CodeNetworkMode = Literal["off", "apps", "on"]
"""`off`: no code node. `apps`: those of apps that turn it on. `on`: those of all apps that
do not turn it off."""

_MAX_BYTES = 256 << 20
"""What one code node may transfer, in both directions."""
# Name servers answer slowly for unknown names; a program that looks up many must not
# use all threads for it.
_LOOKUPS_AT_ONCE = 2


def network_refusal(
    mode: CodeNetworkMode, tenant_mode: CodeNetworkMode | Literal[""], app: bool | None
) -> str:
    """Return why code nodes of an app have no network; empty if they have it.

    `mode` is the setting, `tenant_mode` the tenant's own, empty for none, and `app` the
    app's, None for none.
    """
    effective = tenant_mode or mode
    if effective == "off":
        place = (
            "for this tenant; an operator can change the tenant's 'code_network'"
            if tenant_mode
            else "on this server; an operator can change the setting"
            " 'workflows.code_network'"
        )
        return f"Network access of code nodes is off {place}"
    is_on = app if app is not None else effective == "on"
    if is_on:
        return ""
    return (
        "Network access of code nodes is off for this app; an administrator can turn on"
        " the app's 'code-network'"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeNetwork:
    """Gives code nodes their way to the network: a proxy of their own for each."""

    rules: Callable[[], EgressRules]
    mode: Callable[[], CodeNetworkMode]
    """Returns the setting."""
    directory: Directory
    authorities: str = ""
    """Certificates in PEM that the operator trusts in addition."""
    _lookups: WeakValueDictionary[str, asyncio.Semaphore] = field(
        default_factory=WeakValueDictionary[str, asyncio.Semaphore]
    )
    """Tenant → the limit of its lookups, for as long as a program of it runs."""

    def refusal(self, tenant: str, app: str) -> str:
        """Return why code nodes of a tenant's app, by its id, have no network; empty if
        they have it."""
        tenant_row = self.directory.one(tenant, Tenant, tenant)
        return network_refusal(
            self.mode(),
            tenant_row.code_network if tenant_row is not None else "",
            self._app_value(tenant, app),
        )

    def _app_value(self, tenant: str, app: str) -> bool | None:
        """Return an app's own value; None if it has none, or if the file is not stored
        as an app."""
        if not app:
            return None
        stored_app = self.directory.one(tenant, StoredApp, app)
        # Runs of a deleted app may still finish, but nobody can turn them off.
        return stored_app.code_network if stored_app is not None else False

    def access(self, tenant: str, app: str) -> NetworkAccess:
        """Return what one program of a tenant's app may do."""
        # Asked for each program, so that a changed setting applies at once.
        if refusal := self.refusal(tenant, app):
            return NetworkAccess(refusal=refusal)
        lookups = self._lookups.get(tenant) or asyncio.Semaphore(_LOOKUPS_AT_ONCE)
        self._lookups[tenant] = lookups
        # A new one for each program: no connection, limit or permission is shared.
        proxy = EgressProxy(
            self.rules,
            # Programs reach no path of this server, not even its files.
            lambda: "",
            label=f"code of {tenant}",
            lookups=lookups,
            budget=TransferBudget(_MAX_BYTES),
        )
        return NetworkAccess(connector=proxy, authorities=self.authorities)
