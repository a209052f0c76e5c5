"""What tools and datasources of plugins are called with: forms that people fill in, and what a provider's own page
gives them (OAuth). Each belongs to a tenant, to all of it or to one user, and is kept encrypted.
"""

import asyncio
import base64
import binascii
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from modelyard.base.clock import Clock
from modelyard.base.errors import InvokeBadRequestError, ModelyardError, NotFoundError
from modelyard.models.types import JSON
from modelyard.plugins.declaration import Declaration, Field, OAuth
from modelyard.storage.secrets import KeyRing
from modelyard.tenancy.directory import Directory, Known
from modelyard.tenancy.kinds import OAuthClient, ToolCredential
from modelyard.tenancy.sealed_rows import SealedRows

logger = logging.getLogger("modelyard.plugins")

_TICKET_SECONDS = 900.0
_EARLY_SECONDS = 60.0
"""Before a token's end it is fetched anew."""


class Ticket(msgspec.Struct, frozen=True, kw_only=True):
    """Who wants to be asked by a provider's page: it travels with them, signed."""

    tenant: str
    provider: str
    name: str
    user: str
    until: float


class HasDeclaration(Protocol):
    @property
    def plugin_id(self) -> str: ...

    @property
    def declaration(self) -> Declaration: ...


class Plugins(Protocol):
    """What this needs of the plugins that it keeps credentials for."""

    def provider(self, tenant: str, name: str) -> tuple[HasDeclaration, str]: ...

    async def one(self, tenant: str, plugin: str, kind: str, action: str, data: Mapping[str, Any]) -> JSON: ...


