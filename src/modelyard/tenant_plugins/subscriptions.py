"""Webhook subscriptions of trigger plugins (`/t/ID`): creating, renewing and cancelling
them at their providers, and those that people set up there by hand."""

import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from modelyard.base.errors import (
    InvokeBadRequestError,
    ModelyardError,
    NotFoundError,
    PluginError,
)
from modelyard.base.fields import short_repr
from modelyard.base.json_types import EMPTY_OBJECT, is_object
from modelyard.models.types import JSON
from modelyard.plugins.declaration import TriggerProvider
from modelyard.storage.resources import not_found
from modelyard.tenancy.directory import CachedResource, Directory
from modelyard.tenancy.resource_types import Subscription
from modelyard.tenancy.sealed_rows import SealedRows
from modelyard.tenant_plugins.forms import checked_form
from modelyard.tenant_plugins.plugins import Plugins

logger = logging.getLogger("modelyard.plugins")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """A subscription that is about to be made."""

    tenant: str
    name: str
    origin: str
    parameters: JSON
    credentials: JSON
    properties: JSON
    """What a person entered for a subscription by hand; empty for all others."""

    @property
    def credential_type(self) -> str:
        """The type of the credentials, as the plugin protocol names it."""
        return "api-key" if self.credentials else "unauthorized"

    def address(self, row: str) -> str:
        """Return the address that the provider calls."""
        return f"{self.origin}/t/{row}"

    def secret(self, row: str) -> JSON:
        """Return the secret values with a subscription that does not expire."""
        return {
            "subscription": {
                "expires_at": -1,
                "endpoint": self.address(row),
                "parameters": self.parameters,
                "properties": self.properties,
            },
            "credentials": self.credentials,
            "credential_type": self.credential_type,
        }


class PluginSubscriptions:
    """Manages subscriptions. Every method except `subscription` and `renew` takes the
    tenant it acts for and reaches nothing else."""

    def __init__(
        self, plugins: Plugins, rows: SealedRows, directory: Directory
    ) -> None:
        self._plugins = plugins
        self._rows = rows
        self._directory = directory

    async def subscribe(
        self,
        tenant: str,
        plugin: str,
        name: str,
        parameters: JSON,
        credentials: JSON,
        *,
        origin: str,
        properties: JSON | None = None,
        user: str = "",
    ) -> str:
        """Subscribe to a trigger plugin's provider and return the subscription's id,
        which ends its webhook's address.

        With `properties`, or at a provider that plugins cannot subscribe to, nothing is
        asked of the provider: a person enters the address there, and the properties,
        such as a signing secret, verify its calls. If the provider refuses, nothing is
        left behind. Raises InvokeBadRequestError or PluginError.
        """
        installed = self._plugins.find(tenant, plugin)
        trigger = installed.declaration.trigger
        if trigger is None:
            raise InvokeBadRequestError(f"{installed.plugin_id!r} has no triggers")
        is_manual = properties is not None or trigger.subscription_constructor is None
        order = _Order(
            tenant=tenant,
            name=name,
            origin=origin,
            parameters=parameters,
            credentials=credentials,
            properties=_manual_properties(
                installed.plugin_id, trigger, parameters, credentials, properties or {}
            )
            if is_manual
            else {},
        )
        subscription = Subscription(
            plugin=installed.plugin_id,
            provider=trigger.identity.name,
            user=user,
            is_manual=is_manual,
        )
        # The row comes first, because the provider needs the webhook's address, which
        # contains the row's id.
        row = await self._rows.save(tenant, Subscription.kind, name, {}, subscription)
        try:
            # Providers call the address while they are asked, to see whether it answers.
            secret = order.secret(row)
            await self._save(tenant, row, name, secret, subscription)
            if not is_manual:
                secret["subscription"] = await self._ask_provider(
                    order, row, subscription
                )
                await self._save(tenant, row, name, secret, subscription)
        # Also on cancellation: a webhook without a subscription must not remain.
        except BaseException:
            await self._rows.remove(tenant, Subscription.kind, row)
            raise
        return row

    async def _ask_provider(
        self, order: "_Order", row: str, subscription: Subscription
    ) -> JSON:
        """Let the plugin create the subscription at its provider and return it. Raises
        PluginError if the provider refuses."""
        data = {
            "provider": subscription.provider,
            "endpoint": order.address(row),
            "parameters": order.parameters,
            "credentials": order.credentials,
            "credential_type": order.credential_type,
        }
        answer = await self._plugins.call_once(
            order.tenant,
            subscription.plugin,
            "trigger",
            "subscribe_trigger",
            data,
            user=subscription.user,
        )
        return _subscription_in(answer, subscription.plugin)

    async def _save(
        self, tenant: str, row: str, name: str, secret: JSON, subscription: Subscription
    ) -> None:
        """Store the secret values of a subscription that exists."""
        await self._rows.save(
            tenant, Subscription.kind, name, secret, subscription, id=row
        )

    def all(self, tenant: str) -> list[tuple[str, str, Subscription]]:
        """Return (id, name, subscription) for all subscriptions of a tenant."""
        return [
            (row.id, row.name, value)
            for row, value in self._directory.of(tenant, Subscription)
        ]

    def subscription(self, id: str) -> tuple[str, Subscription, JSON]:
        """Return (tenant, subscription, secret values) by the id in an address. Raises
        NotFoundError."""
        owned_subscription = self._directory.get_any_tenant(Subscription, id)
        if owned_subscription is None or self._directory.is_disabled(
            owned_subscription[0], owned_subscription[1].user
        ):
            raise NotFoundError("Webhook not found", code="subscription_not_found")
        tenant, subscription = owned_subscription
        return tenant, subscription, self._read_secret(tenant, id, subscription)

    async def unsubscribe(self, tenant: str, id: str) -> None:
        """Cancel a subscription. Raises NotFoundError.

        If the provider refuses, that is logged and the webhook is deleted anyway.
        """
        subscription = self._directory.one(tenant, Subscription, id)
        if subscription is None:
            raise not_found(Subscription.kind, id)
        # What a person set up at the provider, a person removes there.
        if not subscription.is_manual:
            await self._cancel_at_provider(tenant, id, subscription)
        await self._rows.remove(tenant, Subscription.kind, id)

    async def _cancel_at_provider(
        self, tenant: str, id: str, subscription: Subscription
    ) -> None:
        """Let the plugin cancel a subscription at its provider; a failure is logged."""
        secret = self._read_secret(tenant, id, subscription)
        try:
            data = {"provider": subscription.provider, **secret}
            await self._plugins.call_once(
                tenant, subscription.plugin, "trigger", "unsubscribe_trigger", data
            )
        except ModelyardError as error:
            fields = {"subscription": id, "error": str(error)}
            logger.warning(
                "trigger unsubscription failed",
                extra={"fields": fields},
            )

    async def renew(self, until: float) -> int:
        """Renew the subscriptions of all tenants that end before `until`; returns how
        many. Refusals are logged."""
        count = 0
        for tenant, row, subscription in list(
            self._directory.list_all_tenants(Subscription)
        ):
            try:
                count += await self._renew_subscription(
                    tenant, row, subscription, until
                )
            except ModelyardError as error:
                fields = {"subscription": row.id, "error": str(error)}
                logger.warning(
                    "trigger subscription not renewed", extra={"fields": fields}
                )
        return count

    async def _renew_subscription(
        self, tenant: str, row: CachedResource, subscription: Subscription, until: float
    ) -> bool:
        """Renew a subscription that ends before `until`; return whether it was renewed.
        Raises ModelyardError."""
        # Its provider knows of no plugin that could renew it.
        if subscription.is_manual:
            return False
        secret = self._read_secret(tenant, row.id, subscription)
        ends = (secret.get("subscription") or EMPTY_OBJECT).get("expires_at") or -1
        if not 0 < ends < until:
            return False
        data = {"provider": subscription.provider, **secret}
        answer = await self._plugins.call_once(
            tenant, subscription.plugin, "trigger", "refresh_trigger", data
        )
        # A provider returns only the fields that have changed.
        renewed_fields = _subscription_in(answer, subscription.plugin)
        renewed_secret: dict[str, Any] = {
            **secret,
            "subscription": {**secret["subscription"], **renewed_fields},
        }
        await self._rows.save(
            tenant, Subscription.kind, row.name, renewed_secret, subscription, id=row.id
        )
        return True

    def _read_secret(self, tenant: str, id: str, subscription: Subscription) -> Any:
        """Return the decrypted secret values. Raises SecretError."""
        return self._rows.read(tenant, Subscription.kind, id, subscription.secret)


