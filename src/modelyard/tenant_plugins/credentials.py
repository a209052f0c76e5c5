"""Credentials for the tools and datasources of plugins: filled-in forms, and OAuth
tokens.

Each belongs to a tenant, for all its users or for one, and is stored encrypted.
"""

import asyncio
import base64
import binascii
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import msgspec

from modelyard.base.clock import Clock
from modelyard.base.errors import InvokeBadRequestError, ModelyardError, NotFoundError
from modelyard.models.types import JSON
from modelyard.plugins.declaration import Declaration, OAuth
from modelyard.storage.secrets import KeyRing
from modelyard.tenancy.directory import CachedResource, Directory
from modelyard.tenancy.resource_types import OAuthClient, ToolCredential
from modelyard.tenancy.sealed_rows import SealedRows
from modelyard.tenant_plugins.forms import checked_form

logger = logging.getLogger("modelyard.plugins")

# Long enough to create an account at the provider meanwhile.
_TICKET_SECONDS = 900.0
_REFRESH_MARGIN_SECONDS = 60.0
"""How many seconds before its expiry a token is refreshed."""


class Ticket(msgspec.Struct, frozen=True, kw_only=True):
    """The state of an OAuth sign-in. It travels with the browser, signed."""

    tenant: str
    provider: str
    name: str
    user: str
    until: float


class HasDeclaration(Protocol):
    """An installed plugin with its declaration."""

    @property
    def plugin_id(self) -> str:
        """The plugin's `author/name`."""
        ...

    @property
    def declaration(self) -> Declaration:
        """What the plugin declares."""
        ...


class Plugins(Protocol):
    """What this module needs of the plugins."""

    def provider(self, tenant: str, name: str) -> tuple[HasDeclaration, str]:
        """Return the plugin of a provider, and the provider's name within the plugin."""
        ...

    async def call_once(
        self, tenant: str, plugin: str, kind: str, action: str, data: Mapping[str, Any]
    ) -> JSON:
        """Call a plugin and return its first answer."""
        ...


