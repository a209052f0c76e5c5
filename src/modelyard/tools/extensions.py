"""API extensions: HTTP endpoints of a tenant that apps call before and after a model,
for moderation and external data."""

from collections.abc import Mapping
from typing import Any

import msgspec

from modelyard.base.bounded_json import BodyError, check_value_count
from modelyard.base.errors import NotFoundError
from modelyard.tenancy.resource_types import ToolProvider
from modelyard.tools.api import Auth
from modelyard.tools.entities import ToolInvokeError
from modelyard.tools.provider_store import ProviderStore, Secret, check_name
from modelyard.transport.egress import EgressClient


class ApiExtensions:
    """The API extensions of all tenants. They are stored like tool providers, but have
    no tools."""

    def __init__(self, store: ProviderStore, egress: EgressClient) -> None:
        self._store = store
        self._egress = egress

    async def add(self, tenant: str, name: str, url: str, key: str = "") -> str:
        """Add an extension after it has answered a ping. Returns the row's id. Raises
        ToolInvokeError or EgressError."""
        check_name(name)
        secret = Secret(auth=Auth(type="bearer", value=key))
        answer = await self._request(url, secret, "ping", {})
        if answer.get("result") != "pong":
            raise ToolInvokeError(f"{url[:200]} does not answer 'ping' with 'pong'")
        provider = ToolProvider(type="extension", url=url)
        return await self._store.save(tenant, name, provider, secret, b"{}")

    async def extend(
        self, tenant: str, name: str, point: str, params: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Call an extension at an extension point and return its answer. If the tenant
        has only one, any name refers to it.

        Raises NotFoundError, ToolInvokeError or EgressError.
        """
        extensions = [
            (row, provider)
            for row, provider in self._store.all(tenant)
            if provider.type == "extension"
        ]
        extension = next(
            (pair for pair in extensions if name in (pair[0].id, pair[0].name)), None
        )
        # An imported app names an extension by an id that does not exist here; with
        # only one, the choice is clear.
        extension = extension or (extensions[0] if len(extensions) == 1 else None)
        if extension is None:
            raise NotFoundError(
                f"API extension {name[:80]!r} does not exist",
                code="extension_not_found",
            )
        row, provider = extension
        return await self._request(
            provider.url, self._store.secret(tenant, row.id, provider), point, params
        )

    async def _request(
        self, url: str, secret: Secret, point: str, params: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Send a request to an extension. Raises ToolInvokeError if the answer is not a
        JSON object."""
        headers = [("content-type", "application/json")]
        if secret.auth.value:
            headers.append(("authorization", f"Bearer {secret.auth.value}"))
        body = msgspec.json.encode({"point": point, "params": dict(params)})
        answer = await self._egress.fetch(
            "POST", url, headers=headers, body=body, read=60.0, max_bytes=4 << 20
        )
        if answer.status >= 300:
            raise ToolInvokeError(f"{url[:200]} returned status {answer.status}")
        try:
            check_value_count(answer.body)
            return msgspec.json.decode(answer.body, type=dict[str, Any])
        except (BodyError, msgspec.MsgspecError) as error:
            raise ToolInvokeError(f"{url[:200]} returned no JSON object") from error