def _subscription_in(answer: JSON, plugin: str) -> dict[str, Any]:
    """Return the subscription in a plugin's result, empty if there is none. Raises
    PluginError for one that the next calls could not read."""
    subscription: object = answer.get("subscription") or {}
    if not is_object(subscription):
        raise PluginError(
            "'subscription' of the plugin's result must be an object", plugin=plugin
        )
    ends = subscription.get("expires_at")
    if ends is not None and (
        isinstance(ends, bool) or not isinstance(ends, int | float)
    ):
        raise PluginError(
            f"'expires_at' of the subscription must be seconds since 1970, not"
            f" {short_repr(ends)}",
            plugin=plugin,
        )
    return subscription


def _manual_properties(
    plugin: str,
    trigger: TriggerProvider,
    parameters: JSON,
    credentials: JSON,
    properties: JSON,
) -> JSON:
    """Return the checked properties of a subscription by hand.

    Raises InvokeBadRequestError for values that the provider's form does not have, or
    that only a subscription by the plugin would use.
    """
    description = f"Subscription to {plugin!r} by hand"
    fields = [field.name for field in trigger.subscription_schema]
    for values, title in ((parameters, "parameters"), (credentials, "credentials")):
        if values:
            raise InvokeBadRequestError(
                f"{description} takes no {title}; its properties are {_listed(fields)}",
                param=title,
            )
    # A misspelled secret would leave the address open to anybody.
    unknown = [name for name in properties if name not in fields]
    if unknown:
        raise InvokeBadRequestError(
            f"{description}: unknown property {unknown[0][:100]!r}; its properties are"
            f" {_listed(fields)}",
            param="properties",
        )
    return checked_form(
        trigger.subscription_schema, properties, description=description
    )


def _listed(names: Collection[str]) -> str:
    """Return names for an error message."""
    return ", ".join(names) or "none"