class PluginCredentials:
    def __init__(
        self, plugins: Plugins, rows: SealedRows, directory: Directory, keys: KeyRing, clock: Clock
    ) -> None:  # fmt: skip
        self._plugins = plugins
        self._rows = rows
        self._directory = directory
        self._keys = keys
        self._clock = clock
        self._locks: dict[str, asyncio.Lock] = {}

    # forms

    async def add(self, tenant: str, provider: str, name: str, given: JSON, *, user: str = "") -> str:
        """Keep what a tool or datasource provider is called with, once its plugin has accepted it; the row's id.

        With `user` it is that user's own. Raises InvokeBadRequestError for a form that is filled in wrongly,
        PluginError with the provider's refusal.
        """
        one, bare = self._plugins.provider(tenant, provider)
        owner = one.declaration.tool or one.declaration.datasource
        if owner is None or owner.identity.name != bare:
            raise InvokeBadRequestError(f"{provider!r} is called with a model's credentials, or with none")
        filled = checked_form(owner.credentials_schema, given, what=f"the credential of {provider!r}")
        kind = "tool" if one.declaration.tool is not None else "datasource"
        data = {"provider": bare, "credentials": filled}
        await self._plugins.one(tenant, one.plugin_id, kind, f"validate_{kind}_credentials", data)
        value = ToolCredential(provider=f"{one.plugin_id}/{bare}", user=user)
        return await self._rows.keep(tenant, ToolCredential.kind, name, filled, value)

    def listed(self, tenant: str, provider: str, user: str = "") -> list[tuple[Known, ToolCredential]]:
        """Those of a provider that a user may call with, the user's own first; the first is taken where none is
        named."""
        found = [
            (one, value)
            for one, value in self._directory.of(tenant, ToolCredential)
            if value.provider == provider and value.user in ("", user)
        ]
        return sorted(found, key=lambda each: not each[1].user)

    async def find(self, tenant: str, provider: str, id: str = "", user: str = "") -> tuple[JSON, str]:  # noqa: A002
        """(credentials, their type) to call a provider with, fetched anew where their time is over; empty where there
        are none. Raises NotFoundError for an id that is not there, or is another user's; PluginError."""
        for known, value in self.listed(tenant, provider, user):
            if id not in ("", known.id):
                continue
            if 0 <= value.expires_at < self._clock.time() + _EARLY_SECONDS:
                return await self._refreshed(tenant, known, value), value.type
            return self._rows.read(tenant, ToolCredential.kind, known.id, value.secret), value.type
        if id:
            raise NotFoundError(f"credential {id!r} does not exist", code="credential_not_found")
        return {}, "unauthorized"

    # a provider's own page

    async def set_client(self, tenant: str, provider: str, given: JSON) -> str:
        """Keep what the provider knows this server by (a client's id and secret), in the place of what was there."""
        one, bare, oauth = self._oauth(tenant, provider)
        filled = checked_form(oauth.client_schema, given, what=f"the OAuth client of {provider!r}")
        name = f"{one.plugin_id}/{bare}"
        known = next((each.id for each, value in self._directory.of(tenant, OAuthClient) if value.provider == name), "")
        return await self._rows.keep(tenant, OAuthClient.kind, name, filled, OAuthClient(provider=name), id=known)

    def ticket(self, tenant: str, provider: str, name: str, user: str = "") -> str:
        """What lets somebody's browser go to the provider's page. Raises NotFoundError, InvokeBadRequestError."""
        one, bare, _ = self._oauth(tenant, provider)
        self._client(tenant, f"{one.plugin_id}/{bare}")
        ticket = Ticket(
            tenant=tenant, provider=f"{one.plugin_id}/{bare}", name=name, user=user,
            until=self._clock.time() + _TICKET_SECONDS,
        )  # fmt: skip
        body = base64.urlsafe_b64encode(msgspec.json.encode(ticket)).decode().rstrip("=")
        return f"{body}.{self._keys.digest(f'oauth:{body}'.encode()).partition(':')[2]}"

    def read(self, text: str) -> Ticket:
        """Raises InvokeBadRequestError for one that is not ours, or whose time is over."""
        body, _, said = text.partition(".")
        wrong = InvokeBadRequestError("this address is not, or no longer, good: begin anew", param="ticket")
        if not self._keys.matches_any(f"oauth:{body}".encode(), said):
            raise wrong
        try:
            ticket = msgspec.json.decode(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)), type=Ticket)
        except (msgspec.DecodeError, binascii.Error) as error:
            raise wrong from error
        if ticket.until < self._clock.time() or self._directory.shuts_out(ticket.tenant, ticket.user):
            raise wrong
        return ticket

    async def page(self, ticket: Ticket, redirect: str) -> str:
        """Where the provider asks. Raises PluginError, NotFoundError."""
        told = await self._asked(ticket.tenant, ticket.provider, "get_authorization_url", redirect, {})
        url = str(told.get("authorization_url") or "")
        if not url.startswith(("https://", "http://")):
            raise InvokeBadRequestError(f"the plugin names no page to go to: {url[:80]!r}")
        return url

    async def finish(self, ticket: Ticket, redirect: str, raw_request: bytes) -> str:
        """Keep what the provider's answer is worth: the credential's id. Raises PluginError."""
        more = {"raw_http_request": raw_request.hex()}
        told = await self._asked(ticket.tenant, ticket.provider, "get_credentials", redirect, more)
        value = ToolCredential(
            provider=ticket.provider, type="oauth2", user=ticket.user, expires_at=float(told.get("expires_at") or -1)
        )
        given = told.get("credentials") or {}
        name = f"{ticket.provider}: {ticket.name}" + (f" ({ticket.user})" if ticket.user else "")
        known = next((one.id for one, _ in self._directory.of(ticket.tenant, ToolCredential) if one.name == name), "")
        return await self._rows.keep(ticket.tenant, ToolCredential.kind, name, given, value, id=known)

    async def _refreshed(self, tenant: str, known: Known, value: ToolCredential) -> JSON:
        """The credential with another token, whoever asks first; the old one where that fails and it still holds."""
        async with self._locks.setdefault(known.id, asyncio.Lock()):
            now = self._directory.one(tenant, ToolCredential, known.id) or value
            held: JSON = self._rows.read(tenant, ToolCredential.kind, known.id, now.secret)
            if now.expires_at < 0 or now.expires_at >= self._clock.time() + _EARLY_SECONDS:
                return held  # somebody was quicker
            try:
                told = await self._asked(tenant, value.provider, "refresh_credentials", "", {"credentials": held})
            except ModelyardError as error:
                if now.expires_at > self._clock.time():
                    fields = {"credential": known.id, "error": str(error)}
                    logger.warning("a token could not be fetched anew", extra={"fields": fields})
                    return held
                raise
            fresh: JSON = told.get("credentials") or held
            changed = msgspec.structs.replace(now, expires_at=float(told.get("expires_at") or -1))
            await self._rows.keep(tenant, ToolCredential.kind, known.name, fresh, changed, id=known.id)
            return fresh

    async def _asked(self, tenant: str, provider: str, action: str, redirect: str, more: JSON) -> JSON:
        one, bare, _ = self._oauth(tenant, provider)
        client = self._client(tenant, provider)
        data = {"provider": bare, "redirect_uri": redirect, "system_credentials": client, **more}
        return await self._plugins.one(tenant, one.plugin_id, "oauth", action, data)

    def _client(self, tenant: str, provider: str) -> JSON:
        for known, value in self._directory.of(tenant, OAuthClient):
            if value.provider == provider:
                return self._rows.read(tenant, OAuthClient.kind, known.id, value.secret)
        raise NotFoundError(
            f"no OAuth client of {provider!r} is set up: `modelyard plugin credential client` keeps its id and secret",
            code="oauth_client_not_found",
        )

    def _oauth(self, tenant: str, provider: str) -> tuple[HasDeclaration, str, OAuth]:
        """Raises NotFoundError, InvokeBadRequestError."""
        one, bare = self._plugins.provider(tenant, provider)
        oauth = one.declaration.oauth
        if oauth is None:
            raise InvokeBadRequestError(f"{provider!r} knows no OAuth: its credentials are a form")
        return one, bare, oauth


def checked_form(fields: Sequence[Field], given: JSON, *, what: str) -> JSON:
    """The fields that the form has, with its defaults. Raises InvokeBadRequestError for one that is missing."""
    filled: JSON = {}
    for field in fields:
        value = given.get(field.name, field.default)
        if value in (None, ""):
            if field.required:
                raise InvokeBadRequestError(f"{what}: {field.name!r} is missing", param=field.name)
            continue
        filled[field.name] = value
    return filled
