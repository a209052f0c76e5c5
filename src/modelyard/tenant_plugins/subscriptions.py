"""Webhook subscriptions of trigger plugins (`/t/ID`): creating, renewing and cancelling
them at their providers."""

import logging
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
from modelyard.storage.resources import not_found
from modelyard.tenancy.directory import CachedResource, Directory
from modelyard.tenancy.resource_types import Subscription
from modelyard.tenancy.sealed_rows import SealedRows
from modelyard.tenant_plugins.plugins import Plugins

logger = logging.getLogger("modelyard.plugins")


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
        user: str = "",
    ) -> str:
        """Subscribe to a trigger plugin's provider and return the subscription's id,
        which ends its webhook's address.

        If the provider refuses, nothing is left behind. Raises InvokeBadRequestError or
        PluginError.
        """
        installed = self._plugins.find(tenant, plugin)
        trigger = installed.declaration.trigger
        if trigger is None:
            raise InvokeBadRequestError(f"{installed.plugin_id!r} has no triggers")
        provider = trigger.identity.name
        subscription = Subscription(
            plugin=installed.plugin_id, provider=provider, user=user
        )
        # The row comes first, because the provider needs the webhook's address, which
        # contains the row's id.
        row = await self._rows.save(tenant, Subscription.kind, name, {}, subscription)
        credential_type = "api-key" if credentials else "unauthorized"
        data = {
            "provider": provider,
            "endpoint": f"{origin}/t/{row}",
            "parameters": parameters,
            "credentials": credentials,
            "credential_type": credential_type,
        }
        try:
            answer = await self._plugins.call_once(
                tenant, plugin, "trigger", "subscribe_trigger", data, user=user
            )
            provider_subscription = _subscription_in(answer, installed.plugin_id)
            secret = {
                "subscription": provider_subscription,
                "credentials": credentials,
                "credential_type": credential_type,
            }
            await self._rows.save(
                tenant, Subscription.kind, name, secret, subscription, id=row
            )
        # Also on cancellation: a webhook without a subscription must not remain.
        except BaseException:
            await self._rows.remove(tenant, Subscription.kind, row)
            raise
        return row

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
        await self._rows.remove(tenant, Subscription.kind, id)

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
