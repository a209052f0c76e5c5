"""API extensions: what apps ask before and after a model, at an address that a tenant added."""

from collections.abc import Mapping
from typing import Any

import msgspec

from modelyard.base.bodies import BodyError, check_amount
from modelyard.base.errors import NotFoundError
from modelyard.tenancy.kinds import ToolProvider
from modelyard.tools.api import Auth
from modelyard.tools.entities import ToolInvokeError
from modelyard.tools.provider_store import ProviderStore, Secret, check_name
from modelyard.transport.egress import Egress


class ApiExtensions:
    """Those of every tenant. They are stored as tool providers are, and offer no tools."""

    def __init__(self, store: ProviderStore, egress: Egress) -> None:
        self._store = store
        self._egress = egress

    async def add(self, tenant: str, name: str, url: str, key: str = "") -> str:
        """An API that apps' moderation and data come from; it has to answer a ping. Raises ToolInvokeError,
        EgressError."""
        check_name(name)
        secret = Secret(auth=Auth(type="bearer", value=key))
        answer = await self._asked(url, secret, "ping", {})
        if answer.get("result") != "pong":
            raise ToolInvokeError(f"{url[:200]} does not answer a ping with pong")
        return await self._store.keep(tenant, name, ToolProvider(type="extension", url=url), secret, b"{}")

    async def extend(self, tenant: str, name: str, point: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """What an extension says at a point. Where a tenant has only one, it stands for any name. Raises
        NotFoundError, ToolInvokeError, EgressError."""
        every = [(known, stored) for known, stored in self._store.all(tenant) if stored.type == "extension"]
        found = next((one for one in every if name in (one[0].id, one[0].name)), None)
        found = found or (every[0] if len(every) == 1 else None)
        if found is None:
            raise NotFoundError(f"API extension {name[:80]!r} does not exist", code="extension_not_found")
        known, stored = found
        return await self._asked(stored.url, self._store.secret(tenant, known.id, stored), point, params)

    async def _asked(self, url: str, secret: Secret, point: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        headers = [("content-type", "application/json")]
        if secret.auth.value:
            headers.append(("authorization", f"Bearer {secret.auth.value}"))
        body = msgspec.json.encode({"point": point, "params": dict(params)})
        answer = await self._egress.fetch("POST", url, headers=headers, body=body, read=60.0, most_bytes=4 << 20)
        if answer.status >= 300:
            raise ToolInvokeError(f"{url[:200]} answers with status {answer.status}")
        try:
            check_amount(answer.body)
            return msgspec.json.decode(answer.body, type=dict)
        except (BodyError, msgspec.MsgspecError) as error:
            raise ToolInvokeError(f"{url[:200]} answers with no JSON object") from error
