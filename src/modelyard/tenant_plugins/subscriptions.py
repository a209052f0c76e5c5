"""What trigger plugins listen to (`/t/ID`): subscriptions at their providers, made, made anew and taken back."""

import logging
from typing import Any

from modelyard.base.errors import InvokeBadRequestError, ModelyardError, NotFoundError
from modelyard.models.types import JSON
from modelyard.storage.resources import missing
from modelyard.tenancy.directory import Directory, Known
from modelyard.tenancy.kinds import Subscription
from modelyard.tenancy.sealed_rows import SealedRows
from modelyard.tenant_plugins.plugins import Plugins

logger = logging.getLogger("modelyard.plugins")


class PluginSubscriptions:
    """Every method but `subscription` and `renew` is given the tenant that it acts for, and reaches nothing else."""

    def __init__(self, plugins: Plugins, rows: SealedRows, directory: Directory) -> None:
        self._plugins = plugins
        self._rows = rows
        self._directory = directory

    async def subscribe(
        self, tenant: str, plugin: str, name: str, parameters: JSON, credentials: JSON, *, origin: str, user: str = ""
    ) -> str:
        """Have a trigger plugin's provider tell what happens: the subscription's id, which its webhook's address ends
        in. Nothing is left behind where the provider refuses. Raises InvokeBadRequestError, PluginError."""
        installed = self._plugins.find(tenant, plugin)
        trigger = installed.declaration.trigger
        if trigger is None:
            raise InvokeBadRequestError(f"{installed.plugin_id!r} has no triggers")
        provider = trigger.identity.name
        subscription = Subscription(plugin=installed.plugin_id, provider=provider, user=user)
        row = await self._rows.keep(tenant, Subscription.kind, name, {}, subscription)
        kind = "api-key" if credentials else "unauthorized"
        data = {
            "provider": provider, "endpoint": f"{origin}/t/{row}", "parameters": parameters,
            "credentials": credentials, "credential_type": kind,
        }  # fmt: skip
        try:
            answer = await self._plugins.one(tenant, plugin, "trigger", "subscribe_trigger", data, user=user)
            made = answer.get("subscription") or {}
            kept = {"subscription": made, "credentials": credentials, "credential_type": kind}
            await self._rows.keep(tenant, Subscription.kind, name, kept, subscription, id=row)
        except BaseException:
            await self._rows.remove(tenant, Subscription.kind, row)
            raise
        return row

    def all(self, tenant: str) -> list[tuple[str, str, Subscription]]:
        """(id, name, subscription) of all that a tenant has."""
        return [(known.id, known.name, value) for known, value in self._directory.of(tenant, Subscription)]

    def subscription(self, id: str) -> tuple[str, Subscription, JSON]:  # noqa: A002  the field's word
        """(tenant, subscription, what is secret of it) by the id in its address. Raises NotFoundError."""
        known = self._directory.wherever(Subscription, id)
        if known is None or self._directory.shuts_out(known[0], known[1].user):
            raise NotFoundError("there is no such webhook", code="subscription_not_found")
        tenant, subscription = known
        return tenant, subscription, self._kept(tenant, id, subscription)

    async def unsubscribe(self, tenant: str, id: str) -> None:  # noqa: A002
        """Raises NotFoundError; the provider's refusal is said in the log, and the webhook is gone all the same."""
        subscription = self._directory.one(tenant, Subscription, id)
        if subscription is None:
            raise missing(Subscription.kind, id)
        kept = self._kept(tenant, id, subscription)
        try:
            data = {"provider": subscription.provider, **kept}
            await self._plugins.one(tenant, subscription.plugin, "trigger", "unsubscribe_trigger", data)
        except ModelyardError as error:
            fields = {"subscription": id, "error": str(error)}
            logger.warning("a provider was not told that nobody listens any more", extra={"fields": fields})
        await self._rows.remove(tenant, Subscription.kind, id)

    async def renew(self, until: float) -> int:
        """Have those of all tenants made anew that end before then; how many. A provider that refuses is said in the
        log."""
        count = 0
        for tenant, known, subscription in list(self._directory.everywhere(Subscription)):
            try:
                count += await self._renewed(tenant, known, subscription, until)
            except ModelyardError as error:
                fields = {"subscription": known.id, "error": str(error)}
                logger.warning("a subscription could not be made anew", extra={"fields": fields})
        return count

    async def _renewed(self, tenant: str, known: Known, subscription: Subscription, until: float) -> bool:
        """Whether it ends before then, and was made anew. Raises ModelyardError."""
        kept = self._kept(tenant, known.id, subscription)
        ends = (kept.get("subscription") or {}).get("expires_at") or -1
        if not 0 < ends < until:
            return False
        data = {"provider": subscription.provider, **kept}
        answer = await self._plugins.one(tenant, subscription.plugin, "trigger", "refresh_trigger", data)
        fresh = {**kept, "subscription": {**kept["subscription"], **(answer.get("subscription") or {})}}
        await self._rows.keep(tenant, Subscription.kind, known.name, fresh, subscription, id=known.id)
        return True

    def _kept(self, tenant: str, id: str, subscription: Subscription) -> Any:  # noqa: A002
        """Raises SecretError."""
        return self._rows.read(tenant, Subscription.kind, id, subscription.secret)
