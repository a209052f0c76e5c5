"""What administrators set up so that people can connect accounts on providers' own pages."""

from collections.abc import Callable
from dataclasses import dataclass

from modelyard.base.fields import may, need
from modelyard.gateway.admin.plugin_shapes import ClientMade, ConnectionBegun
from modelyard.gateway.admin.requests import tenant_of
from modelyard.gateway.http import Reply, Request, json_reply
from modelyard.gateway.plugins.oauth import BEGIN, redirect_of
from modelyard.tenant_plugins.credentials import PluginCredentials


@dataclass(frozen=True, slots=True)
class OAuthSetUp:
    """Clients of this server at providers, and addresses that people open to connect an account."""

    credentials: PluginCredentials
    origin: Callable[[], str]

    async def set_client(self, request: Request) -> Reply:
        """Raises InvokeBadRequestError, NotFoundError."""
        tenant, body = tenant_of(request), await request.json()
        provider = need(body, "provider", str)
        made = await self.credentials.set_client(tenant, provider, may(body, "values", dict) or {})
        return json_reply(ClientMade(id=made, redirect_uri=redirect_of(self.origin(), provider)), status=201)

    async def connect(self, request: Request) -> Reply:
        """An address for a person's browser. Raises InvokeBadRequestError."""
        tenant, body = tenant_of(request), await request.json()
        provider, user = need(body, "provider", str), may(body, "user", str) or ""
        ticket = self.credentials.ticket(tenant, provider, may(body, "name", str) or provider, user)
        return json_reply(ConnectionBegun(url=f"{self.origin()}{BEGIN}{ticket}"), status=201)