class PluginCredentials:
    """Stores, finds and refreshes credentials of plugin providers."""

    def __init__(
        self,
        plugins: Plugins,
        rows: SealedRows,
        directory: Directory,
        keys: KeyRing,
        clock: Clock,
        *,
        on_secret: Callable[[Iterable[str]], None] = lambda values: None,
    ) -> None:
        """`on_secret` gets what must not appear in logs."""
        self._on_secret = on_secret
        self._plugins = plugins
        self._rows = rows
        self._directory = directory
        self._keys = keys
        self._clock = clock
        self._locks: dict[str, asyncio.Lock] = {}

    # forms

    async def add(
        self,
        tenant: str,
        provider: str,
        name: str,
        form_values: JSON,
        *,
        user: str = "",
    ) -> str:
        """Store a credential of a tool or datasource provider after the plugin has
        accepted it. Returns the row's id.

        With `user` only that user may use it. Raises InvokeBadRequestError for an
        invalid form, PluginError if the provider refuses it.
        """
        plugin, provider_name = self._plugins.provider(tenant, provider)
        owner = plugin.declaration.tool or plugin.declaration.datasource
        if owner is None or owner.identity.name != provider_name:
            raise InvokeBadRequestError(
                f"{provider!r} uses a model's credentials, or none"
            )
        filled = checked_form(
            owner.credentials_schema,
            form_values,
            description=f"The credential of {provider!r}",
        )
        provider_type = "tool" if plugin.declaration.tool is not None else "datasource"
        data = {"provider": provider_name, "credentials": filled}
        # The plugin tries the credential at the provider, so a wrong one is refused
        # before it is stored.
        await self._plugins.call_once(
            tenant,
            plugin.plugin_id,
            provider_type,
            f"validate_{provider_type}_credentials",
            data,
        )
        full_name = f"{plugin.plugin_id}/{provider_name}"
        value = ToolCredential(provider=full_name, user=user, label=name)
        self._check_label(tenant, value)
        # The names of rows are unique in a tenant, labels only within a provider.
        row_name = _row_name(full_name, name, user)
        return await self._rows.save(
            tenant, ToolCredential.kind, row_name, filled, value
        )

    def _check_label(
        self, tenant: str, value: ToolCredential, *, but: str = ""
    ) -> None:
        """Raise InvokeBadRequestError if the provider has another credential with the
        label already. `but` is the id of the credential that is changed."""
        row = self._labelled(tenant, value)
        if row is not None and row.id != but:
            raise InvokeBadRequestError(
                f"{value.provider!r} has a credential {value.label!r} already, with the"
                f" id {row.id!r}; choose another label",
                param="label",
            )

    def _labelled(self, tenant: str, value: ToolCredential) -> CachedResource | None:
        """Return the credential with the same provider, user and label; None if there
        is none."""
        return next(
            (
                row
                for row, other in self._directory.of(tenant, ToolCredential)
                if (other.provider, other.user) == (value.provider, value.user)
                and value.label == (other.label or row.name)
            ),
            None,
        )

    async def rename(self, tenant: str, id: str, label: str) -> None:
        """Change the label of a credential of a tool or datasource provider.

        Raises NotFoundError, and InvokeBadRequestError if the provider has another one
        with the label.
        """
        if not label.strip() or not label.isprintable():
            raise InvokeBadRequestError(
                "'label' must be printable characters", param="label"
            )
        # A refresh at the same time would write the old label again.
        async with self._locks.setdefault(id, asyncio.Lock()):
            value = self._directory.one(tenant, ToolCredential, id)
            if value is None:
                raise NotFoundError(
                    f"Credential {id!r} does not exist", code="credential_not_found"
                )
            changed = msgspec.structs.replace(value, label=label)
            self._check_label(tenant, changed, but=id)
            credentials = self._rows.read(tenant, ToolCredential.kind, id, value.secret)
            name = _row_name(value.provider, label, value.user)
            await self._rows.save(
                tenant, ToolCredential.kind, name, credentials, changed, id=id
            )

    def _replaced_by_sign_in(self, tenant: str, value: ToolCredential) -> str:
        """Return the id of the credential that a repeated sign-in replaces; "" if it is
        the first. Raises InvokeBadRequestError if the label belongs to a credential
        that was entered."""
        row = self._labelled(tenant, value)
        if row is None:
            return ""
        is_signed_in = row.value.type == "oauth2"
        self._check_label(tenant, value, but=row.id if is_signed_in else "")
        return row.id

    def usable(
        self, tenant: str, provider: str, user: str = ""
    ) -> list[tuple[CachedResource, ToolCredential]]:
        """Return the credentials of a provider that a user may use, the user's own
        first. The first one is the default."""
        usable_credentials = [
            (row, value)
            for row, value in self._directory.of(tenant, ToolCredential)
            if value.provider == provider and value.user in ("", user)
        ]
        return sorted(usable_credentials, key=lambda pair: not pair[1].user)

    async def find(
        self, tenant: str, provider: str, id: str = "", user: str = ""
    ) -> tuple[JSON, str]:
        """Return (credentials, type) for calls of a provider; refreshed if they expire
        soon, empty if there are none.

        Raises NotFoundError if the id does not exist or is another user's, and
        PluginError.
        """
        for row, value in self.usable(tenant, provider, user):
            if id not in ("", row.id):
                continue
            # A negative expiry means that the credential does not expire.
            if 0 <= value.expires_at < self._clock.time() + _REFRESH_MARGIN_SECONDS:
                return await self._refresh(tenant, row, value), value.type
            credentials = self._rows.read(
                tenant, ToolCredential.kind, row.id, value.secret
            )
            self._on_secret(self._secrets_of(tenant, provider, credentials))
            return credentials, value.type
        if id:
            raise NotFoundError(
                f"Credential {id!r} does not exist", code="credential_not_found"
            )
        return {}, "unauthorized"

    def _secrets_of(self, tenant: str, provider: str, credentials: JSON) -> list[str]:
        """Return the values of the secret fields of a provider's form."""
        plugin, _ = self._plugins.provider(tenant, provider)
        owner = plugin.declaration.tool or plugin.declaration.datasource
        fields = owner.credentials_schema if owner is not None else []
        secret = {field.name for field in fields if field.is_secret}
        return [
            value
            for name, value in credentials.items()
            if name in secret and isinstance(value, str) and value
        ]

    # a provider's own page

    async def set_client(self, tenant: str, provider: str, form_values: JSON) -> str:
        """Store the OAuth client's id and secret for a provider, replacing earlier
        ones. Returns the row's id."""
        plugin, provider_name, oauth = self._oauth(tenant, provider)
        filled = checked_form(
            oauth.client_schema,
            form_values,
            description=f"The OAuth client of {provider!r}",
        )
        name = f"{plugin.plugin_id}/{provider_name}"
        existing_id = next(
            (
                row.id
                for row, value in self._directory.of(tenant, OAuthClient)
                if value.provider == name
            ),
            "",
        )
        return await self._rows.save(
            tenant,
            OAuthClient.kind,
            name,
            filled,
            OAuthClient(provider=name),
            id=existing_id,
        )

    def ticket(self, tenant: str, provider: str, name: str, user: str = "") -> str:
        """Return a ticket with which a browser may start an OAuth sign-in. Raises
        NotFoundError or InvokeBadRequestError."""
        plugin, provider_name, _ = self._oauth(tenant, provider)
        # Fail now if no client is set up, and not after the person has clicked.
        full_name = f"{plugin.plugin_id}/{provider_name}"
        self._client(tenant, full_name)
        label = ToolCredential(provider=full_name, user=user, label=name)
        self._replaced_by_sign_in(tenant, label)
        ticket = Ticket(
            tenant=tenant,
            provider=full_name,
            name=name,
            user=user,
            until=self._clock.time() + _TICKET_SECONDS,
        )
        body = (
            base64.urlsafe_b64encode(msgspec.json.encode(ticket)).decode().rstrip("=")
        )
        return f"{body}.{self._keys.digest(f'oauth:{body}'.encode()).partition(':')[2]}"

    def read(self, text: str) -> Ticket:
        """Return the ticket in a text. Raises InvokeBadRequestError if it is forged,
        expired, or its user is disabled."""
        body, _, signature = text.partition(".")
        invalid_ticket = InvokeBadRequestError(
            "Authorization session not found or expired. Start again.", param="ticket"
        )
        if not self._keys.matches_any(f"oauth:{body}".encode(), signature):
            raise invalid_ticket
        try:
            ticket = msgspec.json.decode(
                base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)), type=Ticket
            )
        except (msgspec.DecodeError, binascii.Error) as error:
            raise invalid_ticket from error
        if ticket.until < self._clock.time() or self._directory.is_disabled(
            ticket.tenant, ticket.user
        ):
            raise invalid_ticket
        return ticket

    async def page(self, ticket: Ticket, redirect: str) -> str:
        """Return the provider's authorization page. Raises PluginError or
        NotFoundError."""
        answer = await self._call_oauth(
            ticket.tenant, ticket.provider, "get_authorization_url", redirect, {}
        )
        url = str(answer.get("authorization_url") or "")
        # The plugin is not trusted: an address such as `javascript:` must not reach the
        # browser.
        if not url.startswith(("https://", "http://")):
            raise InvokeBadRequestError(
                f"The plugin returned an invalid authorization URL: {url[:80]!r}"
            )
        return url

    async def finish(self, ticket: Ticket, redirect: str, raw_request: bytes) -> str:
        """Exchange the provider's redirect for credentials and store them. Returns the
        row's id. Raises PluginError."""
        extra = {"raw_http_request": raw_request.hex()}
        answer = await self._call_oauth(
            ticket.tenant, ticket.provider, "get_credentials", redirect, extra
        )
        value = ToolCredential(
            provider=ticket.provider,
            type="oauth2",
            user=ticket.user,
            label=ticket.name,
            expires_at=float(answer.get("expires_at") or -1),
        )
        credentials: dict[str, Any] = answer.get("credentials") or {}
        name = _row_name(ticket.provider, ticket.name, ticket.user)
        existing_id = self._replaced_by_sign_in(ticket.tenant, value)
        return await self._rows.save(
            ticket.tenant, ToolCredential.kind, name, credentials, value, id=existing_id
        )

    async def _refresh(
        self, tenant: str, row: CachedResource, value: ToolCredential
    ) -> JSON:
        """Refresh a token once for all who wait, and return the credentials.

        If that fails, the old token is returned while it is still valid.
        """
        async with self._locks.setdefault(row.id, asyncio.Lock()):
            # Read again under the lock: another call may have refreshed it.
            current_value = self._directory.one(tenant, ToolCredential, row.id) or value
            credentials: JSON = self._rows.read(
                tenant, ToolCredential.kind, row.id, current_value.secret
            )
            if (
                current_value.expires_at < 0
                or current_value.expires_at
                >= self._clock.time() + _REFRESH_MARGIN_SECONDS
            ):
                return credentials  # another call has refreshed them
            try:
                answer = await self._call_oauth(
                    tenant,
                    value.provider,
                    "refresh_credentials",
                    "",
                    {"credentials": credentials},
                )
            except ModelyardError as error:
                if current_value.expires_at > self._clock.time():
                    fields = {"credential": row.id, "error": str(error)}
                    logger.warning("token refresh failed", extra={"fields": fields})
                    return credentials
                raise
            new_credentials: JSON = answer.get("credentials") or credentials
            changed = msgspec.structs.replace(
                current_value, expires_at=float(answer.get("expires_at") or -1)
            )
            await self._rows.save(
                tenant,
                ToolCredential.kind,
                row.name,
                new_credentials,
                changed,
                id=row.id,
            )
            return new_credentials

    async def _call_oauth(
        self, tenant: str, provider: str, action: str, redirect: str, extra: JSON
    ) -> JSON:
        """Make an OAuth call of a plugin, with this server's client id and secret."""
        plugin, provider_name, _ = self._oauth(tenant, provider)
        client = self._client(tenant, provider)
        data = {
            "provider": provider_name,
            "redirect_uri": redirect,
            "system_credentials": client,
            **extra,
        }
        return await self._plugins.call_once(
            tenant, plugin.plugin_id, "oauth", action, data
        )

    def _client(self, tenant: str, provider: str) -> JSON:
        """Return the OAuth client of a provider. Raises NotFoundError if none is set
        up."""
        for row, value in self._directory.of(tenant, OAuthClient):
            if value.provider == provider:
                return self._rows.read(tenant, OAuthClient.kind, row.id, value.secret)
        raise NotFoundError(
            f"No OAuth client of {provider!r} is configured; store its id and"
            " secret with `modelyard plugin credential client`",
            code="oauth_client_not_found",
        )

    def _oauth(self, tenant: str, provider: str) -> tuple[HasDeclaration, str, OAuth]:
        """Return (plugin, provider name, OAuth declaration). Raises NotFoundError or
        InvokeBadRequestError."""
        plugin, provider_name = self._plugins.provider(tenant, provider)
        oauth = plugin.declaration.oauth
        if oauth is None:
            problem = "does not support OAuth; enter its credentials in the form"
            raise InvokeBadRequestError(f"{provider!r} {problem}")
        return plugin, provider_name, oauth


def _row_name(provider: str, label: str, user: str) -> str:
    """Return the name of a credential's row, which is unique in its tenant."""
    return f"{provider}: {label}" + (f" ({user})" if user else "")
