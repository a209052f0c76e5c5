"""Admin routes that prepare OAuth connections of users' accounts."""

from collections.abc import Callable
from dataclasses import dataclass

from modelyard.base.fields import optional_field, required_field
from modelyard.gateway.admin.plugin_shapes import ConnectionStart, CreatedOAuthClient
from modelyard.gateway.admin.requests import tenant_of
from modelyard.gateway.http import Reply, Request, json_reply
from modelyard.gateway.plugins.oauth import BEGIN, redirect_uri
from modelyard.tenant_plugins.credentials import PluginCredentials


@dataclass(frozen=True, slots=True)
class OAuthSetup:
    """Routes for this server's OAuth clients and for the URLs that start a connection."""

    credentials: PluginCredentials
    origin: Callable[[], str]

    async def set_client(self, request: Request) -> Reply:
        """Store the OAuth client that a provider issued for this server.

        Raises InvokeBadRequestError, NotFoundError.
        """
        tenant, body = tenant_of(request), await request.json()
        provider = required_field(body, "provider", str)
        client_id = await self.credentials.set_client(
            tenant, provider, optional_field(body, "values", dict) or {}
        )
        # The redirect URI has to be registered with the provider, so it is part of the
        # response.
        return json_reply(
            CreatedOAuthClient(
                id=client_id, redirect_uri=redirect_uri(self.origin(), provider)
            ),
            status=201,
        )

    async def connect(self, request: Request) -> Reply:
        """Return the URL that a user opens in a browser to connect an account.

        Raises InvokeBadRequestError.
        """
        tenant, body = tenant_of(request), await request.json()
        provider, user = (
            required_field(body, "provider", str),
            optional_field(body, "user", str) or "",
        )
        # The ticket carries tenant, provider and user, because the browser has no API
        # key.
        ticket = self.credentials.ticket(
            tenant, provider, optional_field(body, "name", str) or provider, user
        )
        return json_reply(
            ConnectionStart(url=f"{self.origin()}{BEGIN}{ticket}"), status=201
        )
